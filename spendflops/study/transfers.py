"""What follows pre-training in a study: a stage on labelled data, tuned if wanted, from every row's weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from spendflops.contracts import errors
from spendflops.engine.recipe import Evaluation, InitFrom, Stage

ROWS = ("all", "largest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer stage with its scores, for every method of a study.

    Attributes:
        stage: Of role ``"transfer"``; where it starts from is the study's to say.
        evaluations: Its scores.
        select, allow: What it takes of the row's weights, see :class:`InitFrom`.
        candidates: Name -> stage that is tried in the place of ``stage``, see :func:`sweep`. For each method and data
            set all of them are run, from the row of the first seed at the largest budget; the best is used for all rows
            of the method. What that cost is counted, and shown beside their scores.
        choose: The evaluation that chooses, better on other data than those of ``evaluations``; by default the first of
            these. Koppula et al. 2022 (arXiv 2209.15589, A.4) choose on the split that they report.
        seeds: Of the transfer, all of them from the weights of the study's first seed; none runs it once from the
            weights of every seed, with that seed.
        rows: ``"all"``, or ``"largest"`` for the rows at the largest budget of each method and data set alone.
        methods: Labels of the methods that it follows; none for all.
        scratch: Whether the same is done without any pre-training.
    """

    stage: Stage
    evaluations: tuple[Evaluation, ...]
    select: str = "backbone/.*"
    allow: tuple[str, ...] = ()
    candidates: Mapping[str, Stage] = dataclasses.field(default_factory=dict)
    choose: Evaluation | None = None
    seeds: tuple[int, ...] = ()
    rows: str = "all"
    methods: tuple[str, ...] = ()
    scratch: bool = True

    def __post_init__(self) -> None:
        for stage in (self.stage, *self.candidates.values()):
            if stage.role != "transfer" or stage.init:
                raise errors.ConfigError(
                    f"stage {stage.label!r} of a Transfer has role {stage.role!r} and {len(stage.init)} sources",
                    why="it is paid apart from the budget, and starts from every row of the study",
                    fix="Stage.role = 'transfer' and no Stage.init; Transfer.select says what it takes",
                )
        if not self.evaluations:
            raise errors.ConfigError("a Transfer needs evaluations", fix="Transfer.evaluations = (@Evaluation(),)")
        if self.rows not in ROWS:
            raise errors.ConfigError(f"Transfer.rows is {self.rows!r}{errors.suggest(self.rows, ROWS)}", fix=str(ROWS))

    def follows(self, method: str) -> bool:
        """Whether it is run from the rows of a method."""
        return not self.methods or method in self.methods

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The candidates, or the stage under no name."""
        return self.candidates or {"": self.stage}

    @property
    def chooser(self) -> Evaluation:
        """The evaluation that chooses among the candidates."""
        return self.choose or self.evaluations[0]

    def started(self, stage: Stage, run_id: str | None) -> Stage:
        """``stage`` from the weights of a row of the same study, or from nothing."""
        if run_id is None:
            return stage
        return dataclasses.replace(stage, init=(from_row(run_id, select=self.select, allow=self.allow),))


def from_row(run_id: str, **options: Any) -> InitFrom:
    """The weights of another row of the same study; options are those of :class:`InitFrom`."""
    # Relative to the run's own folder: the study may be called from anywhere, and moved.
    return InitFrom(run=f"../{run_id}", **options)


def sweep(*, stage: Stage, lr: tuple[float, ...] = (), weight_decay: tuple[float, ...] = ()) -> dict[str, Stage]:
    """``stage`` with every pair of a learning rate and a weight decay, by name; what is not given stays.

    Args:
        stage: Its optimiser has a rate that is a number, or a schedule with a ``peak``.
        lr: Rates, or peaks.
        weight_decay: Decays.

    Raises:
        errors.ConfigError: Nothing to try, or a schedule without a peak.
    """
    if not lr and not weight_decay:
        raise errors.ConfigError("a sweep without values", fix="lr = (1e-4, 3e-4), or weight_decay = (0.05, 0.1)")
    given = stage.optimizer
    if lr and callable(given.lr) and not hasattr(given.lr, "peak"):
        raise errors.ConfigError(f"the schedule {given.lr!r} has no peak", fix="use one with a warm-up, or a number")
    stages = {}
    for rate, decay in itertools.product(lr or (None,), weight_decay or (None,)):
        name, optimizer = [], given
        if rate is not None:
            name.append(f"lr {rate:g}")
            scheduled = dataclasses.replace(given.lr, peak=rate) if callable(given.lr) else rate
            optimizer = dataclasses.replace(optimizer, lr=scheduled)
        if decay is not None:
            name.append(f"wd {decay:g}")
            optimizer = dataclasses.replace(optimizer, weight_decay=decay)
        stages[", ".join(name)] = dataclasses.replace(stage, optimizer=optimizer)
    return stages
