"""What an installation has: versions, devices, fast paths, memory, counters of energy, and how a folder behaves."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spendflops.engine import disk
from spendflops.engine.rundir import PACKAGES

OPTIONAL = {
    "pyarrow": "data in parquet files",
    "tokenizers": "tokenizers of others",
    "pycocotools": "COCO AP",
    "faster-coco-eval": "a faster COCO AP",
    "nvidia-ml-py": "energy of boards of NVIDIA",
    "submitit": "workers as Slurm jobs",
}
FLAGS = {"amx_bf16": "bf16 by AMX", "avx512_bf16": "bf16 by AVX-512", "avx512f": "AVX-512", "avx2": "AVX2"}
ROOM = 10**9
"""Bytes below which a disk is called full."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: Of the installation.
        name: What.
        value: What was found; numbers are in the unit of the name.
        ok: False for what will break runs; None where there is nothing to judge.
        note: Why, or what to do.
    """

    part: str
    name: str
    value: Any
    ok: bool | None = None
    note: str = ""


def checkup(folder: Path) -> list[Finding]:
    """Looks at everything.

    Args:
        folder: Where runs are to be kept; it exists.
    """
    parts = (_versions, _devices, _fast_paths, _memory, _counters)
    return [finding for part in parts for finding in part()] + list(_folder(folder))


def _versions() -> Iterator[Finding]:
    yield Finding(part="versions", name="python", value=sys.version.split()[0], ok=sys.version_info >= (3, 11))
    yield Finding(part="versions", name="system", value=platform.platform())
    for name in PACKAGES:
        yield Finding(part="versions", name=name, value=_version(name), ok=_version(name) is not None)
    for name, use in OPTIONAL.items():
        yield Finding(part="versions", name=name, value=_version(name), note=use)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Finding(part="devices", name="jax", value=None, ok=False, note=str(error).splitlines()[0])
        return
    yield Finding(part="devices", name="backend", value=jax.default_backend())
    for device in devices:
        limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
        yield Finding(part="devices", name=f"device {device.id}", value=device.device_kind, note=_gigabytes(limit))


def _fast_paths() -> Iterator[Finding]:
    import jax

    from spendflops.engine.data import readers

    flags = _flags()
    for flag, use in FLAGS.items() if jax.default_backend() == "cpu" else ():
        yield Finding(part="fast paths", name=use, value=flag in flags)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = pages.read_text(encoding="utf-8").partition("[")[2].partition("]")[0] if pages.exists() else None
    yield Finding(part="fast paths", name="huge pages", value=chosen, note="`study` and `train` ask for them")
    yield Finding(part="fast paths", name="readers of data", value=str(readers()))
    folder = jax.config.jax_compilation_cache_dir
    kept = bool(folder) and os.access(Path(folder) if Path(folder).exists() else Path(folder).parent, os.W_OK)
    yield Finding(part="fast paths", name="compilations are kept", value=folder if kept else None)


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), ()))


def _memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(part="memory", name="cores", value=cores, note=f"of {os.cpu_count()}")
    table = _table(Path("/proc/meminfo"))
    for name, key in (("host, bytes", "MemTotal"), ("host, free bytes", "MemAvailable")):
        if key in table:
            yield Finding(part="memory", name=name, value=1024 * table[key], note=_gigabytes(1024 * table[key]))
    from spendflops.engine.host import memory_limits

    least = min(memory_limits(), key=lambda limit: limit.size, default=None)
    if least is not None:
        note = f"{_gigabytes(least.size)}, set by {least.source}"
        yield Finding(part="memory", name="bytes that a process may have", value=least.size, note=note)


def _table(path: Path) -> dict[str, int]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line.partition(":")[0]: int(line.partition(":")[2].split()[0]) for line in lines if ":" in line}


def _counters() -> Iterator[Finding]:
    from spendflops.engine.metering import this_meter

    meter = this_meter()
    try:
        for name in meter.joules():
            yield Finding(part="energy", name=name, value=True)
        for name, why in meter.missing.items():
            yield Finding(part="energy", name=name, value=False, note=why)
    finally:
        meter.close()


def _folder(folder: Path) -> Iterator[Finding]:
    yield Finding(part="folder", name="path", value=str(folder.resolve()), note=disk.kind(folder))
    room = disk.free(folder)
    yield Finding(part="folder", name="free bytes", value=room, ok=room > ROOM, note=_gigabytes(room))
    tried: tuple[tuple[str, Callable[[Path], Any], str], ...] = (
        ("one of many makes a file (O_EXCL)", disk.exclusive, "workers of a study share its rows by it"),
        ("files are replaced whole (rename)", disk.whole, "files of a run are written so"),
        ("seconds of an fsync", disk.fsync_seconds, "every row of a ledger waits for one"),
        ("a second process is kept out (flock)", disk.locks, "else two `train` in one folder are yours to avoid"),
    )
    for name, look, use in tried:
        try:
            value = look(folder)
        except OSError as error:
            yield Finding(part="folder", name=name, value=None, ok=False, note=f"{error.strerror}; {use}")
            continue
        judged = value if look in (disk.exclusive, disk.whole) else None
        yield Finding(part="folder", name=name, value=value, ok=judged, note=use)


def _gigabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.1f} GB"
