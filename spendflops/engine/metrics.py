"""What a run shows while it runs: ``metrics.jsonl``, TensorBoard events, and a bar or lines on the terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spendflops.engine.data import readers
from spendflops.engine.events import Events
from spendflops.engine.rundir import storage_error, write_atomically


class MetricsLog:
    """The metrics of a run. Rows carry step, examples, FLOPs and seconds.

    Args:
        folder: The run directory.
        quiet: Shows nothing on the terminal.
    """

    def __init__(self, folder: Path, *, quiet: bool):
        self.folder, self.quiet = folder, quiet
        self.path = folder / "metrics.jsonl"
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self.bar: Progress | None = None
        self.events = Events(folder)

    def stage(self, name: str, *, steps: int, flops_per_step: int, examples_per_step: int) -> StageLog:
        """The log of one stage."""
        return StageLog(self, name, steps, flops_per_step, examples_per_step)

    def table(self, name: str, lines: list[str], *, show: Iterable[str]) -> None:
        """Writes lines to ``logs/<name>`` and shows some of them."""
        write_atomically(self.folder / "logs" / name, "".join(f"{line}\n" for line in lines))
        for line in show:
            self.say(line)

    def say(self, text: str) -> None:
        """A line on the terminal."""
        self.console.print(text, soft_wrap=True, markup=False)

    def rewind(self, stage: str, step: int) -> None:
        """Drops the rows of a stage after ``step``: those steps are done again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the half-written last line of a killed process
            if row["stage"] != stage or row["step"] <= step:
                kept.append(line)
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, row: dict[str, Any]) -> None:
        """One row to the file and to TensorBoard."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            step = numbers.pop("step")
            tagged = {f"{row['stage']}/{name}": value for name, value in numbers.items()}
            self.events.scalars(tagged, step=step, flops=row.get("flops"))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Flushes the events, and gives the terminal back its cursor."""
        if self.bar is not None:
            self.bar.stop()
        self.events.close()


WAIT = 0.05
"""Part of the time that the device may wait for data before the run says what to change."""


def advice(waited: float) -> str:
    """What to change where the device waits for data for the part ``waited`` of the time."""
    if jax.default_backend() == "cpu":
        why = "the readers share the cores with the model: more cores, or a larger model, or fewer views an image"
    else:
        why = (
            "more cores, SPENDFLOPS_WORKERS=N reader processes, images stored smaller (`spendflops data prepare`), "
            "or interpolation and operators that cost less"
        )
    return f"the model waits for data {waited:.0%} of the time ({readers()}); what helps: {why}"


class StageLog:
    """Rows of one stage. ``waited`` collects the seconds in which the device had no data."""

    def __init__(self, log: MetricsLog, name: str, steps: int, flops_per_step: int, examples_per_step: int):
        self.waited = 0.0
        self._log, self._name, self._steps = log, name, steps
        self._flops, self._examples = flops_per_step, examples_per_step
        self._last = (time.perf_counter(), 0.0, None)
        self._begun = time.perf_counter()
        self._advised = False

    def aside(self, step: int, values: dict[str, float], *, flops: int) -> None:
        """Writes values that are not of the training itself, such as a probe's; arguments as :meth:`row`'s."""
        self._log.write({**self._head(step, flops, time.perf_counter()), **values})

    def _head(self, step: int, flops: int, now: float) -> dict[str, Any]:
        """What every row carries."""
        seconds, examples = now - self._begun, step * self._examples
        return {"stage": self._name, "step": step, "examples": examples, "flops": flops, "seconds": seconds}

    def row(self, step: int, metrics: dict[str, float], *, flops: int) -> None:
        """Writes and shows a row.

        Args:
            step: Steps done.
            metrics: Scalars.
            flops: Model FLOPs of the run so far.
        """
        now = time.perf_counter()
        then, waited, before = self._last
        seconds = max(now - then, 1e-9)
        done = step - (before if before is not None else step - 1)
        row = {
            **self._head(step, flops, now),
            "examples_per_second": done * self._examples / seconds,
            "flops_per_second": done * self._flops / seconds,
            "data_wait": (self.waited - waited) / seconds,
            **metrics,
        }
        if before is None:
            # The first interval holds the start of the readers: its rates would mislead.
            row["examples_per_second"] = row["flops_per_second"] = None
        self._last = (now, self.waited, step)
        self._log.write(row)
        self._show(row)
        if before is not None and row["data_wait"] > WAIT and not self._advised:
            self._advised = True
            self._log.say(f"{self._name}: {advice(row['data_wait'])}")

    def _show(self, row: dict[str, Any]) -> None:
        if self._log.quiet:
            return
        monitor = f", monitor {row['monitor']:.3g}" if "monitor" in row else ""
        rate = row["examples_per_second"]
        speed = f"{rate:.0f} examples/s, {row['flops_per_second']:.2e} FLOP/s" if rate else "starting"
        text = f"{row['flops']:.2e} FLOPs, {speed}, data wait {row['data_wait']:.0%}, loss {row['loss']:.4g}{monitor}"
        if self._log.console.is_terminal and not os.environ.get("NO_COLOR"):
            self._advance(row["step"], text)
            return
        left = (self._steps - row["step"]) * self._examples / rate if rate else None
        eta = f", ETA {left:.0f} s" if left is not None else ""
        share = row["step"] / self._steps
        self._log.console.print(f"{self._name} {row['step']}/{self._steps} ({share:.0%}), {text}{eta}", soft_wrap=True)

    def _advance(self, step: int, text: str) -> None:
        bar = self._log.bar
        if bar is None:
            columns = (TextColumn(self._name), BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn())
            bar = self._log.bar = Progress(*columns, console=self._log.console)
            bar.add_task("", total=self._steps)
            bar.start()
        bar.update(bar.task_ids[0], completed=step, description=text)
        if step >= self._steps:
            bar.stop()
            self._log.bar = None
