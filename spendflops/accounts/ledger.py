"""The ledger: every FLOP that was spent, as rows (program, calls).

Rows of ``kind`` ``productive`` are the run; ``wasted`` rows are steps that were done again after a kill, counted once.
Productive rows are written after the checkpoint that makes them permanent, at fixed steps: after any number of kills
they are those of an uninterrupted run, but for ``seconds`` and ``cached``.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

CONVENTION = "2 FLOPs a multiply-add, all devices"
KINDS = ("productive", "wasted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One row.

    Attributes:
        program: Name of the program, ``"mae/train"``.
        role: ``"pretrain"``, ``"transfer"`` or ``"evaluate"``.
        calls: How often it ran.
        first, last: Steps [first, last) of the stage, or of the evaluation's batches.
        flops: Model FLOPs of one call (counter B).
        phases: Model FLOPs of one call by phase.
        hardware_flops: FLOPs of one call in the compiled program (counter C); None with the reason in ``note``.
        counter, target: How and for what they were counted.
        kind: ``"productive"`` or ``"wasted"``.
        seconds: Wall time; not part of what a resumed run must reproduce.
        note: Reason of a missing number.
        cached: How many of the calls were not run, because an earlier pass had kept what they give, or because they
            are the trunk of a shorter run, which has paid them. They cost what they cost then, so they are in
            ``calls``; like ``seconds``, no part of what a resumed run must reproduce.
    """

    program: str
    role: str
    calls: int
    first: int
    last: int
    flops: int
    phases: dict[str, int]
    hardware_flops: int | None
    counter: str
    target: str
    kind: str = "productive"
    seconds: float | None = None
    note: str = ""
    cached: int = 0

    @property
    def total(self) -> int:
        """Model FLOPs of all calls."""
        return self.calls * self.flops

    def to_json(self) -> dict:
        """As a line of the ledger."""
        return {**dataclasses.asdict(self), "convention": CONVENTION}


def sync(folder: Path) -> None:
    """Makes the names in a folder durable: without it a power cut may lose a file whose content is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


class Ledger:
    """The rows of ``ledger.jsonl``, appended line by line. A half-written last line is dropped when it is read."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.entries: list[Entry] = []
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            # A kill in the middle of a line: the row was not permanent yet and will be written again.
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        fields = {f.name for f in dataclasses.fields(Entry)}
        for line in whole.splitlines():
            data = json.loads(line)
            self.entries.append(Entry(**{k: v for k, v in data.items() if k in fields}))

    def append(self, entry: Entry) -> None:
        """Adds a row, durably."""
        fresh = not self.path.exists()
        with open(self.path, "ab") as file:
            file.write((json.dumps(entry.to_json(), sort_keys=True) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync(self.path.parent)
        self.entries.append(entry)

    def steps(self, program: str) -> int:
        """Steps of ``program`` that the ledger holds as productive."""
        return max((e.last for e in self._of(program)), default=0)

    def _of(self, program: str) -> Iterable[Entry]:
        return (e for e in self.entries if e.program == program and e.kind == "productive")

    def total(self, *, role: str | None = None, kind: str = "productive") -> int:
        """Model FLOPs, of one role or of all."""
        return sum(e.total for e in self.entries if e.kind == kind and role in (None, e.role))

    def cached(self, *, role: str | None = None) -> int:
        """Model FLOPs within :meth:`total` that were not spent again: an earlier pass had kept what they give."""
        return sum(e.cached * e.flops for e in self.entries if e.kind == "productive" and role in (None, e.role))

    def trunk_seconds(self) -> float:
        """Seconds within :meth:`seconds` that another run took, whose trunk this one went on from."""
        return sum(e.seconds or 0.0 for e in self.entries if e.cached and e.role != "evaluate")

    def hardware_total(self, *, role: str | None = None) -> int | None:
        """FLOPs of the compiled programs; None where one could not be counted."""
        rows = [e for e in self.entries if e.kind == "productive" and role in (None, e.role)]
        if any(e.hardware_flops is None for e in rows):
            return None
        return sum(e.calls * e.hardware_flops for e in rows)  # type: ignore[operator]

    def phases(self, *, role: str) -> dict[str, int]:
        """Model FLOPs of a role by phase."""
        totals: dict[str, int] = {}
        for e in self.entries:
            if e.kind == "productive" and e.role == role:
                for phase, flops in e.phases.items():
                    totals[phase] = totals.get(phase, 0) + e.calls * flops
        return totals

    def seconds(self, *, role: str | None = None) -> float:
        """Wall time of productive and wasted rows."""
        return sum(e.seconds or 0.0 for e in self.entries if role in (None, e.role))
