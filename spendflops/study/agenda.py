"""Which rows a study has, as far as what is finished tells: the same for every worker, whatever it did itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.engine.build import build_stage, resolve
from spendflops.engine.recipe import Stage
from spendflops.study import rungs
from spendflops.study.grid import Planned, Study, longest
from spendflops.study.points import Row

Done = Mapping[str, Row]
"""Run id -> the row of a run that has finished or failed."""


class Agenda:
    """The rows of a study: those that depend on no other, and what the results of these add.

    Args:
        study: What is run.
        say: Receives which settings of a transfer were best, once.
    """

    def __init__(self, study: Study, *, say: Callable[[str], None] = lambda text: None):
        self.study, self._say = study, say
        self.planned = study.pretraining()
        self._made: dict[tuple[Any, ...], Planned] = {}
        self._told: set[str] = set()

    @functools.cached_property
    def total(self) -> int:
        """How many rows there will be, if none of those that others start from fails."""
        study, seeds = self.study, len(self.study.seeds)
        count = len(self.planned) + seeds * (bool(study.finetune) + bool(study.scratch) * len(study.budgets))
        for transfer in study.transfers.values():
            for starts in study.starts(self.planned, transfer):
                count += len(transfer.candidates) + sum(len(study.seeded(start, transfer)) for start in starts)
        return count

    def rows(self, done: Done) -> list[Planned]:
        """All rows that are known, in the order of the report."""
        rows = [*self.planned, *self._best_and_scratch(done)]
        for name, transfer in self.study.transfers.items():
            for starts in self.study.starts(self.planned, transfer):
                rows += self._transfer(name, starts, done)
        return rows

    def left(self, done: Done) -> tuple[list[Planned], bool]:
        """The rows that can be run now, and whether there are others that wait for what they start from."""
        left = [row for row in self.rows(done) if row.run_id not in done]
        known = {row.run_id for row in self.planned}
        ready = [
            row
            for row in left
            if all(parent in done or parent not in known for parent in row.parents)
            and not rungs.waits(self.study, row, self.planned, done)
        ]
        return ready, len(ready) < len(left)

    def stopped(self, done: Done) -> dict[str, str]:
        """Run id -> why a row is not worth its FLOPs, as far as is known."""
        return rungs.stopped(self.study, self.planned, done)

    def trunk(self, row: Planned, done: Done) -> str | None:
        """Id of the row from whose trunk a row goes on; None for none."""
        before = rungs.shorter(self.study, row, self.planned)
        return next((p.run_id for p in before if p.run_id in done and done[p.run_id].ok), None)

    def _best_and_scratch(self, done: Done) -> Iterator[Planned]:
        """The fine-tune of the best, once all are there, and training from scratch for the same total."""
        study = self.study
        for seed in study.seeds if study.finetune is not None else ():
            best = self._best([p for p in self.planned if p.seed == seed and p.kind == "method"], done)
            if best is not None:
                yield self._row((best.run_id,), study.finetuned, best)
        if study.scratch is None:
            return
        for budget in study.budgets:
            for seed in study.seeds:
                flops = int(budgets.parse(budget).amount) + self._finetuning
                yield self._row((budget, seed), study.from_scratch, seed=seed, budget=budget, flops=flops)

    @functools.cached_property
    def _finetuning(self) -> int:
        """FLOPs of the fine-tune of the best."""
        stage = self.study.finetune
        if stage is None:
            return 0
        built = build_stage(stage)
        recipe = self.study.recipe((stage,), seed=self.study.seeds[0], budget=None)
        return resolve(recipe, stage, built) * built.train.cost().total

    def _best(self, rows: list[Planned], done: Done) -> Planned | None:
        """The best of the rows at the largest budget; None while one of them is not done, or if none has a score."""
        rows = [row for row in rows if row.budget == self.study.largest]
        if any(row.run_id not in done for row in rows):
            return None
        return _highest([(row, done[row.run_id]) for row in rows], self.study.primary)

    def _transfer(self, name: str, starts: list[Planned | None], done: Done) -> list[Planned]:
        """One transfer from the rows of one method, those that are done: its settings are chosen first."""
        transfer = self.study.transfers[name]
        known = [s for s in starts if s is None or s.run_id in done]
        # What failed has no weights to start from; its own row says so.
        good = [s for s in known if s is None or done[s.run_id].ok]
        if not transfer.candidates:
            return list(self._transferred(name, good, transfer.stage))
        # Which row is tried from does not depend on which was done first.
        if len(known) < len(starts) or not good:
            return []
        first = [s for s in longest(good) if s is None or s.seed == self.study.seeds[0]]
        tried = self._tried(name, (first or good)[-1])
        if any(row.run_id not in done for row in tried):
            return tried
        best = _highest([(row, done[row.run_id]) for row in tried], transfer.chooser.label)
        if best is None:
            return tried
        self._tell(f"{name} of {best.label}: {best.candidate} is best of {len(tried)}")
        spent = sum(done[row.run_id].own("transfer") for row in tried)
        return [*tried, *self._transferred(name, good, transfer.candidates[best.candidate], spent)]

    def _tried(self, name: str, start: Planned | None) -> list[Planned]:
        """The candidates for a transfer."""
        study, place = self.study, "" if start is None else start.run_id
        seed = study.seeds[0] if start is None else start.seed
        return [
            self._row((name, place, candidate), study.transferred, name, start, stage, seed=seed, candidate=candidate)
            for candidate, stage in study.transfers[name].candidates.items()
        ]

    def _transferred(self, name: str, starts: list[Planned | None], stage: Stage, tuning: int = 0) -> Iterator[Planned]:
        study = self.study
        for start in starts:
            for seed in study.seeded(start, study.transfers[name]):
                key = (name, "" if start is None else start.run_id, "", seed)
                yield self._row(key, study.transferred, name, start, stage, seed=seed, tuning=tuning)

    def _row(self, key: tuple[Any, ...], make: Callable[..., Planned], *args: Any, **options: Any) -> Planned:
        """A row, made once: its id is a hash of its whole configuration, and all are asked for again and again."""
        if key not in self._made:
            self._made[key] = make(*args, **options)
        return self._made[key]

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)


def _highest(rows: list[tuple[Planned, Row]], label: str) -> Planned | None:
    """The row with the best score of an evaluation, None if none has one."""
    scored = []
    for planned, row in rows:
        score = next((s for s in row.scores if s.evaluator == label), None)
        if score is not None:
            scored.append((score.value if score.higher_is_better else -score.value, planned))
    return max(scored, key=lambda pair: pair[0])[1] if scored else None
