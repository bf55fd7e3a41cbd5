"""Energy that counters measured while a run was worked on: ``energy.json`` in its folder, a row an attempt."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from spendflops.accounts.energy import Meter
from spendflops.engine.rundir import read_json, write_atomically

FILE = "energy.json"
EVERY = 10.0
"""Seconds between two readings: a counter must not go round unseen, and a killed attempt loses no more than these."""


def this_meter() -> Meter:
    """The counters of the devices of this process."""
    devices = jax.local_devices()
    return Meter(devices[0].device_kind, len(devices))


@contextlib.contextmanager
def metered(folder: Path, meter: Meter | None = None, *, every: float = EVERY) -> Iterator[None]:
    """Reads the counters while the block runs, and keeps what they say in the run's folder."""
    meter = meter or this_meter()
    attempts = read_json(folder / FILE) or []
    # Nobody reads the counters of other hosts: then what is read is not the run's energy.
    others = {"other hosts": "not read"} if jax.process_count() > 1 else {}
    started, stop = time.perf_counter(), threading.Event()
    lock = threading.Lock()

    def keep(*, closed: bool) -> None:
        with lock:
            joules = meter.joules()
            row = {
                "seconds": time.perf_counter() - started,
                "joules": joules,
                "missing": {**meter.missing, **others},
                "complete": meter.complete and not others,
                "closed": closed,
            }
            write_atomically(folder / FILE, json.dumps([*attempts, row], indent=1, sort_keys=True))

    def watch() -> None:
        while not stop.wait(every):
            # A disk that is full is the run's to report.
            with contextlib.suppress(Exception):
                keep(closed=False)

    keep(closed=False)
    thread = threading.Thread(target=watch, name="energy", daemon=True)
    if meter.counters:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if meter.counters:
            thread.join()
        with contextlib.suppress(Exception):
            keep(closed=True)
        meter.close()


def measured(folder: Path) -> dict[str, Any]:
    """What was measured: ``kwh`` (None with a ``reason``), ``seconds`` that it covers, ``counters``, ``missing``."""
    attempts: list[dict[str, Any]] = read_json(folder / FILE) or []
    counters = sorted({name for row in attempts for name in row["joules"]})
    missing = {name: why for row in attempts for name, why in row["missing"].items()}
    reason = ""
    if not attempts:
        reason = "nothing was read"
    elif not all(row["complete"] for row in attempts):
        reason = "; ".join(f"{name}: {why}" for name, why in missing.items())
    elif len({tuple(sorted(row["joules"])) for row in attempts}) > 1:
        reason = "its attempts had different counters"
    joules = sum(value for row in attempts for value in row["joules"].values())
    if not reason and joules <= 0:
        reason = "the counters did not move"
    killed = sum(not row["closed"] for row in attempts[:-1])
    return {
        "kwh": None if reason else joules / 3.6e6,
        "reason": reason,
        "seconds": sum(row["seconds"] for row in attempts),
        "counters": counters,
        "missing": missing,
        "note": f"{killed} attempts were killed: up to {EVERY:g} s of each are not in it" if killed else "",
    }
