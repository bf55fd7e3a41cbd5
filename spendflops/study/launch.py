"""Runs a study, row by row: finished rows never run again, failed ones on request, everything ends in one report."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.accounts.regions import WORLD
from spendflops.contracts import errors
from spendflops.engine import preflight
from spendflops.engine.agreement import check_start
from spendflops.engine.build import Built, build, build_stage, open_source, resolve
from spendflops.engine.describe import describe
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom, Recipe, Stage
from spendflops.engine.rundir import read_json, write_atomically
from spendflops.parts.splits import overlap
from spendflops.study.grid import Planned, Study, longest
from spendflops.study.plan import cautions
from spendflops.study.points import Overlap, Report, Row
from spendflops.study.results import failed_row, finished_row

CITATION = "Koppula et al. 2022, Where Should I Spend My FLOPS?, arXiv 2209.15589"


@dataclasses.dataclass(kw_only=True)
class Launch:
    """A study in its folder.

    Attributes:
        study: What to run.
        folder: Holds ``rows/<run id>``, ``report.html``, ``report.json``, ``points.csv``.
        retry: Runs failed rows again.
        region: Where the machine stands, for the CO2e.
        say: Receives lines for the user.
        command: What the user typed, for the report.
        texts: Files that every row keeps beside its configuration.
        features: Where evaluations look for what was computed before.
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
    rows: list[Row] = dataclasses.field(default_factory=list)

    def run(self) -> Report:
        """Runs what is not there yet and returns the report.

        Raises:
            errors.SpendflopsError: Before anything is spent, if a row cannot work; or when asked to stop.
        """
        planned = self.study.pretraining()
        recipes = [build(row.recipe) for row in planned]
        preflight.check_data(*recipes, *self._later())
        notes = _notes(planned, recipes)
        for note in notes:
            self.say(f"note: {note}")
        shared = self._overlap()
        for pair in (p for p in shared if p.shared):
            self.say(f"overlap: {pair.a} and {pair.b} share {pair.shared} images by content")
        clean = sum(not p.shared for p in shared)
        self.say(f"overlap by image content: {clean} of {len(shared)} pairs of roles share no image")
        total = len(planned) + self._transfers(planned)
        done: dict[str, Row] = {}
        for number, row in enumerate(planned, 1):
            done[row.run_id] = self._row(row, f"[{number}/{total}]")
        places = (f"[{number}/{total}]" for number in itertools.count(len(planned) + 1))
        for row in self._after(planned, done):
            self._row(row, next(places))
        for name, transfer in self.study.transfers.items():
            for starts in self.study.starts(planned, transfer):
                # What failed has no weights to start from; its own row says so.
                self._transfer(name, [s for s in starts if s is None or done[s.run_id].ok], places)
        return self._report(notes, shared)

    def _transfers(self, planned: list[Planned]) -> int:
        """Rows that follow those of pre-training, if none of these fails."""
        seeds = len(self.study.seeds)
        count = seeds * (bool(self.study.finetune) + bool(self.study.scratch) * len(self.study.budgets))
        for transfer in self.study.transfers.values():
            for starts in self.study.starts(planned, transfer):
                count += len(transfer.candidates) + sum(len(self.study.seeded(start, transfer)) for start in starts)
        return count

    def _transfer(self, name: str, starts: list[Planned | None], places: Iterator[str]) -> None:
        """One transfer from the rows of one method: its settings are chosen first."""
        transfer = self.study.transfers[name]
        stage: Stage | None = transfer.stage
        tuning = 0
        if transfer.candidates and starts:
            first = [s for s in longest(starts) if s is None or s.seed == self.study.seeds[0]]
            stage, tuning = self._tuned(name, (first or starts)[-1], places)
        for start in starts if stage is not None else ():
            for seed in self.study.seeded(start, transfer):
                self._row(self.study.transferred(name, start, stage, seed=seed, tuning=tuning), next(places))

    def _tuned(self, name: str, start: Planned | None, places: Iterator[str]) -> tuple[Stage | None, int]:
        """The best candidate from a row, none if all failed, and what trying them has cost."""
        transfer, scored, spent = self.study.transfers[name], [], 0
        for candidate, stage in transfer.candidates.items():
            seed = self.study.seeds[0] if start is None else start.seed
            row = self._row(self.study.transferred(name, start, stage, seed=seed, candidate=candidate), next(places))
            spent += row.own("transfer")
            score = next((s for s in row.scores if s.evaluator == transfer.chooser.label), None)
            if score is not None:
                scored.append((score.value if score.higher_is_better else -score.value, candidate))
        if not scored:
            return None, spent
        best = max(scored, key=lambda pair: pair[0])[1]
        self.say(f"{name} of {row.label}: {best} is best of {len(scored)}")
        return transfer.candidates[best], spent

    def _after(self, planned: list[Planned], done: Mapping[str, Row]) -> list[Planned]:
        """The rows that depend on others: the fine-tune of the best, and training from scratch for the same total."""
        rows = []
        finetuning = 0
        if self.study.finetune is not None:
            stage = self.study.finetune
            finetuning = _price(self.study, stage)
            for seed in self.study.seeds:
                best = self._best([p for p in planned if p.seed == seed and p.kind == "method"], done)
                if best is not None:
                    rows.append(self.study.finetuned(best))
        if self.study.scratch is not None:
            for budget in self.study.budgets:
                for seed in self.study.seeds:
                    total = int(budgets.parse(budget).amount) + finetuning
                    rows.append(self.study.from_scratch(seed=seed, budget=budget, flops=total))
        return rows

    def _best(self, candidates: list[Planned], done: Mapping[str, Row]) -> Planned | None:
        scored = []
        for planned in (c for c in candidates if c.budget == self.study.largest):
            score = next((s for s in done[planned.run_id].scores if s.evaluator == self.study.primary), None)
            if score is not None:
                scored.append((score.value if score.higher_is_better else -score.value, planned))
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def _row(self, planned: Planned, place: str) -> Row:
        folder = self.folder / "rows" / planned.run_id
        error = read_json(folder / "failed.json")
        if error is not None and not self.retry:
            self.say(f"{place} {planned.run_id}: failed before ({error['what']}); --retry runs it again")
            row = failed_row(planned, folder, error["what"])
        else:
            again = (folder / "result.json").exists()
            self.say(f"{place} {planned.run_id}" + (": finished, not run again" if again else ""))
            row = self._attempt(planned, folder)
        self.rows.append(row)
        return row

    def _attempt(self, planned: Planned, folder: Path) -> Row:
        failure = folder / "failed.json"
        try:
            result = run_recipe(
                planned.recipe,
                folder,
                texts=self.texts,
                quiet=self.quiet,
                features=self.features,
                checked=True,
                region=self.region,
            )
            row = finished_row(planned, folder, result)
        except (errors.Preempted, errors.Interrupted):
            raise
        except Exception as error:
            # One row that breaks must not lose the others; what broke is in the report and in its folder.
            what = error.what if isinstance(error, errors.SpendflopsError) else f"{type(error).__name__}: {error}"
            body = {
                "what": what,
                "message": str(error),
                "exit_code": getattr(error, "exit_code", 1),
                "traceback": traceback.format_exc(),
            }
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            write_atomically(failure, json.dumps(body, indent=1))
            self.say(f"  failed: {error}")
            return failed_row(planned, folder, what)
        failure.unlink(missing_ok=True)
        return row

    def _later(self) -> list[Built]:
        """The recipes of all rows that follow others, built; raises where one cannot work: before anything is spent."""
        study, cells = self.study, list(self.study.cells())
        for label, base in study.continued.items():
            _check_starts(study.methods[label][0], [(base, study.methods[base])])
        recipes = []
        if study.finetune is not None:
            recipes.append(study.recipe((study.finetune,), seed=0, budget=None, transfer=True))
            _check_starts(study.finetune, cells)
        if study.scratch is not None:
            stage = dataclasses.replace(study.scratch, length="1 step")
            recipes.append(study.recipe((stage,), seed=0, budget=None, transfer=True))
        for transfer in study.transfers.values():
            for stage in transfer.stages.values():
                followed = [(label, stages) for label, stages in cells if transfer.follows(label)]
                _check_starts(stage, followed, select=transfer.select, allow=transfer.allow)
                recipes += [
                    Recipe(stages=(stage,), evaluations=evaluations)
                    for evaluations in (transfer.evaluations, (transfer.chooser,))
                ]
        return [build(recipe) for recipe in recipes]

    def _overlap(self) -> tuple[Overlap, ...]:
        sources = {}
        seen = {}
        evaluations = [*self.study.evaluations, *self.study.transfer_evaluations]
        for name, transfer in self.study.transfers.items():
            pair = transfer.stage.dataset, transfer.stage.split
            seen.setdefault(_place(*pair), f"training ({name})")
            sources.setdefault(_place(*pair), pair)
            evaluations += transfer.evaluations
        for label, stages in self.study.cells():
            for stage in stages:
                seen.setdefault(_place(stage.dataset, stage.split), f"pre-training ({label})")
                sources.setdefault(_place(stage.dataset, stage.split), (stage.dataset, stage.split))
        for evaluation in evaluations:
            for role, (dataset, split) in evaluation.data.items():
                if "image" not in dataset.info.features:
                    continue  # prompts
                seen.setdefault(_place(dataset, split), f"{role} ({evaluation.label})")
                sources.setdefault(_place(dataset, split), (dataset, split))
        opened = {f"{seen[k]}: {d.info.name} {s}": open_source(d, s, ("image",)) for k, (d, s) in sources.items()}
        return tuple(
            Overlap(a=a, b=b, shared=n, a_images=len(opened[a]), b_images=len(opened[b]))
            for (a, b), n in overlap(opened).items()
        )

    def _report(self, notes: tuple[str, ...], shared: tuple[Overlap, ...]) -> Report:
        footprints = [item for r in self.rows for item in (r.footprint, r.measured) if item is not None]
        sources = tuple(dict.fromkeys(s for f in footprints for s in f.sources))
        evaluations = [*self.study.evaluations, *self.study.transfer_evaluations]
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


def _notes(planned: list[Planned], recipes: list[Built]) -> tuple[str, ...]:
    rows = zip(planned, recipes, strict=True)
    lines = [line for row, built in rows if row.kind == "method" for line in cautions(built, row.label)]
    return tuple(dict.fromkeys(lines))


def _check_starts(stage: Stage, cells: list[tuple[str, tuple[Stage, ...]]], **options: Any) -> None:
    """Raises where a stage cannot start from the last one of a method; options are those of :class:`InitFrom`."""
    target = build_stage(stage).definition
    for label, stages in cells:
        source = build_stage(stages[-1]).definition
        init = InitFrom(stage=label, **options)
        check_start(stage, target, (source.params, source.stats), stages[-1].dataset.info, init)


def _price(study: Study, stage: Any) -> int:
    """FLOPs of a transfer stage."""
    built = build_stage(stage)
    recipe = study.recipe((stage,), seed=study.seeds[0], budget=None)
    return resolve(recipe, stage, built) * built.train.cost().total


def _place(dataset: Any, split: str) -> str:
    return json.dumps([describe(dataset), split], sort_keys=True)
