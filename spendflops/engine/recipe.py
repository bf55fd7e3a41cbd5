"""A run, described: stages, then evaluations. Plain data: built by gin, or by hand in Python."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.objective import Views
from spendflops.engine.optim import Optimizer
from spendflops.engine.rundir import plain
from spendflops.engine.sharding import Mesh

ROLES = ("pretrain", "transfer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
    """Where a stage takes parameters from.

    Attributes:
        stage: Name of an earlier stage of this recipe; or
        run: A finished run directory, relative to this run's or to the working directory. Its FLOPs are ``prior``; or
        weights: A folder that ``spendflops import`` made, relative to the working directory. Its FLOPs, if it says
            them, are ``prior``.
        select: Regular expression over parameter paths: each path that matches must be found in the source.
        allow: Expressions of paths that may be missing there; they keep their new values.
    """

    stage: str | None = None
    run: str | None = None
    weights: str | None = None
    select: str = "backbone/.*"
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.stage, self.run, self.weights)) != 1:
            raise errors.ConfigError("InitFrom needs exactly one of `stage`, `run` and `weights`")

    @property
    def source(self) -> str:
        """The one that is given."""
        return self.stage or self.run or self.weights or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: an objective on a backbone and data.

    Attributes:
        name: Unique in the recipe; by default the objective's plugin name.
        objective, backbone: Factories (classes with their options bound).
        dataset, split: The data; ``split`` may name a part: ``"train[0/2]"``, ``"train[:512]"``.
        views: Sample -> inputs; None for the objective's own views with their defaults.
        batch_size: Global.
        accumulate: Micro-batches that a batch is divided into to save memory; see ``engine.step.train_step``.
        mesh: How the devices share the work; no part of what a run is, since it changes no result: it may go on with
            another one.
        optimizer: With its schedules.
        role: ``"pretrain"``: paid from the recipe's budget; ``"transfer"``: its own ``length`` and its own column.
        share: Part of the budget, for pre-training stages; the shares of a recipe sum to 1.
        length: Budget of a transfer stage: ``"1e11"``, ``"20 epochs"``, ``"500 steps"``.
        init: Parameters taken from earlier stages or runs.
        skip_broken: How many different examples may be broken: each is replaced by another one, named in the logs and
            counted in the result. With 0 the first is an error.
    """

    objective: Callable[..., Any]
    backbone: Callable[..., Any]
    dataset: Dataset
    optimizer: Optimizer
    batch_size: int
    split: str = "train"
    views: Views | None = None
    name: str | None = None
    role: str = "pretrain"
    share: float = 1.0
    length: str | None = None
    init: tuple[InitFrom, ...] = ()
    skip_broken: int = 0
    accumulate: int = 1
    mesh: Mesh = dataclasses.field(default_factory=Mesh, metadata={"described": False})

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise errors.ConfigError(f"Stage.role must be one of {ROLES}, not {self.role!r}")
        if (self.length is None) == (self.role == "transfer"):
            raise errors.ConfigError(
                f"stage {self.label!r}: role {self.role!r} with length {self.length!r}",
                why="a pre-training stage is paid from the recipe's budget, a transfer stage has its own length",
                fix="set Stage.length for role 'transfer' and only there",
            )
        if not isinstance(self.dataset, Dataset):
            raise errors.ConfigError(f"Stage.dataset is {self.dataset!r}", fix="give a Dataset, in gin with ()")

    @property
    def label(self) -> str:
        """The stage's name."""
        factory = getattr(self.objective, "func", self.objective)
        return self.name or getattr(factory, "__name__", "stage").lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A score: an evaluator on data.

    Attributes:
        evaluator: The evaluator.
        data: Role -> (data set, split). Roles that the evaluator supplies may be left out.
        name: Unique in the recipe, no path; by default the evaluator's class name. Files that the evaluator keeps lie
            under it, in the run's folder ``evaluations``.
        stage: Name of the stage whose model is scored; None for the last.
        weights: ``"online"``, ``"teacher"`` or None for the method's own choice.
        batch_size: Global.
        skip_broken: How many different examples of a split may be broken: they are left out, named in the logs and
            counted beside the score. With 0 the first is an error.
    """

    evaluator: Evaluator
    data: Mapping[str, tuple[Dataset, str]]
    name: str | None = None
    stage: str | None = None
    weights: str | None = None
    batch_size: int = 256
    skip_broken: int = 0

    def __post_init__(self) -> None:
        if not plain(self.label):
            raise errors.ConfigError(f"evaluation {self.label!r} has a path for a name", fix="a plain name, without /")
        object.__setattr__(self, "data", {**self.evaluator.supplies(self.data), **self.data})
        if set(self.data) != set(self.evaluator.roles):
            raise errors.ConfigError(
                f"evaluation {self.label!r} has data for {sorted(self.data)}",
                why=f"the evaluator's roles are {list(self.evaluator.roles)}",
            )

    @property
    def label(self) -> str:
        """The evaluation's name."""
        return self.name or type(self.evaluator).__name__.lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A score at several times while a stage trains, charged apart from the budget.

    Attributes:
        evaluation: What is scored; its ``stage`` says while which stage, None the last.
        every: Part of the stage between two probes, above 0 and below 1; after the last step there is none.
        at_least, at_most: Bounds of the primary value, beyond which a run is hopeless and stops, with exit code 5.
        after: Part of the stage from which the bounds count.
    """

    evaluation: Evaluation
    every: float = 0.1
    at_least: float | None = None
    at_most: float | None = None
    after: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.every < 1 or not 0 <= self.after <= 1:
            raise errors.ConfigError(
                f"Probe of {self.evaluation.label!r}: every {self.every}, after {self.after}",
                why="both are parts of the stage",
                fix="every above 0 and below 1, after from 0 to 1",
            )

    def steps(self, steps: int) -> list[int]:
        """After how many steps of a stage of ``steps`` it is taken."""
        times = (round(number * self.every * steps) for number in range(1, math.ceil(1 / self.every)))
        return sorted({step for step in times if 0 < step < steps})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages, then evaluations.

    Attributes:
        stages: In order.
        evaluations: Of the finished stages.
        probes: Scores while stages train.
        budget: What the pre-training stages spend: ``"3e18"``, ``"3 EFLOP"``, ``"250000 steps"``, ``"100 epochs"``, or
            hours, kWh or kg of CO2e on a machine, ``"2h@1xH200"``.
        seed: Of everything random.
        log_every: Steps between rows of metrics.
        checkpoint_every: Steps between checkpoints; the last step of a stage is always one.
        watts: Assumed power of the whole machine, for the footprint; None for an assumption by its number of cores.
    """

    stages: tuple[Stage, ...]
    evaluations: tuple[Evaluation, ...] = ()
    probes: tuple[Probe, ...] = ()
    budget: str | float | int | None = None
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    watts: float | None = None

    def __post_init__(self) -> None:
        names = [s.label for s in self.stages]
        labels = [e.label for e in self.evaluations]
        probed = [p.evaluation.label for p in self.probes]
        for kind, given in (("stages", names), ("evaluations", labels), ("probes", probed)):
            doubled = sorted({n for n in given if given.count(n) > 1})
            if doubled:
                raise errors.ConfigError(f"two {kind} are called {doubled[0]!r}", fix="give them a `name`")
            odd = [n for n in given if not re.fullmatch(r"[\w.-]*\w[\w.-]*", n)]
            if odd:
                raise errors.ConfigError(f"{odd[0]!r} cannot be a name", fix="use letters, digits and . _ -")
        if not self.stages:
            raise errors.ConfigError("a recipe needs at least one stage")
        pretraining = [s for s in self.stages if s.role == "pretrain"]
        if pretraining and self.budget is None:
            raise errors.ConfigError("no budget given", fix="--budget 3e18, or Recipe.budget = '3e18'")
        if pretraining and abs(sum(s.share for s in pretraining) - 1) > 1e-6:
            raise errors.ConfigError(
                f"the shares of the pre-training stages sum to {sum(s.share for s in pretraining):g}",
                fix="set Stage.share of each so that they sum to 1",
            )
        if min(self.log_every, self.checkpoint_every) < 1:
            raise errors.ConfigError("log_every and checkpoint_every count steps: at least 1")
        for place, stage in enumerate(self.stages):
            for init in stage.init:
                if init.stage is not None and init.stage not in names[:place]:
                    raise errors.ConfigError(
                        f"stage {stage.label!r} starts from {init.stage!r}{errors.suggest(init.stage, names)}",
                        why=f"the stages before it are {names[:place]}",
                    )
        for evaluation in (*self.evaluations, *(probe.evaluation for probe in self.probes)):
            if evaluation.stage is not None and evaluation.stage not in names:
                raise errors.ConfigError(f"evaluation {evaluation.label!r} names stage {evaluation.stage!r}")

    @property
    def conversion(self) -> budgets.Conversion | None:
        """How a budget of hours, kWh or kg became FLOPs; None for every other."""
        return None if self.budget is None else budgets.parse(self.budget).converted

    def allotted(self, stage: Stage) -> budgets.Budget:
        """The budget of a stage."""
        if stage.role == "transfer":
            return budgets.parse(stage.length or "")
        return budgets.parse(self.budget if self.budget is not None else "").part(stage.share)
