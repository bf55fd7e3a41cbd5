"""Counters of energy: NVML for the boards that a process sees, RAPL for the processors of its host.

A counter is read at both ends of a run and in between, since RAPL's wraps around. Each counter of a host is one
process's: two runs, or the ranks of one, never count the same joules twice. A counter that is missing is named with the
reason, and is never 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
NO_NVML = "nvidia-ml-py is not installed (pip install 'spendflops[energy]')"
TAKEN = "another process of this host reads it"


class Counter:
    """One counter, from now on.

    Args:
        name: What it covers.
        read: Gives what it has counted since some time.
        per_joule: Units of ``read`` in a joule.
        wraps: Units after which it starts again; None if it does not.
    """

    def __init__(self, name: str, read: Callable[[], int], *, per_joule: int, wraps: int | None = None):
        self.name, self._read, self._per_joule, self._wraps = name, read, per_joule, wraps
        self._last, self._total = read(), 0

    def joules(self) -> float:
        """Since it was made. A counter that wraps must be read before it has gone round once."""
        now = self._read()
        passed = now - self._last
        if passed < 0:
            if self._wraps is None:
                raise OSError(f"{self.name} went backwards")
            passed += self._wraps
        self._last = now
        self._total += passed
        return self._total / self._per_joule


class Meter:
    """The counters of this process.

    Args:
        kind: ``device_kind`` of its JAX devices.
        devices: How many it sees.
        environ: Environment, for ``CUDA_VISIBLE_DEVICES``.
        nvml: The module ``pynvml``; None imports it.
        powercap: Where RAPL is.
        locks: Folder of the files that make a counter one process's.

    Attributes:
        counters: By name.
        missing: What is not counted -> why.
        complete: Whether the devices that compute are counted.
    """

    def __init__(
        self,
        kind: str,
        devices: int,
        *,
        environ: Mapping[str, str] = os.environ,
        nvml: Any = None,
        powercap: Path = POWERCAP,
        locks: Path | None = None,
    ):
        self.counters: dict[str, Counter] = {}
        self.missing: dict[str, str] = {}
        self._held = contextlib.ExitStack()
        self._locks = Path(tempfile.gettempdir()) if locks is None else locks
        if "nvidia" in kind.lower() or "tesla" in kind.lower():
            self._boards(devices, environ, nvml)
        elif kind != "cpu":
            self.missing[kind] = "a counter of these devices is not known here"
        boards = list(self.counters)
        self._processors(powercap)
        self.complete = not self.missing if kind == "cpu" else len(boards) == devices

    def joules(self) -> dict[str, float]:
        """By counter, since the meter was made; a counter that can no longer be read moves to ``missing``."""
        read = {}
        for name, counter in list(self.counters.items()):
            try:
                read[name] = counter.joules()
            except Exception as error:
                self._lose(name, f"it could be read at first, then not: {error}")
                self.complete = False
        return read

    def close(self) -> None:
        """Gives the counters back."""
        self._held.close()

    def _add(self, name: str, read: Callable[[], int], *, per_joule: int, wraps: int | None = None) -> None:
        if not self._claim(name):
            self.missing[name] = TAKEN
            return
        try:
            self.counters[name] = Counter(name, read, per_joule=per_joule, wraps=wraps)
        except Exception as error:
            self.missing[name] = f"it cannot be read: {error}"

    def _lose(self, name: str, reason: str) -> None:
        del self.counters[name]
        self.missing[name] = reason

    def _claim(self, name: str) -> bool:
        """Takes the lock of a counter; the system drops that of a process that is gone."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        try:
            descriptor = os.open(self._locks / f"spendflops-energy-{digest}.lock", os.O_CREAT | os.O_RDONLY, 0o644)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._held.callback(os.close, descriptor)
        return True

    def _boards(self, devices: int, environ: Mapping[str, str], nvml: Any) -> None:
        try:
            nvml = importlib.import_module("pynvml") if nvml is None else nvml
            nvml.nvmlInit()
            self._held.callback(nvml.nvmlShutdown)
            handles = _visible(nvml, environ)
        except ImportError:
            self.missing["NVML"] = NO_NVML
            return
        except Exception as error:
            self.missing["NVML"] = str(error)
            return
        if len(handles) != devices:
            self.missing["NVML"] = f"it sees {len(handles)} boards where JAX sees {devices}"
            return
        for handle in handles:
            uuid = nvml.nvmlDeviceGetUUID(handle)
            self._add(f"NVML {uuid}", lambda h=handle: nvml.nvmlDeviceGetTotalEnergyConsumption(h), per_joule=10**3)

    def _processors(self, powercap: Path) -> None:
        zones = sorted(path for path in powercap.glob("intel-rapl:*") if (path / "energy_uj").exists())
        # Of a package, `core` and `uncore` are parts, and `psys` is the sum; its memory is not in it.
        wanted = [zone for zone in zones if _word(zone / "name").startswith(("package", "dram"))]
        if not wanted:
            self.missing["RAPL"] = f"there is no zone of a processor in {powercap}"
        for zone in wanted:
            name = f"RAPL {zone.name} {_word(zone / 'name')}"
            wraps = int(_word(zone / "max_energy_range_uj"))
            self._add(name, lambda file=zone / "energy_uj": int(_word(file)), per_joule=10**6, wraps=wraps)


def _word(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


def _visible(nvml: Any, environ: Mapping[str, str]) -> list[Any]:
    """Handles of the boards that CUDA shows to this process.

    Raises:
        LookupError: It cannot be known which these are.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return handles
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    if any(word.startswith("MIG") for word in words):
        raise LookupError("a part of a board (MIG) has no counter of its own")
    numbers = [word for word in words if word.lstrip("-").isdigit()]
    names = {nvml.nvmlDeviceGetName(handle) for handle in handles}
    if numbers and len(names) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise LookupError("boards differ, and CUDA numbers them in another order; set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    found = []
    for word in words:
        if word == "-1":
            break  # CUDA sees nothing from the first invalid entry on
        if word.isdigit():
            found.append(handles[int(word)])
        else:
            found += [handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(word)]
    return found
