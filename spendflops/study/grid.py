"""A study: methods x data sets x budgets x seeds with their baselines, as one object that expands to runs."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from spendflops.accounts import budget as budgets
from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset
from spendflops.engine.describe import digest
from spendflops.engine.recipe import Evaluation, Probe, Recipe, Stage
from spendflops.study.halving import Rule
from spendflops.study.points import SCRATCH
from spendflops.study.transfers import Transfer, from_row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Which method should a budget be spent on?

    Attributes:
        title, question: For the report.
        methods: Label -> pre-training stages.
        continued: Label of a method -> label of the one whose finished rows it starts from: an intermediate stage. Its
            stages have role ``"transfer"``, and its label is that of the other, ``" + "``, and more.
        datasets: Label -> data that every method is pre-trained on, called so in rows and tables; none leaves to each
            stage the data that it names.
        overlays: ``"METHOD/DATASET"`` -> the stages of that method on these data, where its settings depend on them.
        budgets: FLOPs that each method spends on pre-training; or one number of steps or epochs for all of them, where
            nothing is trained from scratch for the same total.
        lengths: ``"DATASET"`` or ``"METHOD/DATASET"``, which wins -> budgets of these cells in the place of
            ``budgets``, steps among them; none leaves the cells out. Not beside ``finetune`` and ``scratch``.
        trunks: Labels of methods whose lengths are read off one trunk: each goes on from the end of the constant rate
            of the one before, and is the run that it would have been alone (:mod:`spendflops.engine.trunk`).
        halving: Stops methods, after each length, that are behind by ``primary``; None runs everything.
        first_compared: Label -> the budget before which a method is not compared.
        seeds: Of pre-training.
        evaluations: Frozen scores of every row.
        own_evaluations: Label of a method -> scores of its rows alone: what only it can be asked (reconstructions).
        random: Stages that are built and not trained: the score of a random backbone. None leaves the baseline out.
        finetune: Transfer stage that starts from the best row at the largest budget; None leaves it out.
        scratch: Transfer stage that starts from nothing and spends the total FLOPs of the pre-trained route (its
            pre-training and its fine-tuning) at every budget; None leaves it out. Its own ``length`` is not read.
        transfer_evaluations: Scores of the fine-tuned and of the scratch model beside the frozen ones.
        probes: Scores of every row while it trains; with bounds they stop what is hopeless.
        transfers: Name -> what every row is followed by, with scores of its own.
        primary: Label of the evaluation that chooses the best row; "" where there are no frozen ones.
        log_every, checkpoint_every: Steps, for every run.
        watts: Assumed power of the machine; None for an assumption by its number of cores.
    """

    title: str
    question: str
    methods: Mapping[str, tuple[Stage, ...]]
    budgets: tuple[str, ...]
    evaluations: tuple[Evaluation, ...] = ()
    primary: str = ""
    seeds: tuple[int, ...] = (0,)
    continued: Mapping[str, str] = dataclasses.field(default_factory=dict)
    datasets: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)
    overlays: Mapping[str, tuple[Stage, ...]] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    trunks: tuple[str, ...] = ()
    halving: Rule | None = None
    first_compared: Mapping[str, str] = dataclasses.field(default_factory=dict)
    own_evaluations: Mapping[str, tuple[Evaluation, ...]] = dataclasses.field(default_factory=dict)
    random: tuple[Stage, ...] | None = None
    finetune: Stage | None = None
    scratch: Stage | None = None
    transfer_evaluations: tuple[Evaluation, ...] = ()
    probes: tuple[Probe, ...] = ()
    transfers: Mapping[str, Transfer] = dataclasses.field(default_factory=dict)
    log_every: int = 50
    checkpoint_every: int = 1000
    watts: float | None = None

    def __post_init__(self) -> None:
        labels = [e.label for e in self.evaluations]
        if self.primary not in labels and (labels or self.finetune or not self.transfers):
            raise errors.ConfigError(f"Study.primary is {self.primary!r}{errors.suggest(self.primary, labels)}")
        if not self.methods or not self.budgets or not self.seeds:
            raise errors.ConfigError("a study needs methods, budgets and seeds")
        known = [f"{method}/{data}" for method in self.methods for data in self.datasets]
        for label in self.own_evaluations:
            if label not in self.methods:
                raise errors.ConfigError(
                    f"Study.own_evaluations are of {label!r}{errors.suggest(label, list(self.methods))}",
                    why="no method has that label",
                )
        for overlay in self.overlays:
            if overlay not in known:
                raise errors.ConfigError(
                    f"Study.overlays names {overlay!r}, which matches no cell{errors.suggest(overlay, known)}",
                    why=f"cells are METHOD/DATASET: {', '.join(known) or 'none, since Study.datasets is empty'}",
                    fix="delete the overlay, or add its method and its data set to the study",
                )
        for stage in (s for s in (self.finetune, self.scratch) if s is not None):
            if stage.role != "transfer":
                raise errors.ConfigError(f"stage {stage.label!r} of the study must have role 'transfer'")
        units = {budgets.parse(budget).unit for budget in self.budgets}
        if units != {"flops"} and (len(self.budgets) > 1 or self.scratch is not None):
            raise errors.ConfigError(
                f"Study.budgets are {', '.join(map(str, self.budgets))}",
                why="methods are compared, and training from scratch is paid, by FLOPs",
                fix="give FLOPs: '3e18' or '3 EFLOP'",
            )
        self._check_lengths([*known, *self.datasets])
        self._check_continued()
        self._check_rungs()
        for name, transfer in self.transfers.items():
            for method in transfer.methods:
                if method not in self.methods:
                    raise errors.ConfigError(
                        f"transfer {name!r} follows {method!r}{errors.suggest(method, list(self.methods))}",
                        why=f"the methods are {', '.join(self.methods)}",
                    )

    def _check_lengths(self, known: list[str]) -> None:
        for cells, given in self.lengths.items():
            if cells not in known:
                raise errors.ConfigError(
                    f"Study.lengths names {cells!r}, which matches no cell{errors.suggest(cells, known)}",
                    why=f"cells are DATASET or METHOD/DATASET: {', '.join(self.datasets) or 'Study.datasets is empty'}",
                )
            if len({budgets.parse(budget).unit for budget in given}) > 1:
                raise errors.ConfigError(f"Study.lengths of {cells!r} are in several units", fix="give one of them")
        if self.lengths and (self.finetune or self.scratch):
            raise errors.ConfigError(
                "Study.lengths beside Study.finetune or Study.scratch",
                why="both are paid by Study.budgets, which all methods share",
                fix="use Study.transfers",
            )

    def _check_continued(self) -> None:
        places = {name: place for place, name in enumerate(self.methods)}
        for label, base in self.continued.items():
            if label not in places or places.get(base, len(places)) >= places[label]:
                raise errors.ConfigError(
                    f"Study.continued: {label!r} cannot continue {base!r}",
                    why=f"methods, in their order: {', '.join(self.methods)}",
                    fix="both are methods, the one that is continued first",
                )
            if not label.startswith(f"{base} + "):
                raise errors.ConfigError(f"Study.continued: {label!r} should be called '{base} + ...'")
            if any(stage.role != "transfer" or stage.init for stage in self.methods[label][:1]) or self.datasets:
                raise errors.ConfigError(
                    f"Study.continued: {label!r} starts with a stage of role {self.methods[label][0].role!r}",
                    why="it is paid apart from the budget, starts from a row, and on data of its own",
                    fix="Stage.role = 'transfer', no Stage.init for its first stage, and no Study.datasets",
                )

    def _check_rungs(self) -> None:
        for label in (*self.trunks, *self.first_compared):
            if label not in self.methods:
                raise errors.ConfigError(
                    f"Study.{'trunks' if label in self.trunks else 'first_compared'} names {label!r}"
                    f"{errors.suggest(label, list(self.methods))}",
                    why=f"the methods are {', '.join(self.methods)}",
                )
        after = {*self.continued, *self.continued.values()}
        if self.halving is not None and (after or not self.primary):
            raise errors.ConfigError(
                "Study.halving where rows continue others, or nothing is scored",
                why="what is stopped has no rows to continue, and methods are compared by Study.primary",
                fix="leave Study.halving out, or name a Study.primary and no Study.continued",
            )
        if self.trunks and (self.probes or set(self.trunks) & set(self.continued)):
            raise errors.ConfigError(
                f"Study.trunks beside {'Study.probes' if self.probes else 'a method that continues another'}",
                why="a trunk is trained once, from a new model: what follows it is not probed, and continues nothing",
                fix="leave the method out of Study.trunks, or Study.probes out",
            )
        given = (*self.budgets, *(b for each in self.lengths.values() for b in each), *self.first_compared.values())
        units = {budgets.parse(budget).unit for budget in given}
        if self.halving is not None and units != {"flops"}:
            raise errors.ConfigError(
                f"Study.halving with lengths in {', '.join(sorted(units))}", why="methods are compared at equal FLOPs"
            )

    @property
    def largest(self) -> str:
        """The largest of the budgets."""
        return _largest(self.budgets)

    def recipe(self, stages: tuple[Stage, ...], *, seed: int, budget: str | None, transfer: bool = False) -> Recipe:
        """A run of this study."""
        return Recipe(
            stages=stages,
            evaluations=(*self.evaluations, *(self.transfer_evaluations if transfer else ())),
            budget=budget,
            seed=seed,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            watts=self.watts,
        )

    def pretraining(self) -> list[Planned]:
        """The rows that depend on no other row: random backbones, then methods x budgets x seeds."""
        rows = []
        for seed in self.seeds:
            if self.random is not None:
                recipe = self.recipe(self.random, seed=seed, budget="0 steps")
                rows.append(Planned(label="random", kind="baseline", seed=seed, budget=None, recipe=recipe))
        for label, data, stages in self._cells():
            for budget in self._budgets(label, data):
                for seed in self.seeds:
                    before = self.continued.get(label), budget, seed
                    base = next((row for row in rows if (row.label, row.budget, row.seed) == before), None)
                    rows.append(self._pretrained(label, data, stages, seed, budget, base))
        return rows

    def _pretrained(
        self, label: str, data: str, stages: tuple[Stage, ...], seed: int, budget: str, base: Planned | None
    ) -> Planned:
        """A row of a method on the data of that label, or of one that goes on from the row ``base``."""
        data = data or stages[-1].dataset.info.name
        if base is not None:
            first = dataclasses.replace(stages[0], init=(from_row(base.run_id),))
            stages, data = (first, *stages[1:]), base.dataset
        recipe = self.recipe(stages, seed=seed, budget=None if base else budget)
        evaluations = (*recipe.evaluations, *self.own_evaluations.get(label, ()))
        recipe = dataclasses.replace(recipe, evaluations=evaluations, probes=self.probes if base is None else ())
        return Planned(label=label, kind="method", seed=seed, budget=budget, recipe=recipe, dataset=data)

    def starts(self, planned: list[Planned], transfer: Transfer) -> list[list[Planned | None]]:
        """The rows that a transfer starts from, those of one method and data set together; ``[None]`` is nothing."""
        groups: dict[tuple[str, str], list[Planned | None]] = {}
        for row in (p for p in planned if p.kind == "method" and transfer.follows(p.label)):
            groups.setdefault((row.label, row.dataset), []).append(row)
        found = [rows if transfer.rows == "all" else longest(rows) for rows in groups.values()]
        return [*found, *([[None]] if transfer.scratch else [])]

    def seeded(self, parent: Planned | None, transfer: Transfer) -> tuple[int, ...]:
        """The seeds with which a transfer is run from a row."""
        if not transfer.seeds:
            return self.seeds if parent is None else (parent.seed,)
        return transfer.seeds if parent is None or parent.seed == self.seeds[0] else ()

    def transferred(
        self, name: str, parent: Planned | None, stage: Stage, *, seed: int, candidate: str = "", tuning: int = 0
    ) -> Planned:
        """The transfer ``name`` with ``stage`` from a row, or a candidate for it.

        Args:
            name: Of the transfer.
            parent: The row that it starts from; None for nothing.
            stage: The one that was chosen, or is tried.
            seed: Of the run.
            candidate: Its name, where it is tried.
            tuning: FLOPs that choosing it has cost.
        """
        transfer = self.transfers[name]
        recipe = Recipe(
            stages=(transfer.started(stage, None if parent is None else parent.run_id),),
            evaluations=(transfer.chooser,) if candidate else transfer.evaluations,
            seed=seed,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            watts=self.watts,
        )
        kind = "tuning" if candidate else "baseline" if parent is None else "transfer"
        return Planned(
            label=SCRATCH if parent is None else parent.label,
            kind=kind,
            seed=seed,
            budget=None if parent is None else parent.budget,
            recipe=recipe,
            dataset="" if parent is None else parent.dataset,
            transfer=name,
            candidate=candidate,
            tuning=tuning,
        )

    @property
    def row_evaluations(self) -> list[Evaluation]:
        """Every evaluation of a row that is no named transfer's."""
        own = (evaluation for evaluations in self.own_evaluations.values() for evaluation in evaluations)
        return [*self.evaluations, *self.transfer_evaluations, *own]

    def cells(self) -> Iterator[tuple[str, tuple[Stage, ...]]]:
        """(method, stages) of every pair of a method and data."""
        return ((method, stages) for method, _, stages in self._cells())

    def _cells(self) -> Iterator[tuple[str, str, tuple[Stage, ...]]]:
        """(method, label of the data, stages)."""
        for method, stages in self.methods.items():
            if not self.datasets:
                yield method, "", stages
            for label, dataset in self.datasets.items():
                if self._budgets(method, label):
                    chosen = self.overlays.get(f"{method}/{label}", stages)
                    yield method, label, tuple(dataclasses.replace(stage, dataset=dataset) for stage in chosen)

    def _budgets(self, method: str, data: str) -> tuple[str, ...]:
        return self.lengths.get(f"{method}/{data}", self.lengths.get(data, self.budgets))

    def finetuned(self, best: Planned) -> Planned:
        """The fine-tune of a finished row."""
        assert self.finetune is not None
        stage = dataclasses.replace(self.finetune, init=(from_row(best.run_id),))
        recipe = self.recipe((stage,), seed=best.seed, budget=None, transfer=True)
        label, data = f"fine-tune of {best.label}", stage.dataset.info.name
        return Planned(label=label, kind="transfer", seed=best.seed, budget=best.budget, recipe=recipe, dataset=data)

    def from_scratch(self, *, seed: int, budget: str, flops: int) -> Planned:
        """Training from scratch on the labelled data with the total FLOPs of the pre-trained route."""
        assert self.scratch is not None
        stage = dataclasses.replace(self.scratch, length=str(flops), init=())
        recipe = self.recipe((stage,), seed=seed, budget=None, transfer=True)
        data = stage.dataset.info.name
        return Planned(label="scratch", kind="baseline", seed=seed, budget=budget, recipe=recipe, dataset=data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study before it has happened.

    Attributes:
        kind: "baseline", "method", "transfer" or "tuning".
        dataset: The data of pre-training: their label in ``Study.datasets``, else their own name.
        transfer, candidate: Which transfer of the study it is, and which candidate for it.
        tuning: FLOPs that choosing its settings has cost.
    """

    label: str
    kind: str
    seed: int
    budget: str | None
    recipe: Recipe
    dataset: str = ""
    transfer: str = ""
    candidate: str = ""
    tuning: int = 0

    @property
    def parents(self) -> tuple[str, ...]:
        """Run ids of the rows that it starts from."""
        return tuple(PurePath(i.run).name for stage in self.recipe.stages for i in stage.init if i.run)

    @functools.cached_property
    def run_id(self) -> str:
        """Deterministic: readable, and a hash of the whole configuration."""
        budget = "" if self.budget is None else str(self.budget)
        parts = [part for part in (self.transfer, self.label, self.candidate, budget, f"s{self.seed}") if part]
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")
        return f"{slug}-{digest(self.recipe)[:8]}"


def longest(rows: Sequence[Planned | None]) -> list[Planned | None]:
    """The rows of one method and data set at the largest of their budgets."""
    largest = _largest([row.budget for row in rows if row is not None and row.budget is not None])
    return [row for row in rows if row is None or row.budget == largest]


def _largest(given: Sequence[str]) -> str:
    return max(given, key=lambda budget: budgets.parse(budget).amount, default="")
