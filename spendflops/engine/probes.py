"""Scores while a stage trains: charged apart, kept in ``probes.jsonl``, and a reason to stop what is hopeless.

A probe looks at the weights that the method hands on, at steps that depend on the length of the stage alone, and
changes nothing: with and without probes a run trains the same model. After a kill its rows are those of an
uninterrupted run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.contracts import errors
from spendflops.engine import accounting, evaluate
from spendflops.engine.build import Built, Prediction
from spendflops.engine.metrics import MetricsLog, StageLog
from spendflops.engine.recipe import Probe
from spendflops.engine.rundir import write_atomically
from spendflops.engine.state import Tree, transferred

FILE = "probes.jsonl"


class Probes:
    """The probes of one stage.

    Args:
        built: The recipe.
        index: Which stage.
        folder: The run directory.
        ledger, log: Of the run.
        shown: Of the stage.
    """

    def __init__(
        self, built: Built, index: int, *, folder: Path, ledger: Ledger, log: MetricsLog, shown: StageLog
    ):  # fmt: skip
        self._built, self._index, self._ledger, self._log, self._shown = built, index, ledger, log, shown
        self._stage, steps = built.recipe.stages[index], built.steps[index]
        self._path = folder / FILE
        _mend(self._path)
        self._due: dict[int, list[tuple[int, Probe, tuple[Prediction, ...]]]] = {}
        for probe, predictions in zip(built.recipe.probes, built.probes, strict=True):
            if predictions[0].stage == self._stage.label:
                for time_, step in enumerate(probe.steps(steps)):
                    self._due.setdefault(step, []).append((time_, probe, predictions))
        self._known = {(row["stage"], row["step"], row["evaluation"]): row for row in read(folder)}

    def __call__(self, step: int, state: Tree, *, flops: int) -> float:
        """Takes the probes that are due after ``step`` steps, and gives the seconds that they took.

        Args:
            step: Steps done.
            state: Of the stage.
            flops: Model FLOPs of the run so far, for the row.

        Raises:
            errors.DivergedError: A probe says that the run is hopeless.
        """
        begun = time.perf_counter()
        for number, probe, predictions in self._due.get(step, ()):
            label = probe.evaluation.label
            row = self._known.get((self._stage.label, step, label))
            if row is None:
                row = self._take(step, number, probe, predictions, state)
            value = row["values"][row["primary"]]
            self._shown.aside(step, {f"probe/{label}/{row['primary']}": value}, flops=flops)
            self._log.say(f"{self._stage.label} step {step}: {label} {row['primary']} {value:.4g}")
            self._judge(probe, step, value)
        return time.perf_counter() - begun

    def _take(
        self, step: int, number: int, probe: Probe, predictions: tuple[Prediction, ...], state: Tree
    ) -> dict[str, Any]:
        definition, collected = self._built.stages[self._index].definition, dict[str, evaluate.Collected]()
        for prediction in predictions:
            begun, calls = time.perf_counter(), prediction.calls
            evaluate.collect(prediction, *transferred(definition, state, prediction.weights), collected)
            fields = accounting.entry("evaluate", prediction.program, number * calls, (number + 1) * calls)
            if self._ledger.steps(prediction.program.name) > number * calls:
                fields |= {"kind": "wasted", "note": "scored again after an interruption"}
            self._ledger.append(Entry(**fields, seconds=time.perf_counter() - begun))
        scored = evaluate.score(self._built, probe.evaluation, collected[probe.evaluation.label])
        row = {"stage": self._stage.label, "step": step, **scored}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def _judge(self, probe: Probe, step: int, value: float) -> None:
        steps = self._built.steps[self._index]
        if step < probe.after * steps:
            return
        low, high = probe.at_least, probe.at_most
        if (low is not None and value < low) or (high is not None and value > high):
            bound = f"at least {low:g}" if low is not None and value < low else f"at most {high:g}"
            raise errors.DivergedError(
                f"stage {self._stage.label!r} is hopeless: {probe.evaluation.label} is {value:.4g} at step {step} of "
                f"{steps}",
                why=f"the probe asks for {bound} from {probe.after:.0%} of the stage on",
                fix="look at the method's settings; with a weaker bound, or none, it is another run",
            )


def read(folder: Path) -> list[Mapping[str, Any]]:
    """The rows of a run; a half-written last line, of a killed process, is no row."""
    raw = (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
    return [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]


def _mend(path: Path) -> None:
    """Cuts a half-written last line off: the next row would be lost behind it."""
    raw = path.read_bytes() if path.exists() else b""
    if not raw.endswith(b"\n") and raw:
        write_atomically(path, raw[: raw.rfind(b"\n") + 1].decode())
