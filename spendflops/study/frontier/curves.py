"""Points, and the curves that they make: score over FLOPs, one protocol on one data set.

Pure functions of rows. Two axes never meet: everything takes the points of one protocol on one data set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

from spendflops.contracts.errors import ConfigError
from spendflops.study.compare import Estimate, summarise
from spendflops.study.points import Axis, Cost, Row, Score

COST_TOLERANCE = 0.05
"""Costs within this share of each other count as equal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """All seeds of one method, backbone, data set and budget on one axis.

    Attributes:
        name: The curve it belongs to.
        flops: What was spent, the place on the axis.
        cost: As ``flops``, with the budget spent in full: what is compared.
    """

    name: str
    kind: str
    axis: Axis
    budget: int | None
    flops: int
    cost: int
    estimate: Estimate
    rows: tuple[Row, ...]

    @property
    def floor(self) -> bool:
        """A baseline that costs nothing, such as a random backbone: a horizontal line."""
        return self.kind == "baseline" and self.flops == 0

    @property
    def values(self) -> tuple[float, ...]:
        """The score of every seed."""
        return tuple(score.value for row in self.rows for score in row.scores if score.axis == self.axis)


def select(rows: Iterable[Row], axis: Axis) -> list[tuple[Row, Score]]:
    """The finished rows with a score on the axis."""
    found = (row for row in rows if row.ok and row.kind != "tuning")
    return [(row, score) for row in found for score in row.scores if score.axis == axis]


def one_axis(axes: Iterable[Axis]) -> Axis:
    """The axis that all share.

    Raises:
        ConfigError: Two protocols, metrics or data sets, or none at all.
    """
    found = list(dict.fromkeys(axes))
    if len(found) != 1:
        names = [f"{axis.protocol} ({axis.metric}, {axis.place or 'no data set named'})" for axis in found]
        raise ConfigError(
            f"{len(found)} protocols for one axis: {', '.join(names)}",
            why="scores of different protocols, metrics or data sets do not compare",
            fix="analyse each axis on its own",
        )
    return found[0]


def varying(rows: Iterable[Row]) -> tuple[str, ...]:
    """The parts of a curve's name beside the label that are needed to tell the rows apart."""
    rows = list(rows)

    def needed(field: str) -> bool:
        pairs = {(row.label, getattr(row, field)) for row in rows if getattr(row, field)}
        return len(pairs) > len({label for label, _ in pairs})

    return tuple(field for field in ("backbone", "dataset") if needed(field))


def curve_name(row: Row, vary: tuple[str, ...]) -> str:
    """The label, with backbone and data set where these vary."""
    return "/".join([row.label, *(getattr(row, field) for field in vary if getattr(row, field))])


def points(pairs: Iterable[tuple[Row, Score]], *, cost: Cost = "paid", vary: tuple[str, ...] = ()) -> list[Point]:
    """Rows that differ by their seed alone become one point: median score, the spread over seeds.

    Raises:
        ConfigError: Scores of more than one axis, or two rows of one seed.
    """
    groups: dict[tuple, list[tuple[Row, Score]]] = {}
    for row, score in pairs:
        groups.setdefault((row.kind, row.label, row.backbone, row.dataset, row.budget), []).append((row, score))
    axis = one_axis(score.axis for group in groups.values() for _, score in group)
    result = []
    for group in groups.values():
        rows = tuple(row for row, _ in group)
        seeds = [row.seed for row in rows]
        if len(set(seeds)) != len(seeds):
            raise ConfigError(
                f"runs {', '.join(row.run_id for row in rows)} are one point, but seeds repeat: {sorted(seeds)}",
                why="rows of one label, backbone, data set and budget are taken for seeds of one thing",
                fix="give runs that differ in anything else another label",
            )
        spent = [row.cost(cost) for row in rows]
        if any(value is None for value in spent):
            continue
        flops = int(statistics.median(value for value in spent if value is not None))
        first = rows[0]
        pretrain = first.flops.get("pretrain") or 0
        transfer = flops - pretrain if cost == "paid" else 0
        # A run without pre-training, as training from scratch, has paid for transfer what its budget would have bought.
        budget = first.budget if pretrain and first.budget else 0
        result.append(
            Point(
                name=curve_name(first, vary),
                kind=first.kind,
                axis=axis,
                budget=first.budget,
                flops=flops,
                cost=max(flops, budget + transfer) if flops else 0,
                estimate=summarise([score for _, score in group]),
                rows=rows,
            )
        )
    return result


def curves(items: Sequence[Point]) -> dict[str, tuple[Point, ...]]:
    """The points of each name by FLOPs, floors apart (they have no place on a log axis)."""
    one_axis(point.axis for point in items)
    result: dict[str, tuple[Point, ...]] = {}
    for point in sorted(items, key=lambda p: p.flops):
        if point.flops > 0:
            result[point.name] = (*result.get(point.name, ()), point)
    return result


def at(curve: Sequence[Point], flops: float) -> Estimate | None:
    """The score at some FLOPs: a point within the tolerance, else linear in log FLOPs between two; never beyond."""
    found = near(curve, flops) or weights(curve, flops)
    return mixed(found) if found else None


def near(curve: Sequence[Point], flops: float) -> tuple[tuple[float, Point], ...]:
    """The nearest point with weight 1 if its FLOPs are within the tolerance, else nothing."""
    nearest = min(curve, key=lambda p: abs(math.log(p.flops / flops)))
    return ((1.0, nearest),) if abs(nearest.flops / flops - 1) <= COST_TOLERANCE else ()


def weights(curve: Sequence[Point], flops: float) -> tuple[tuple[float, Point], ...]:
    """The points whose weighted mean is the score at some FLOPs, linear in log FLOPs; empty beyond the measured."""
    for left, right in itertools.pairwise(curve):
        if left.flops <= flops <= right.flops:
            width = math.log(right.flops / left.flops)
            share = math.log(flops / left.flops) / width if width else 0.0
            return ((1 - share, left), (share, right))
    return ((1.0, curve[0]),) if flops == curve[0].flops else ()


def stride(curve: Sequence[Point], flops: float) -> float:
    """How many times as much the run above some FLOPs costs as the one below; 1 beyond the measured."""
    parts = weights(curve, flops)
    return parts[-1][1].flops / parts[0][1].flops if parts else 1.0


def mixed(parts: Sequence[tuple[float, Point]]) -> Estimate:
    """The weighted mean of points, and its standard error."""
    if len(parts) == 1:
        return parts[0][1].estimate
    estimates = [point.estimate for _, point in parts]
    shares = [share for share, _ in parts]
    errors = [e.se for e in estimates]
    left, right = parts[0][1].flops, parts[-1][1].flops
    return Estimate(
        value=sum(share * e.value for share, e in zip(shares, estimates, strict=True)),
        se=None if None in errors else math.hypot(*(w * (se or 0) for w, se in zip(shares, errors, strict=True))),
        n=min(e.n for e in estimates),
        seeds=min(e.seeds for e in estimates),
        source=f"interpolated between {left:.2e} and {right:.2e} FLOPs",
    )
