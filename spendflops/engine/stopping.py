"""Signals that ask a run to save and leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from spendflops.contracts import errors
from spendflops.engine import hosts


class StopRequest:
    """SIGTERM and SIGINT ask the loop to save and leave; a second SIGINT ends at once.

    One that listens inside another, as a run inside a study, takes over what the other has noted, and leaves it what it
    has noted itself: a signal that comes when the last step of a run is done ends the study before the next run.
    """

    _listening: ClassVar[list[StopRequest]] = []

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Installs the handlers for the time of a run (in the main thread: others cannot)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def note(number: int, frame: Any) -> None:
            if self.signal == signal.SIGINT == number:
                raise KeyboardInterrupt
            self.signal = number

        outer = self._listening[-1:]
        for other in outer:
            self.signal = self.signal or other.signal
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
        self._listening.append(self)
        try:
            yield self
        finally:
            self._listening.pop()
            for number, handler in before.items():
                signal.signal(number, handler)
            for other in outer:
                other.signal = other.signal or self.signal

    def after(self, stage: str, done: int) -> bool:
        """Whether to stop after ``done`` steps of a stage: at the same one on all hosts."""
        number = hosts.stops(stage, done, self.signal)
        self.signal = number or self.signal
        return number is not None

    def anywhere(self) -> bool:
        """Whether to stop here, where all hosts are."""
        self.signal = hosts.largest(self.signal or 0) or None
        return self.signal is not None

    def error(self, where: str) -> errors.SpendflopsError:
        """The error to leave with."""
        kind = errors.Preempted if self.signal == signal.SIGTERM else errors.Interrupted
        return kind(f"stopped at {where}, everything is saved", fix="the same command goes on from here")
