"""Who works on what: workers on one folder, with nothing but files, on any file system where O_EXCL and rename hold.

A claim is a file ``claims/<name>/<number>``, made with O_EXCL: of all workers that want it, one gets it. The highest
number holds, and no file is ever removed or moved: a claim that is given back says so, and one whose worker is gone is
taken over by making the next number, which again one worker gets. So nobody can take away by mistake what a third one
has just taken over, as happens with a lock that is deleted.

Whether a worker is gone is seen by its beats, a counter that it writes: the others watch it change, each with its own
monotonic clock. Clocks of two machines are never compared and times of files never read, so no clock can jump. On one
machine the system knows which processes are gone, and nobody waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spendflops.engine.rundir import storage_error, write_atomically

FOLDER = "claims"
EVERY, PATIENCE = 5.0, 60.0
"""Seconds between two beats, and for how long there must be none until a claim is another's to take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """What the file of a claim says.

    Attributes:
        number: Of the claim: how often the name was claimed.
        beats: How often its worker has said that it is there.
        released: Whether it was given back.
        process: Of the worker: ``worker`` (a name), ``host``, ``pid``, and what tells machines and processes apart.
        time: Of the last beat, by the worker's clock: for people, nothing is decided by it.
    """

    number: int
    beats: int = 0
    released: bool = False
    process: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    time: float | None = None

    @property
    def gone(self) -> bool:
        """Whether the process is known to be gone, which only its own machine can know."""
        here = this_process()
        place = ("host", "boot", "pids")
        if not self.process.get("boot") or any(self.process.get(key) != here[key] for key in place):
            return False
        return _started(self.process["pid"]) != self.process["started"]


class Claims:
    """The claims in a study's folder, as one worker sees them.

    Args:
        folder: Of the study.
        every: Seconds between the beats of claims that are taken here.
        patience: Seconds without a beat until the claim of another is taken over: many times ``every``.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: float = EVERY,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.every, self.patience, self._clock = folder / FOLDER, every, patience, clock
        self._seen: dict[str, tuple[tuple[int, int], float, float]] = {}

    def holder(self, name: str) -> Holder | None:
        """The claim on a name that holds or held last; None if it was never claimed."""
        numbers = _numbers(self.folder / name)
        return _read(self.folder / name, max(numbers)) if numbers else None

    def take(self, name: str, *, lost: Callable[[], None]) -> Claim | None:
        """Claims a name, None while another worker holds it.

        Args:
            name: A file name.
            lost: Called in a thread of the claim if another worker has taken it over, which happens to a process that
                was stopped for long: nothing must be written under this name from then on.

        Raises:
            errors.DataError: The folder cannot be written.
        """
        path = self.folder / name
        try:
            last = self.holder(name)
            if last is not None and not last.released and not self._abandoned(name, last):
                return None
            path = path / str(1 if last is None else last.number + 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error
        return Claim(path, every=self.every, lost=lost)

    def _abandoned(self, name: str, last: Holder) -> bool:
        if last.gone:
            return True
        now, state = self._clock(), (last.number, last.beats)
        before, looked, unchanged = self._seen.get(name, (state, now, 0.0))
        # A look counts for one beat at most: whoever was stopped together with the others hears them again first.
        unchanged = unchanged + min(now - looked, self.every) if before == state else 0.0
        self._seen[name] = state, now, unchanged
        return unchanged >= self.patience


class Claim:
    """A claim that this process holds, until it is released or its process ends. A context manager.

    Args:
        path: Its file, made by this process.
        every: Seconds between two beats.
        lost: See :meth:`Claims.take`.
    """

    def __init__(self, path: Path, *, every: float, lost: Callable[[], None]):
        self.path, self.lost, self._every, self._lost = path, False, every, lost
        self._beats, self._stop = 0, threading.Event()
        self.beat()
        self._thread = threading.Thread(target=self._run, name=f"claim {path.parent.name}", daemon=True)
        self._thread.start()

    def beat(self, *, released: bool = False) -> None:
        """Says once more that the worker is there, or that it leaves."""
        self._beats += 1
        body = {"beats": self._beats, "released": released, "process": this_process(), "time": time.time()}
        write_atomically(self.path, json.dumps(body, sort_keys=True))

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            # A disk that is full, or away for a moment, is the run's to report; a claim without beats is another's in
            # the end, and this thread is what notices it.
            with contextlib.suppress(Exception):
                self.lost = max(_numbers(self.path.parent), default=0) > int(self.path.name)
                if not self.lost:
                    self.beat()
            if self.lost:
                return self._lost()
        return None

    def release(self) -> None:
        """Gives it back: the next worker need not wait."""
        self._stop.set()
        self._thread.join()
        if not self.lost:
            with contextlib.suppress(Exception):
                self.beat(released=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def refresh(folder: Path) -> None:
    """Makes this machine see what others have written into a folder, which it makes if it is not there.

    A network file system remembers for a while that a file was not there. What this machine itself changes in the
    folder makes it ask again.

    Raises:
        errors.DataError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".{uuid.uuid4().hex}.tmp"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        path.unlink()
    except OSError as error:
        raise storage_error(folder, error) from error


def this_process() -> dict[str, Any]:
    """What tells this process from all others, and a name for people."""
    host = socket.gethostname()
    pid = os.getpid()
    return {
        "worker": f"{host}:{pid}",
        "host": host,
        # Two containers may have one name, and a machine that was started again has the same numbers once more.
        "boot": _text("/proc/sys/kernel/random/boot_id") or f"{uuid.getnode():x}",
        "pids": os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else "",
        "pid": pid,
        "started": _started(pid),
    }


def _started(pid: int) -> str:
    """When a process of this machine was started; empty if there is none, or where the system does not say."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A zombie writes nothing any more.
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    except FileNotFoundError:
        return []


def _read(folder: Path, number: int) -> Holder:
    try:
        # Empty for a moment, or for ever if its worker ended between making and writing it: a claim without beats.
        body = json.loads((folder / str(number)).read_text(encoding="utf-8") or "{}")
    except (OSError, json.JSONDecodeError):
        body = {}
    return Holder(number=number, **body)
