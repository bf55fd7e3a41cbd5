"""A 90 % interval holds the truth in 85 to 95 % of 200 draws, on simulated studies whose truth is known."""

import dataclasses

import pytest

from spendflops.study import frontier
from spendflops.testing import coverage
from spendflops.testing.coverage import CROSSING, EQUAL, FOUR, Coverage, counted

DRAWS = 200


def holds(found: Coverage) -> bool:
    return 0.85 <= found.share <= 0.95


def test_counting():
    found = counted(iter([((0.0, 2.0), 1.0), ((0.0, float("inf")), -1.0), (None, 0.0)]))
    assert found == Coverage(held=1, asked=2, silent=1, open=1) and found.share == 0.5


def test_where_the_true_curves_cross():
    place = coverage.crossing(CROSSING, "small", "large")
    assert CROSSING.curves["small"](place) == pytest.approx(CROSSING.curves["large"](place))
    assert place == pytest.approx(5.336e18, rel=1e-3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_crossovers(seeds):
    found = coverage.of_crossovers(dataclasses.replace(CROSSING, seeds=seeds), draws=DRAWS)
    assert holds(found) and found.silent < 0.1 * DRAWS and found.open < 0.6 * DRAWS


def test_crossovers_of_two_lengths():
    """As far apart as they may be, a line between them is nearly the curves; further apart nothing is said."""
    two = dataclasses.replace(CROSSING, seeds=3, budgets=(coverage.LENGTHS[3] * 2 // 5, coverage.LENGTHS[3]))
    assert holds(coverage.of_crossovers(two, draws=DRAWS))
    far = dataclasses.replace(two, budgets=(coverage.LENGTHS[1], coverage.LENGTHS[3]))
    assert not any(c.low or c.high for p in coverage.drawn(far, 20, 0) for c in frontier.crossovers(p))


@pytest.mark.parametrize("seeds", [2, 3])
def test_paired_differences(seeds):
    assert holds(coverage.of_differences(dataclasses.replace(CROSSING, seeds=seeds, shared=2.0), draws=DRAWS))


def test_power_laws_at_twice_the_longest_run():
    assert holds(coverage.of_predictions(CROSSING, factor=2, draws=DRAWS))


def test_power_laws_fitted_together():
    """50 draws of four curves each."""
    assert holds(coverage.of_families(FOUR, factor=2, draws=50))


def test_the_score_between_two_lengths():
    """A factor of 2 apart a line between them is nearly the curve; further apart nothing is said."""
    two = dataclasses.replace(FOUR, budgets=coverage.LENGTHS[2:4])
    assert holds(coverage.of_choices(two, budget=5.657e18, draws=DRAWS))
    far = dataclasses.replace(FOUR, budgets=(coverage.LENGTHS[2], 3 * coverage.LENGTHS[2]))
    assert coverage.of_choices(far, budget=1.7 * coverage.LENGTHS[2], draws=5).silent == 5


@pytest.mark.parametrize("study, budget", [(CROSSING, 1.6e19), (FOUR, 8e18)], ids=["two", "four"])
def test_the_score_of_what_is_recommended(study, budget):
    assert holds(coverage.of_choices(study, budget=budget, draws=DRAWS))


@pytest.mark.slow
def test_the_score_of_the_best_of_five_equals():
    """The best by chance alone: the interval errs on the safe side, and far from the 76 % of an ordinary one."""
    assert coverage.of_choices(EQUAL, budget=8e18, draws=DRAWS).share >= 0.88


@pytest.mark.slow
def test_where_a_recommendation_flips():
    assert holds(coverage.of_flips(CROSSING, draws=DRAWS))
