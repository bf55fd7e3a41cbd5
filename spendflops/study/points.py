"""The rows of a report: what was spent, on what, and what it scored. Plain data, without jax."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from spendflops.accounts.footprint import Footprint
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study.traces import Trace

SCHEMA = 1
FLOP_KINDS = ("pretrain", "transfer", "evaluate", "wasted")
PHASES = ("augment", "targets", "forward", "backward", "update", "predict", "other")
SCRATCH = "no pre-training"
"""The label of the rows of a transfer that start from nothing."""
Cost = Literal["paid", "pretrain"]
_FOOTPRINTS = ("footprint", "measured")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """What must be equal for two scores to be compared at all."""

    evaluator: str
    protocol: str
    metric: str
    dataset: str
    split: str
    higher_is_better: bool
    unit: str

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def place(self) -> str:
        """Data set and split that were scored, e.g. ``shapes/test``."""
        return "/".join(part for part in (self.dataset, self.split) if part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one evaluation of one run.

    Attributes:
        value: Finite, in ``unit``.
        sd: Sample standard deviation (divisor n - 1) of the ``n`` values that ``value`` is the mean of.
        spread: What the ``n`` values are, e.g. ``"3 label subsets"``.
        dataset: The data that were scored, not those of pre-training.
        unit: ``"%"``, or empty for a pure number.
        others: What else the evaluator says, by name, as it says it: fractions are fractions.

    Raises:
        DataError: Not finite, or a standard deviation of fewer than two values.
    """

    evaluator: str
    protocol: str
    metric: str
    value: float
    sd: float | None = None
    n: int = 1
    spread: str = ""
    higher_is_better: bool = True
    dataset: str = ""
    split: str = ""
    unit: str = ""
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not math.isfinite(self.value) or (self.sd is not None and not math.isfinite(self.sd)):
            raise DataError(
                f"the score {self.metric} of {self.protocol} is {self.value} with sd {self.sd}",
                why="a number that is not finite has no place on an axis",
                fix="give the row the status 'failed: ...' and leave the score out",
            )
        if self.sd is not None and (self.n < 2 or self.sd < 0):
            raise DataError(
                f"the score {self.metric} of {self.protocol} has sd {self.sd} of {self.n} value(s)",
                why="a standard deviation needs two values and is not negative",
                fix="give n, the number of values, or no sd",
            )

    @property
    def axis(self) -> Axis:
        """The axis this score belongs to."""
        return Axis(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Axis)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that an evaluation of a run kept; ``path`` is relative to the folder of the report."""

    evaluation: str
    path: str


_LISTS: Mapping[str, type] = {"scores": Score, "pictures": Picture, "traces": Trace}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One run of one seed.

    Attributes:
        label: The method or baseline: ``"mae"``, ``"random"``, ``"scratch"``, ``"fine-tune of mae"``.
        kind: ``"baseline"`` for what needs no pre-training method; ``"transfer"`` for a run that starts from another
            row's weights; ``"tuning"`` for one whose score only chose settings: it is on no axis.
        dataset: The data of pre-training; empty where there was none.
        budget: FLOPs that were to be spent on pre-training.
        flops: Model FLOPs by kind (``FLOP_KINDS``). ``pretrain`` of a transfer row is that of the weights it starts
            from; ``None`` is unknown. A score that needed a transfer of its own is a row of its own.
        hardware_flops: FLOPs of the row's own compiled training programs, or ``None`` with a ``hardware_reason``.
        phases: Model FLOPs of the same programs by phase (``PHASES``): of pre-training, or of the transfer of a row
            that only transfers.
        epochs: How often the pre-training data were seen, on average; ``None`` for endless data.
        seconds: Wall time by kind (``FLOP_KINDS``); like ``flops``, ``pretrain`` of a transfer row is the parent's.
        status: ``"ok"``, ``"failed: reason"``, or ``"stopped: reason"`` for what was not worth its FLOPs.
        footprint: Of all of ``seconds``, estimated.
        measured: Of this run alone, by counters; None with a ``measured_reason``.
        parent: The run that it starts from, whose FLOPs are its ``pretrain``.
        transfer: Which of the study's transfers it is; empty for a row of pre-training.
        candidate: The settings that a ``"tuning"`` row tried, by name.
        labelled: Examples that the transfer had.
        tuning: FLOPs that choosing the row's settings has cost. They are spent once for all rows of a method.
        pictures: What its evaluations kept to be looked at.
        traces: What it said while it trained.
        cached: FLOPs within ``evaluate`` that an earlier pass spent, whose outputs were kept.
        trunk: FLOPs within ``pretrain`` that a shorter run spent, from whose trunk this one went on: the others are
            what this length cost the study, all of them what it would have cost alone.
        trunk_seconds: Within ``seconds``, likewise.
        parameters: Of what was trained, with heads and decoders; ``None`` where nobody says.
        settings: Options by name, for the table of what differs; values are printed with ``str``.
        folder: The run directory.
    """

    run_id: str
    label: str
    kind: Literal["method", "baseline", "transfer", "tuning"] = "method"
    backbone: str
    dataset: str
    seed: int
    budget: int | None = None
    flops: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    hardware_flops: int | None = None
    hardware_reason: str = ""
    phases: Mapping[str, int] = dataclasses.field(default_factory=dict)
    images_seen: int = 0
    epochs: float | None = None
    steps: int = 0
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    device: str = ""
    scores: tuple[Score, ...] = ()
    status: str = "ok"
    footprint: Footprint | None = None
    measured: Footprint | None = None
    measured_reason: str = ""
    config_hash: str = ""
    parent: str = ""
    transfer: str = ""
    candidate: str = ""
    labelled: int | None = None
    tuning: int = 0
    cached: int = 0
    trunk: int = 0
    trunk_seconds: float = 0.0
    parameters: int | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    folder: str = ""
    pictures: tuple[Picture, ...] = ()
    traces: tuple[Trace, ...] = ()

    def __post_init__(self):
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field, known in (("flops", FLOP_KINDS), ("seconds", FLOP_KINDS), ("phases", PHASES)):
            unknown = sorted(set(getattr(self, field)) - set(known))
            if unknown:
                raise ConfigError(
                    f"row {self.run_id}: {field} has the keys {unknown}",
                    why=f"the keys of {field} are {list(known)}",
                    fix="add what has no name of its own to 'other' or to 'evaluate'",
                )

    @property
    def ok(self) -> bool:
        """Whether the run finished."""
        return self.status == "ok"

    @property
    def stopped(self) -> bool:
        """Whether it was not worth its FLOPs."""
        return self.status.startswith("stopped:")

    @property
    def marginal(self) -> int | None:
        """FLOPs of :meth:`cost` without those of its trunk, which a shorter run spent."""
        cost = self.cost()
        return None if cost is None else cost - self.trunk

    def cost(self, which: Cost = "paid") -> int | None:
        """FLOPs on the axis: ``paid`` is pre-training + transfer. ``None`` if a part is unknown."""
        parts = [self.flops.get(kind, 0) for kind in (("pretrain",) if which == "pretrain" else FLOP_KINDS[:2])]
        return None if any(part is None for part in parts) else sum(part or 0 for part in parts)

    def own(self, kind: str) -> int:
        """FLOPs of a kind that this run spent itself: the parent of a transfer row has a row of its own."""
        if kind == "pretrain" and self.follows:
            return 0
        return (self.flops.get(kind) or 0) - {"evaluate": self.cached, "pretrain": self.trunk}.get(kind, 0)

    @property
    def follows(self) -> bool:
        """Whether its ``pretrain`` was spent by another row."""
        return bool(self.parent) or self.kind == "transfer"

    @property
    def own_share(self) -> float:
        """The part of ``seconds`` (and of the footprint) that this run spent itself."""
        total = sum(self.seconds.values())
        before = self.seconds.get("pretrain", 0.0) if self.follows else self.trunk_seconds
        return 1 - before / total if total else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings; FLOPs stay exact integers."""
        plain = {name: dict(value) for name, value in vars(self).items() if isinstance(value, Mapping)}
        plain |= {name: [dataclasses.asdict(x) for x in getattr(self, name)] for name in _LISTS}
        for name in _FOOTPRINTS:
            value = getattr(self, name)
            plain[name] = None if value is None else dataclasses.asdict(value)
        return {**vars(self), **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of :meth:`to_json`."""
        found = {name: Footprint(**data[name]) for name in _FOOTPRINTS if data.get(name)}
        lists = {name: tuple(kind(**item) for item in data.get(name, ())) for name, kind in _LISTS.items()}
        return cls(**{**data, **found, **lists})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many images two roles share, by content hash: a score on images that were trained on is not a test."""

    a: str
    b: str
    shared: int
    a_images: int
    b_images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report page shows.

    Attributes:
        question: What the study asks, one sentence.
        created: ISO 8601.
        protocols: What a protocol id means, one paragraph each.
        notes: Warnings to read before the results, e.g. a budget below one epoch.
        command: What reproduces the study.
        budget: FLOPs at which the question is answered; the largest one of the rows by default.
    """

    title: str
    question: str
    created: str
    rows: tuple[Row, ...]
    assumptions: tuple[str, ...] = ()
    protocols: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overlap: tuple[Overlap, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    citation: str = ""
    budget: int | None = None

    def __post_init__(self):
        for name in ("rows", "assumptions", "overlap", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that did not finish."""
        return tuple(row for row in self.rows if not row.ok and not row.stopped)

    @property
    def stopped(self) -> tuple[Row, ...]:
        """The rows that were not worth their FLOPs."""
        return tuple(row for row in self.rows if row.stopped)

    def to_json(self) -> dict[str, Any]:
        """Plain data with a ``schema`` number."""
        return {
            "schema": SCHEMA,
            **vars(self),
            "rows": [row.to_json() for row in self.rows],
            "assumptions": list(self.assumptions),
            "protocols": dict(self.protocols),
            "overlap": [dataclasses.asdict(item) for item in self.overlap],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The inverse of :meth:`to_json`; what a writer added beside it (``analysis``) is computed again, not read.

        Raises:
            DataError: Another schema.
        """
        if data.get("schema") != SCHEMA:
            raise DataError(
                f"a report of schema {data.get('schema')!r}",
                why=f"this version reads schema {SCHEMA}",
                fix="render the report again from the run folders",
            )
        known = {field.name for field in dataclasses.fields(cls)}
        plain = {name: value for name, value in data.items() if name in known}
        rows = tuple(Row.from_json(row) for row in data["rows"])
        return cls(**{**plain, "rows": rows, "overlap": tuple(Overlap(**item) for item in data.get("overlap", ()))})


def axes(rows: Iterable[Row]) -> list[Axis]:
    """The axes of the finished rows, in order of appearance; what only chose settings is on none."""
    return list(dict.fromkeys(score.axis for row in rows if row.ok and row.kind != "tuning" for score in row.scores))


def csv_text(rows: Iterable[Row]) -> str:
    """One line a row and score (one line for a row without any), with exact integers and empty cells for unknowns."""
    lines = [_flat(row, score) for row in rows for score in (row.scores or (None,))]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


_ROW_COLUMNS = ("run_id", "label", "kind", "backbone", "dataset", "seed", "budget")
_SCORE_COLUMNS = ("evaluator", "protocol", "metric", "value", "sd", "n", "spread", "higher_is_better", "unit")
_FOOTPRINT_COLUMNS = ("basis", "hours", "watts", "intensity_g_per_kwh", "pue", "kwh", "kg", "kg_low", "kg_high")
_REST = (
    "transfer",
    "candidate",
    "labelled",
    "tuning",
    "cached",
    "trunk",
    "images_seen",
    "epochs",
    "steps",
    "parameters",
    "device",
    "hardware_flops",
    "hardware_reason",
    "config_hash",
    "folder",
)
_COLUMNS = (
    *_ROW_COLUMNS,
    "status",
    *_SCORE_COLUMNS,
    "eval_dataset",
    "eval_split",
    "flops_paid",
    "flops_marginal",
    *(f"flops_{kind}" for kind in FLOP_KINDS),
    *(f"phase_{name}" for name in PHASES),
    *(f"seconds_{kind}" for kind in FLOP_KINDS),
    *(f"{kind}_{name}" for kind in _FOOTPRINTS for name in _FOOTPRINT_COLUMNS),
    "measured_reason",
    *_REST,
)


def _flat(row: Row, score: Score | None) -> dict[str, Any]:
    line = {name: getattr(row, name) for name in (*_ROW_COLUMNS, "status", *_REST)}
    line |= {"flops_paid": row.cost(), "flops_marginal": row.marginal}
    line.update({f"flops_{kind}": row.flops.get(kind) for kind in FLOP_KINDS})
    line.update({f"phase_{name}": row.phases.get(name) for name in PHASES})
    line.update({f"seconds_{kind}": row.seconds.get(kind) for kind in FLOP_KINDS})
    if score is not None:
        line.update({name: getattr(score, name) for name in _SCORE_COLUMNS})
        line.update(eval_dataset=score.dataset, eval_split=score.split)
    for kind in _FOOTPRINTS:
        item = getattr(row, kind)
        if item is not None:
            line.update({f"{kind}_{name}": getattr(item, name) for name in _FOOTPRINT_COLUMNS})
    line["measured_reason"] = row.measured_reason
    return line
