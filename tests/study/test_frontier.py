"""Fronts, curves, verdicts: against closed forms, brute force and scipy."""

import dataclasses
import math
import random

import numpy as np
import pytest
import scipy.stats

from spendflops.contracts.errors import ConfigError
from spendflops.study import frontier
from spendflops.study.compare import Estimate, compare, median_factor, t_critical
from spendflops.study.points import axes

T16 = [(1, 20), (2, 30), (3, 28), (4, 40), (6, 41), (8, 39)]


def test_t16_front_and_hypervolume():
    costs, scores = zip(*T16, strict=True)
    assert frontier.non_dominated(costs, scores) == [True, True, False, True, True, False]
    assert frontier.hypervolume(costs, scores, reference=(10, 0)) == 324


def test_front_to_minimise_is_the_mirrored_front():
    costs, scores = zip(*T16, strict=True)
    mirrored = frontier.non_dominated(costs, [-s for s in scores], maximise=False)
    assert mirrored == frontier.non_dominated(costs, scores)


def test_hypervolume_against_counting_cells():
    rng = random.Random(0)
    for _ in range(20):
        found = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(1, 8))]
        costs, scores = zip(*found, strict=True)
        cells = sum(any(c <= x and s >= y for c, s in found) for x in range(8) for y in range(1, 10))
        assert frontier.hypervolume(costs, scores, reference=(8, 0)) == cells


def test_equal_costs_within_the_tolerance():
    assert frontier.non_dominated([100, 103], [1, 2]) == [True, True]
    assert frontier.non_dominated([100, 103], [1, 2], tolerance=0.05) == [False, True]
    assert frontier.non_dominated([100, 103], [2, 2], tolerance=0.05) == [True, True]
    assert frontier.non_dominated([100, 200], [2, 2], tolerance=0.05) == [True, False]


@pytest.mark.parametrize("df", [1, 2, 2.7, 4, 9.31, 30, 250])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_t_critical_against_scipy(df, alpha):
    assert t_critical(df, alpha) == pytest.approx(scipy.stats.t.ppf(1 - alpha / 2, df), rel=1e-5)


def test_comparison_is_welchs_test(study):
    axis = axes(study.rows)[0]
    rng = random.Random(1)
    for _ in range(50):
        a, b = (
            (rng.uniform(0, 3), rng.uniform(0.2, 2), rng.randint(2, 9)),
            (rng.uniform(0, 3), rng.uniform(0.2, 2), rng.randint(2, 9)),
        )
        one, two = (Estimate(value=v, sd=s, n=n, se=s / math.sqrt(n)) for v, s, n in (a, b))
        p = scipy.stats.ttest_ind_from_stats(*a, *b, equal_var=False).pvalue
        if abs(p - 0.05) > 1e-3:
            assert compare(one, two, axis).distinguishable == (p < 0.05)


def test_without_spread_nothing_is_distinguishable(study):
    axis = axes(study.rows)[0]
    result = compare(Estimate(value=90.0), Estimate(value=10.0, sd=1, n=3, se=0.1), axis)
    assert result.margin is None and not result.distinguishable


def analyse(rows, **more):
    (axis,) = axes(rows)
    return frontier.analyse(rows, axis, **more)


def by_name(analysis):
    return {(v.point.name, v.point.budget): v for v in analysis.verdicts}


def test_mixed_protocols_are_refused(make_row):
    rows = [make_row("mae", 100), make_row("simclr", 100, protocol="ridge-frozen-v2")]
    pairs = [(row, row.scores[0]) for row in rows]
    with pytest.raises(ConfigError, match="2 protocols for one axis"):
        frontier.points(pairs)
    apart = [point for pair in pairs for point in frontier.points([pair])]
    for use in (frontier.curves, frontier.verdicts, frontier.crossovers, lambda p: frontier.answer(p, 100)):
        with pytest.raises(ConfigError, match="2 protocols"):
            use(apart)


def test_mixed_data_sets_are_refused(make_row, make_score):
    rows = [make_row("a", 100), make_row("b", 100, scores=(make_score(1.0, dataset="other"),))]
    with pytest.raises(ConfigError, match="other/test"):
        frontier.points([(row, row.scores[0]) for row in rows])


def test_seeds_become_a_median_with_their_spread(make_row):
    values = [50.0, 58.0, 51.0]
    rows = [make_row("mae", 100, value, seed=i) for i, value in enumerate(values)]
    (point,) = analyse(rows).points
    assert point.estimate.value == 51.0
    assert point.estimate.sd == pytest.approx(np.std(values, ddof=1))
    assert point.estimate.se == pytest.approx(median_factor(3) * np.std(values, ddof=1) / math.sqrt(3))
    assert (point.estimate.source, point.estimate.seeds) == ("3 seeds", 3)


def test_one_seed_says_that_its_spread_is_of_one_run(make_row):
    (point,) = analyse([make_row("mae", 100)]).points
    assert point.estimate.source == "3 label subsets of one run"
    assert point.estimate.se == pytest.approx(1 / math.sqrt(3))


def test_a_seed_twice_in_a_point_is_refused(make_row):
    rows = [make_row("mae", 100), make_row("mae", 100, run_id="other")]
    with pytest.raises(ConfigError, match="seeds repeat"):
        analyse(rows)


def test_names_hold_what_varies(make_row):
    rows = [make_row("random", kind="baseline"), make_row("mae", 100), make_row("mae", 100, backbone="resnet")]
    assert {p.name for p in analyse(rows).points} == {"random/vit", "mae/vit", "mae/resnet"}
    rows = [make_row("mae B", 100), make_row("mae L", 100, backbone="large", dataset="other")]
    assert {p.name for p in analyse(rows).points} == {"mae B", "mae L"}  # the label tells them apart


def test_verdicts_of_the_study(study):
    first, second = (frontier.analyse(study.rows, axis) for axis in axes(study.rows))
    found = by_name(first)
    large, small = 2_000_000_000_000, 500_000_000_000
    assert found["supervised", large].status == "on the front"
    assert [p.name for p in found["supervised", large].ties] == ["simclr"]
    assert found["simclr", large].status == "not distinguishable"
    assert found["simclr", large].against.name == "supervised"
    assert found["simclr", small].status == "behind"
    assert found["random", None].status == "floor"
    assert not found["mae", large].random.distinguishable
    assert found["supervised", small].random.difference > 0
    assert [p.name for p in second.front] == ["scratch", "fine-tune of simclr", "fine-tune of simclr"]
    assert by_name(second)["fine-tune of simclr", large].random is None


def test_a_budget_counts_as_spent_in_full(make_row):
    """Steps are whole: the method that leaves 20 % of its budget over has not found a cheaper point."""
    rows = [make_row("big steps", 1000, 50.0, flops=800), make_row("small steps", 1000, 70.0, flops=999)]
    assert [p.name for p in analyse(rows).front] == ["small steps"]


def test_below_random_is_behind_random(make_row):
    rows = [make_row("random", None, 34.0, kind="baseline"), make_row("mae", 100, 20.0)]
    verdict = by_name(analyse(rows))["mae", 100]
    assert (verdict.status, verdict.against.name) == ("behind", "random")


def test_lower_is_better(make_row, make_score):
    rows = [
        make_row(name, 100, scores=(make_score(value, metric="error", higher_is_better=False),))
        for name, value in (("good", 10.0), ("bad", 40.0))
    ]
    found = by_name(analyse(rows))
    assert found["good", 100].status == "on the front" and found["bad", 100].status == "behind"
    assert found["bad", 100].comparison.difference == -30


def test_crossovers_against_a_fine_grid(make_row):
    rng = random.Random(3)
    budgets = [10**9, 10**10, 10**11, 10**12]
    for _ in range(10):
        values = {name: [rng.uniform(0, 100) for _ in budgets] for name in "ab"}
        rows = [make_row(n, b, v, flops=b) for n in "ab" for b, v in zip(budgets, values[n], strict=True)]
        grid = np.linspace(9, 12, 300_001)
        gap = np.interp(grid, [9, 10, 11, 12], values["a"]) - np.interp(grid, [9, 10, 11, 12], values["b"])
        places = grid[:-1][np.sign(gap[:-1]) != np.sign(gap[1:])]
        found = analyse(rows).crossovers
        assert np.allclose([math.log10(c.flops) for c in found], places, atol=2e-5)
        for crossover, place in zip(found, places, strict=True):
            later = gap[min(np.searchsorted(grid, place) + 3, len(gap) - 1)]
            assert crossover.dear == ("a" if later > 0 else "b")


def test_crossing_exactly_at_a_measured_point(make_row):
    rows = [make_row("a", b, v, flops=b) for b, v in ((10, 1.0), (100, 5.0), (1000, 13.0))]
    rows += [make_row("b", b, 5.0, flops=b) for b in (10, 100, 1000)]
    (found,) = analyse(rows).crossovers
    assert (found.flops, found.value, found.dear, found.clear) == (100, 5.0, "a", True)


def test_touching_is_not_crossing_and_nothing_is_extrapolated(make_row):
    touch = [make_row(n, b, v, flops=b) for n, b, v in (("a", 10, 1.0), ("a", 100, 5.0), ("a", 1000, 1.0))]
    touch += [make_row("b", b, 5.0, flops=b) for b in (10, 100, 1000)]
    assert analyse(touch).crossovers == ()
    apart = [make_row("a", b, v, flops=b) for b, v in ((10, 1.0), (20, 2.0))]
    apart += [make_row("b", b, v, flops=b) for b, v in ((30, 9.0), (60, 0.0))]
    assert analyse(apart).crossovers == ()


def test_answer_interpolates_in_log_flops_inside_what_was_measured(make_row):
    rows = [make_row("a", b, v, flops=b) for b, v in ((100, 10.0), (10_000, 30.0))]
    rows += [make_row("late", 10_000, 90.0, flops=10_000), make_row("early", 100, 15.0, flops=100)]
    found = analyse(rows, budget=1000).answer
    assert [(c.name, c.flops) for c in found.candidates] == [("a", 1000), ("early", 100)]
    assert found.candidates[0].estimate.value == pytest.approx(20)
    assert found.candidates[0].estimate.se == pytest.approx(math.hypot(0.5, 0.5) / math.sqrt(3))
    assert found.missing == ("late",)
    assert analyse(rows, budget=10).answer is None


def test_unknown_cost_has_no_place(make_row):
    item = make_row("mae", 100)
    unknown = dataclasses.replace(item, label="foreign", flops={"pretrain": None})
    found = analyse([item, unknown])
    assert [p.name for p in found.points] == ["mae"]
    assert found.unplaced == (unknown,)


def test_the_budget_of_training_from_scratch_is_not_paid_twice(make_row):
    tuned = make_row("fine-tune", 10**12, transfer=2 * 10**11)
    scratch = make_row("scratch", 10**12, flops=0, transfer=12 * 10**11)
    placed = frontier.points([(row, row.scores[0]) for row in (tuned, scratch)])
    assert [point.cost for point in placed] == [12 * 10**11, 12 * 10**11]
