"""Checkpoints while a stage trains, and the rows of the ledger that they make permanent."""

from __future__ import annotations

import time
from typing import Any

from spendflops.accounts.ledger import Ledger
from spendflops.engine import accounting
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.program import Program
from spendflops.engine.rundir import Progress


class Saving:
    """Saves beside the training, and writes the row of a checkpoint as soon as the checkpoint is whole.

    A process that is killed in between loses no row: the next one finds the checkpoint (:func:`accounting.settle`).

    Args:
        checkpoints, ledger, progress: Of the stage.
        role, program: Of the rows.
        attempt: Number of this attempt.
        seconds: What earlier attempts spent on steps that no row holds yet.
    """

    def __init__(
        self, checkpoints: Checkpoints, ledger: Ledger, progress: Progress, *, role: str, program: Program,
        attempt: int, seconds: float,
    ):  # fmt: skip
        self._checkpoints, self._ledger, self._progress = checkpoints, ledger, progress
        self._role, self._program, self._attempt = role, program, attempt
        self._started, self._step = time.perf_counter() - seconds, 0
        self._due: tuple[int, float] | None = None

    def reached(self, step: int) -> None:
        """Notes how far the training is: a few microseconds.

        Raises:
            errors.DataError: The disk did not take the last checkpoint.
        """
        self._step = step
        if self._due is not None and self._checkpoints.idle():
            self.close()
        self._note()

    def save(self, step: int, state: Any, *, row: bool) -> None:
        """Begins a checkpoint, with or without a row up to it.

        Raises:
            errors.DataError: The disk did not take the checkpoint before.
        """
        self.close()
        self._checkpoints.begin(step, state)
        if row:
            self._due = step, self._elapsed()

    def count(self, step: int) -> None:
        """Writes a row up to ``step``, where no checkpoint will be."""
        self.close()
        self._due = step, self._elapsed()
        self.close()

    def excuse(self, seconds: float) -> None:
        """Takes out of the row what was no training."""
        self._started += seconds

    def close(self) -> None:
        """Waits for the last checkpoint and writes its row; one that the disk did not take has none.

        Raises:
            errors.DataError: It did not.
        """
        due, self._due = self._due, None
        self._checkpoints.wait()
        if due is not None:
            last, seconds = due
            accounting.record(self._ledger, self._role, self._program, last=last, seconds=seconds)
            self._started += seconds
            self._note()

    def _note(self) -> None:
        self._progress.write(self._attempt, self._step, self._elapsed())

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started
