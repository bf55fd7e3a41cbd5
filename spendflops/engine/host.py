"""The machine that a process runs on, as the accounts see it, and the memory that the process may have of it."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path

import jax

from spendflops.accounts.machines import Host

UNLIMITED = 2**60
"""cgroup v1 writes "no limit" as a number that no machine has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """Bytes of memory, and what sets them."""

    size: int
    source: str


def this_host() -> Host:
    """Devices of JAX, cores and memory of this machine."""
    devices, limits = jax.devices(), memory_limits()
    size = min((limit.size for limit in limits), default=None)
    return Host(kind=devices[0].device_kind, devices=len(devices), cores=os.cpu_count() or 1, memory=size)


def memory_limits(root: Path = Path("/")) -> list[Limit]:
    """What bounds the memory of this process: the machine, the groups that it is in, ``ulimit -v``. The least counts.

    A job of Slurm and a container are groups (cgroups): they have less than the machine, and are killed beyond it.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    found = []
    try:
        pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found.append(Limit(size=pages, source="this machine"))
    except (ValueError, OSError):
        pass
    for file in _group_files(root):
        try:
            text = file.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < UNLIMITED:  # "max" is none
            found.append(Limit(size=int(text), source=f"its group, {file}"))
    size, _ = resource.getrlimit(resource.RLIMIT_AS)
    if size != resource.RLIM_INFINITY:
        found.append(Limit(size=size, source="ulimit -v"))
    return found


def _group_files(root: Path) -> list[Path]:
    """Files with the limits of this process's groups and of those around them, of both versions of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    mount, found = root / "sys/fs/cgroup", []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / path.lstrip("/")
        found += [folder / name for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return found
