"""Several processes that train one model together, one a host or one a device: how they meet, what they agree on.

Each computes the same programs on its own devices and reads its own rows of every batch. The first keeps the run
directory; the others keep what they would write in a folder of their own that goes when they do, so that nothing else
in the engine asks who it is. Checkpoints are written and read by all, in the run directory, which all of them see.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from spendflops.contracts import errors

TOLD = ("config.json", "result.json", "ledger.jsonl", "probes.jsonl", "logs/skipped-*.json")
"""What the others have to know of a run that goes on: all that decides what is computed."""
LONG = 24 * 3600 * 1000
"""Milliseconds: who waits is ended by the coordination service when another process is gone, not by a clock."""
GONE = ("Gloo", "NCCL", "ncclRemoteError", "coordination service", "Socket closed", "Connection reset")
"""What runtimes say of a process that is not there any more."""
_numbers = itertools.count()
_kept: list[Any] = []


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> bool:
    """Meets the other processes of a job, before anything asks for devices; says whether there are any.

    Args:
        coordinator: ``address:port`` of the first process; ``"auto"`` leaves everything to JAX's own detection, which
            knows Slurm, Open MPI, Kubernetes and TPU pods. None meets nobody, unless Slurm's ``srun`` or ``mpirun``
            started more than one process, or ``JAX_COORDINATOR_ADDRESS`` is set.
        processes: Their number.
        process: Which of them this is, from 0.

    Raises:
        errors.ConfigError: A part is missing, or they do not find each other.
    """
    given = (coordinator, processes, process)
    if coordinator in (None, "auto") and (processes, process) != (None, None):
        raise errors.ConfigError("--num_processes or --process_id without --coordinator", fix="give all three")
    if coordinator not in (None, "auto") and None in given:
        raise errors.ConfigError(f"--coordinator {coordinator} alone", fix="--num_processes and --process_id, too")
    started = max(int(os.environ.get(name, "1")) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if coordinator is None and started < 2 and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler of SIGTERM would stand in the way of the loop's own.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*(given if coordinator != "auto" else ()))
    except (RuntimeError, ValueError) as error:
        raise errors.ConfigError(
            "the processes of this job do not find each other",
            why=str(error).splitlines()[0],
            fix="--coordinator FIRST_HOST:PORT --num_processes N --process_id I, with a port that all hosts reach",
        ) from error
    if several():
        _end_by_code()
    return several()


def joined() -> bool:
    """Whether :func:`join` met others; asks for no devices."""
    return bool(_kept)


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def _client() -> Any:
    # No public name: the table of the coordination service, which needs no devices.
    from jax._src.distributed import global_state

    return global_state.client


def agree(value: Any) -> Any:
    """The first process's value, on all. All call it, in the same order. JSON."""
    if not several():
        return value
    key = f"spendflops/agreed/{next(_numbers)}"
    if first():
        _client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(key, LONG))


def largest(value: int) -> int:
    """The largest of the processes' numbers. All call it, at the same place."""
    return int(multihost_utils.process_allgather(value).max()) if several() else value


def union(values: Collection[int], most: int) -> list[int]:
    """The numbers, from 0, that any process has, in order. All call it, at the same place.

    Args:
        values: Of this process; below 2³² - 1.
        most: How many each gives at most: its smallest.
    """
    if not several():
        return sorted(values)
    # Beginning with 1: 0 is none. Of 64 bits JAX would keep 32.
    row = np.zeros(most, np.uint32)
    row[: len(values)] = [value + 1 for value in sorted(values)[:most]]
    return [int(value) - 1 for value in np.unique(multihost_utils.process_allgather(row)) if value]


def stops(stage: str, done: int, number: int | None) -> int | None:
    """The signal at which all processes stop after ``done`` steps of a stage; None to go on. Asked after every step.

    Args:
        stage: Its name.
        done: Steps that were started.
        number: The signal that this process got.
    """
    if not several():
        return number
    key = f"spendflops/stop/{stage}"
    if number is not None:
        # The loop looks at results one step late, so nobody is more than one step ahead: in two, all have read it.
        with contextlib.suppress(Exception):  # another process was asked first
            _client().key_value_set(key, f"{done + 2} {number}")
    try:
        step, number = map(int, _client().key_value_try_get(key).split())
    except Exception:  # there is nothing: the service says it with an error of its own
        return None
    return number if done >= step else None


@contextlib.contextmanager
def folder(workdir: str | os.PathLike[str]) -> Iterator[Path]:
    """Where this process keeps its part of a run: the run directory, or, if it is not the first, one of its own."""
    home = Path(workdir)
    if not several():
        yield home
        return
    found = sorted(path for name in TOLD for path in home.glob(name)) if first() else ()
    told = agree({str(path.relative_to(home)): path.read_text(encoding="utf-8") for path in found})
    if first():
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="spendflops-") as made:
        for name, text in told.items():
            (Path(made) / name).parent.mkdir(exist_ok=True)
            (Path(made) / name).write_text(text, encoding="utf-8")
        yield Path(made)


def lost(error: Exception) -> errors.HostLost | None:
    """The error to show where another process is gone; None for every other error."""
    text = str(error)
    if not several() or isinstance(error, errors.SpendflopsError) or not any(word in text for word in GONE):
        return None
    return errors.HostLost(
        "another process of this job is gone",
        why=text.splitlines()[0][:200],
        fix="the same command, on all hosts, goes on from the last checkpoint",
    )


def _end_by_code() -> None:
    """Where JAX's coordination service ends a process, since another is gone, that is a job to start again: code 75.

    It calls abort(), and takes no function to call instead (jaxlib 0.10 dies of the one that it lets pass). An abort
    for another reason looks the same, and is told by what it prints.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: os._exit(errors.HostLost.exit_code))
    _kept.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def leave(code: int) -> None:
    """Ends this process with an exit code, whatever the others do; returns where there are none or all is well."""
    if not joined() or code == 0:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if code != errors.HostLost.exit_code:
        # An error that all have is each one's own; one that only this process has ends the others with 75.
        with contextlib.suppress(Exception):
            _client().wait_at_barrier("spendflops/leave", 5000)
            time.sleep(0.5 if first() else 0)
    os._exit(code)
