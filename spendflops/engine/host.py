"""The machine that a process runs on, as the accounts see it."""

from __future__ import annotations

import os

import jax

from spendflops.accounts.machines import Host


def this_host() -> Host:
    """Devices of JAX, cores and memory of this machine."""
    devices = jax.devices()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    return Host(kind=devices[0].device_kind, devices=len(devices), cores=os.cpu_count() or 1, memory=memory)
