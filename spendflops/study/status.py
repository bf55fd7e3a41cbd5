"""How far a study is, read from its folder alone: no jax, no gin, a fraction of a second for hundreds of rows."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spendflops.contracts import errors
from spendflops.engine.rundir import read_json
from spendflops.study import failures
from spendflops.study.claims import PATIENCE, Claims

MANIFEST = "study.json"
ROWS = "rows"
STATES = ("finished", "running", "silent", "stopped", "failed", "halved", "waiting")
"""``silent``: claimed by a worker of another machine that has not been heard of for longer than others wait for it;
``stopped``: begun, and nobody works on it; ``halved``: not run, since its method was behind at a shorter length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """One row of a study.

    Attributes:
        state: One of :data:`STATES`.
        step, steps: Of the stage that it is in; None where it has not begun.
        worker: Who works on it.
        silence: Seconds since that worker's last beat, by the clocks of two machines.
        what: Why it failed.
        flops: Spent on it, once it has finished.
    """

    run_id: str
    label: str
    state: str
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    worker: str = ""
    silence: float | None = None
    what: str = ""
    flops: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """A study.

    Attributes:
        runs: How many rows it will have, rows among them that are not known before others have finished.
        rows: Those that are known.
    """

    title: str
    runs: int
    rows: tuple[State, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by state; those that are not known yet are waiting."""
        found = Counter(row.state for row in self.rows)
        found["waiting"] += max(self.runs - len(self.rows), 0)
        return {state: found[state] for state in STATES}

    @property
    def flops(self) -> int:
        """Spent by finished rows."""
        return sum(row.flops for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "counts": self.counts, "flops": self.flops}


def status(folder: Path) -> Status:
    """Looks at the folder of a study.

    Raises:
        errors.DataError: No study was ever run there.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        what = f"{folder} is not the folder of a study"
        raise errors.DataError(what, why=f"it has no {MANIFEST}", fix="run it first")
    claims = Claims(folder)
    rows = tuple(_row(row, folder, claims) for row in manifest["rows"])
    return Status(title=manifest["title"], runs=manifest["runs"], rows=rows)


def _row(row: Mapping[str, Any], folder: Path, claims: Claims) -> State:
    run, names = folder / ROWS / row["run_id"], {"run_id": row["run_id"], "label": row["label"]}
    result = read_json(run / "result.json")
    if result is not None:
        spent = sum(result["flops"][kind] or 0 for kind in ("pretrain", "transfer", "evaluate", "wasted"))
        before = result["flops"]["cached"] + result["flops"].get("trunk", 0)
        return State(**names, state="finished", flops=spent - before)
    if row.get("halved"):
        return State(**names, state="halved", what=row["halved"])
    failure = failures.read(run)
    if failure is not None:
        return State(**names, state="failed", what=failure["what"])
    said = read_json(run / "status.json") or {}
    reached = {"stage": said.get("stage", ""), "step": said.get("step"), "steps": said.get("steps")}
    holder = claims.holder(row["run_id"])
    if holder is None or holder.released or holder.gone:
        return State(**names, **reached, state="stopped" if said else "waiting")
    silence = None if holder.time is None else max(time.time() - holder.time, 0.0)
    state = "silent" if silence is not None and silence > PATIENCE else "running"
    return State(**names, **reached, state=state, worker=holder.process.get("worker", ""), silence=silence)


def text(found: Status) -> str:
    """For a terminal: counts, then the rows that somebody may want to look at."""
    told = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    lines = [f"{found.title}: {told or 'no rows'} of {found.runs} runs; finished runs spent {found.flops:.4g} FLOPs"]
    for row in found.rows:
        if row.state in ("running", "silent", "stopped"):
            before = "before its first step" if row.state == "stopped" else "starting"
            where = f"{row.stage} step {row.step:,} of {row.steps:,}" if row.step is not None else before
            who = f", {row.worker}" if row.worker else ""
            who += f", heard of {row.silence:.0f} s ago" if row.silence is not None else ""
            lines.append(f"  {row.state:8} {row.run_id}: {where}{who}")
        elif row.state in ("failed", "halved"):
            lines.append(f"  {row.state:8} {row.run_id}: {row.what}")
    return "\n".join(lines)
