"""Runs a study: finished rows never run again, failed ones on request, everything ends in one report.

Any number of workers may run one study in one folder, on any number of machines: each takes the next row that nobody
has claimed (:mod:`spendflops.study.claims`), and what a killed worker has left is taken over.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from spendflops.accounts.regions import WORLD
from spendflops.contracts import errors
from spendflops.engine import preflight
from spendflops.engine.build import build
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.loop import StopRequest, run_recipe
from spendflops.engine.rundir import read_json, storage_error, write_atomically
from spendflops.study import beforehand, failures, rungs
from spendflops.study.agenda import Agenda
from spendflops.study.claims import Claims, refresh
from spendflops.study.grid import Planned, Study
from spendflops.study.points import Overlap, Report, Row
from spendflops.study.results import failed_row, finished_row, stopped_row
from spendflops.study.status import MANIFEST, ROWS

CITATION = "Koppula et al. 2022, Where Should I Spend My FLOPS?, arXiv 2209.15589"


@dataclasses.dataclass(kw_only=True)
class Launch:
    """A study in its folder, as one worker runs it.

    Attributes:
        study: What to run.
        folder: Holds ``rows/<run id>``, ``claims/``, ``study.json``, ``report.html``, ``report.json``, ``points.csv``.
        retry: Runs rows again that have failed before.
        region: Where the machine stands, for the CO2e.
        say: Receives lines for the user.
        command: What the user typed, for the report.
        texts: Files that every row keeps beside its configuration.
        features: Where evaluations look for what was computed before.
        claims: Those in ``folder``; by default with the usual patience.
        poll: Seconds between two looks at the rows that other workers run.
    """

    study: Study
    folder: Path
    retry: bool = False
    quiet: bool = False
    region: str = WORLD
    say: Callable[[str], None] = print
    command: str = ""
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    features: FeatureCache | None = None
    claims: Claims | None = None
    poll: float = 1.0
    rows: list[Row] = dataclasses.field(default_factory=list)
    _busy: dict[str, float] = dataclasses.field(default_factory=dict)

    def run(self) -> Report:
        """Runs what is not there yet, together with all other workers, and returns the report.

        Raises:
            errors.SpendflopsError: Before anything is spent, if a row cannot work; or when asked to stop.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.folder, error) from error
        agenda = Agenda(self.study, say=self.say)
        recipes = [build(row.recipe) for row in agenda.planned]
        rungs.check(self.study, agenda.planned, recipes)
        preflight.check_data(*recipes, *beforehand.later(self.study))
        notes = beforehand.notes(agenda.planned, recipes)
        for note in notes:
            self.say(f"note: {note}")
        shared = beforehand.overlaps(self.study, self.folder)
        for pair in (p for p in shared if p.shared):
            self.say(f"overlap: {pair.a} and {pair.b} share {pair.shared} images by content")
        clean = sum(not p.shared for p in shared)
        self.say(f"overlap by image content: {clean} of {len(shared)} pairs of roles share no image")
        if self.retry:
            failures.clear(self.folder / ROWS, reason="--retry")
        done = self._work(agenda, self.claims or Claims(self.folder))
        self.rows = [done[planned.run_id] for planned in agenda.rows(done)]
        return self._report((*notes, *_halved(agenda, done)), shared)

    def look(self) -> Report:
        """The report of the rows that have ended so far, with a note on the others; runs nothing."""
        agenda, done = Agenda(self.study), {}
        while True:
            ended = {row.run_id: self._ended(row, "") for row in agenda.left(done)[0]}
            new = {run_id: row for run_id, row in ended.items() if row is not None} | self._stopped(agenda, done)
            if not new:
                break
            done |= new
        self.rows = [done[row.run_id] for row in agenda.rows(done) if row.run_id in done]
        notes = beforehand.notes(agenda.planned, [build(row.recipe) for row in agenda.planned])
        notes = (*notes, *_halved(agenda, done))
        left = len(agenda.rows(done)) - len(done)
        if left:
            notes = (f"at least {left} of {agenda.total} runs have not ended: what is shown may change", *notes)
        return self._report(notes, beforehand.counted(self.folder))

    def _work(self, agenda: Agenda, claims: Claims) -> dict[str, Row]:
        """Runs rows until there is none left; waits for those of other workers."""
        done: dict[str, Row] = {}
        listed = (0, 0)
        with StopRequest().listening() as stop:
            while True:
                done |= self._stopped(agenda, done)
                for run_id in [name for name, row in done.items() if not row.ok and not row.stopped]:
                    if failures.read(self.folder / ROWS / run_id) is None:  # `study retry` let it run again
                        del done[run_id]
                rows = agenda.rows(done)
                ready, waiting = agenda.left(done)
                if not ready and not waiting:
                    self._list(rows, agenda.stopped(done), runs=len(rows))
                    return done
                halved = agenda.stopped(done)
                if (len(rows), len(halved)) != listed:
                    self._list(rows, halved, runs=agenda.total)
                    listed = (len(rows), len(halved))
                for planned in ready:
                    place = f"[{len(done) + 1}/{agenda.total}]"
                    row = self._row(planned, claims, place, shorter=agenda.trunk(planned, done))
                    if row is not None:
                        done[planned.run_id] = row
                        break
                else:
                    time.sleep(self.poll)
                if stop.signal is not None:
                    raise stop.error(f"{len(done)} of {agenda.total} rows")

    def _stopped(self, agenda: Agenda, done: Mapping[str, Row]) -> dict[str, Row]:
        """The rows that are not worth their FLOPs, and are not there yet; what had finished before is shown."""
        why = {run_id: reason for run_id, reason in agenda.stopped(done).items() if run_id not in done}
        found = {}
        for planned in (p for p in agenda.planned if p.run_id in why):
            folder = self.folder / ROWS / planned.run_id
            result = read_json(folder / "result.json")
            if result is None:
                self.say(f"{planned.run_id}: stopped, {why[planned.run_id]}")
                found[planned.run_id] = stopped_row(planned, folder, why[planned.run_id])
            else:
                found[planned.run_id] = finished_row(planned, folder, result)
        return found

    def _list(self, rows: list[Planned], halved: Mapping[str, str], *, runs: int) -> None:
        """Writes down which rows there are, for those who look at the folder without the study."""
        names = ("run_id", "label", "kind", "budget", "seed", "dataset", "transfer", "candidate")
        body = {
            "title": self.study.title,
            "command": self.command,
            "runs": runs,
            "rows": [
                {**{name: getattr(row, name) for name in names}, "halved": halved.get(row.run_id, "")} for row in rows
            ],
        }
        write_atomically(self.folder / MANIFEST, json.dumps(body, indent=1))

    def _row(self, planned: Planned, claims: Claims, place: str, *, shorter: str | None) -> Row | None:
        """The row of a run that has ended, or that is run now; None while it is another worker's.

        Args:
            planned: What is run.
            claims: Of all workers.
            place: Its number, for the user.
            shorter: Id of the row from whose trunk it goes on.
        """
        found = self._ended(planned, place)
        if found is not None or self._busy.get(planned.run_id, 0.0) > time.monotonic():
            return found
        claim = claims.take(planned.run_id, lost=lambda: self._leave(planned))
        if claim is None:
            return None
        with claim:
            # Again, now that nobody else can be making it.
            refresh(self.folder / ROWS / planned.run_id)
            found = self._ended(planned, place)
            if found is not None:
                return found
            self.say(f"{place} {planned.run_id}")
            try:
                return self._attempt(planned, shorter)
            except errors.InUseError as error:
                self._busy[planned.run_id] = time.monotonic() + claims.patience
                self.say(f"  {error.what}: left to it")
                return None

    def _ended(self, planned: Planned, place: str) -> Row | None:
        folder = self.folder / ROWS / planned.run_id
        result = read_json(folder / "result.json")
        if result is not None:
            self.say(f"{place} {planned.run_id}: finished, not run again")
            return finished_row(planned, folder, result)
        error = failures.read(folder)
        if error is None:
            return None
        self.say(f"{place} {planned.run_id}: failed before ({error['what']}); --retry runs it again")
        return failed_row(planned, folder, error["what"])

    def _attempt(self, planned: Planned, shorter: str | None) -> Row:
        folder = self.folder / ROWS / planned.run_id
        try:
            result = run_recipe(
                planned.recipe,
                folder,
                texts=self.texts,
                quiet=self.quiet,
                features=self.features,
                checked=True,
                region=self.region,
                shorter=None if shorter is None else f"../{shorter}",
            )
            return finished_row(planned, folder, result)
        except (errors.Preempted, errors.Interrupted, errors.InUseError):
            raise
        except Exception as error:
            # One row that breaks must not lose the others; what broke is in the report and in its folder.
            what = failures.keep(folder, error)
            self.say(f"  failed: {error}")
            return failed_row(planned, folder, what)

    def _leave(self, planned: Planned) -> None:
        """Ends this process: another one has taken over what it is in the middle of, and would be written into."""
        print(
            f"spendflops: this process was stopped for so long that another worker took {planned.run_id} over; it ends",
            file=sys.stderr,
            flush=True,
        )
        os._exit(errors.Preempted.exit_code)

    def _report(self, notes: tuple[str, ...], shared: tuple[Overlap, ...]) -> Report:
        footprints = [item for r in self.rows for item in (r.footprint, r.measured) if item is not None]
        sources = tuple(dict.fromkeys(s for f in footprints for s in f.sources))
        evaluations = self.study.row_evaluations
        for transfer in self.study.transfers.values():
            evaluations += [*transfer.evaluations, transfer.chooser]
        told = {e.label: (type(e.evaluator).__doc__ or "").strip().split("\n\n")[0] for e in evaluations}
        return Report(
            title=self.study.title,
            question=self.study.question,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            rows=tuple(self.rows),
            assumptions=(
                "FLOPs are those of matrix products and convolutions of the whole training step (forward, backward, "
                "targets), 2 for each multiply-add, counted from the traced program (counter B) and checked against "
                "the compiled one (counter C).",
                "The frozen evaluators' closed-form solves run on the host; evaluation FLOPs are those of the forward "
                "passes.",
                *sources,
            ),
            protocols={s.protocol: told[s.evaluator] for row in self.rows for s in row.scores},
            overlap=shared,
            notes=notes,
            command=self.command,
            citation=CITATION,
        )


def _halved(agenda: Agenda, done: Mapping[str, Row]) -> tuple[str, ...]:
    """A note for each method that was stopped."""
    return tuple(f"halving: {why}: it was stopped there" for why in dict.fromkeys(agenda.stopped(done).values()))
