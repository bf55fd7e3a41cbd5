"""What choosing settings has cost each method, and how they compare if all had been tuned equally.

A method that was tried with forty settings and one that was tried with four are no fair pair. The score that a method
would have with ``k`` of its ``n`` candidates is known without another run: the mean over all choices of ``k`` of the
best among them (Dodge et al. 2019, arXiv 1909.03004, section 3, here without replacement, which makes it unbiased:
Tang et al. 2020, arXiv 2004.13705).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from spendflops.contracts.errors import ConfigError
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.points import Axis, Row, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """One method.

    Attributes:
        tried: Candidates with a score.
        failed: Candidates without one; they are paid for, too.
        flops: What all of them have cost.
        best: The best score among all; None if all failed.
        allowed: Candidates that equal tuning leaves it.
        equal: The score to expect of that many; None if equal tuning leaves it none.
    """

    method: str
    tried: int
    failed: int
    flops: int
    best: float | None
    allowed: int
    equal: float | None


def expected_best(scores: Sequence[float], k: int, *, higher_is_better: bool = True) -> float:
    """The mean, over all choices of ``k`` of the scores, of the best among the ``k``.

    Raises:
        ConfigError: ``k`` is not between 1 and the number of scores.
    """
    count = len(scores)
    if not 1 <= k <= count:
        raise ConfigError(f"the best of {k} among {count} candidates", why=f"k is between 1 and {count}")
    ordered = sorted(scores, reverse=not higher_is_better)
    total = math.comb(count, k)
    return sum(math.comb(i, k - 1) / total * score for i, score in enumerate(ordered) if i >= k - 1)


def tuning(rows: Iterable[Row], axis: Axis, *, flops: float | None = None) -> tuple[Tuning, ...] | NotEnough:
    """What tuning has cost each method, and its score with as much tuning as the others.

    Args:
        rows: Those of kind ``"tuning"`` count.
        axis: Of the score that chose.
        flops: What each method may spend on tuning; by default each has as many candidates as the method with the
            fewest.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "tuning":
            groups.setdefault(row.label, []).append(row)
    scored = {name: [s.value for row in group for s in _on(row, axis)] for name, group in groups.items()}
    if not any(scored.values()):
        return NotEnough(reason="no row of kind 'tuning' has a score on this axis", fix="record every candidate")
    fewest = min(len(scores) for scores in scored.values() if scores)
    found = []
    for name, scores in scored.items():
        spent = sum(_spent(row) for row in groups[name])
        allowed = min(fewest, len(scores))
        if flops is not None and spent:  # a candidate with a score costs its share of those that failed, too
            allowed = min(int(flops * len(scores) // spent), len(scores))
        found.append(
            Tuning(
                method=name,
                tried=len(scores),
                failed=len(groups[name]) - len(scores),
                flops=spent,
                best=max(scores, key=lambda s: s * axis.sign, default=None),
                allowed=allowed,
                equal=expected_best(scores, allowed, higher_is_better=axis.higher_is_better) if allowed else None,
            )
        )
    return tuple(found)


def _on(row: Row, axis: Axis) -> list[Score]:
    """The score of a finished row on the axis, if it has one."""
    return [score for score in row.scores if score.axis == axis] if row.ok else []


def _spent(row: Row) -> int:
    """Everything that a run spent itself, what it lost included; evaluation apart."""
    return row.own("pretrain") + row.own("transfer") + row.own("wasted")
