"""Intervals of crossovers, the noise they rest on, fronts redrawn, and envelopes."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from spendflops.contracts.errors import ConfigError
from spendflops.study import frontier
from spendflops.study.compare import median_factor
from spendflops.study.frontier import NotEnough, front_frequency
from spendflops.study.frontier.envelope import envelopes
from spendflops.study.frontier.interval import zero_of_line
from spendflops.study.frontier.noise import assumed, moderated, prior, together, welch
from spendflops.study.points import axes


def points_of(rows):
    (axis,) = axes(rows)
    return frontier.points(frontier.select(rows, axis))


def curve(make_row, name, values):
    """A curve from {FLOPs: scores of the seeds}."""
    pairs = [(flops, seed, value) for flops, scores in values.items() for seed, value in enumerate(scores)]
    return [make_row(name, flops, value, flops=flops, seed=seed) for flops, seed, value in pairs]


@pytest.mark.parametrize("n", range(1, 13))
def test_the_error_of_a_median_by_quadrature(n):
    """Variances of order statistics; the median of an even number is the mean of two."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    k, z, w = n // 2, 9 * nodes, 9 * weights
    density = stats.norm.pdf
    if n % 2:
        order = math.factorial(n) / math.factorial(k) ** 2 * (special.ndtr(z) * special.ndtr(-z)) ** k * density(z)
        variance = (w * z * z * order).sum()
    else:
        half = (9 - z[:, None]) / 2
        above = z[:, None] + half * (nodes + 1)  # the upper of the two, over (z, 9)
        low, high = special.ndtr(z) ** (k - 1) * density(z), special.ndtr(-above) ** (k - 1) * density(above)
        inner = (weights * half * high * (z[:, None] + above) ** 2 / 4).sum(axis=1)
        variance = math.factorial(n) / math.factorial(k - 1) ** 2 * (w * low * inner).sum()
    tolerance = 1e-6 if n <= 10 else 0.12  # beyond the table the limit of many is used
    assert median_factor(n) ** 2 == pytest.approx(n * variance, rel=tolerance)


def test_fieller_against_every_place():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.normal(0, 2, 2)
        root = rng.normal(0, 0.6, (2, 2))
        (v0, v01), (_, v1) = root @ root.T
        found = zero_of_line(a, b, covariance=(v0, v1, v01), df=4)
        places = np.linspace(-60, 60, 240_001)
        t = np.abs(a + b * places) / np.sqrt(v0 + 2 * places * v01 + places**2 * v1)
        inside = places[t <= stats.t.ppf(0.95, 4)]
        if math.isinf(found.low):
            assert abs(b) <= stats.t.ppf(0.95, 4) * math.sqrt(v1)
        elif max(abs(found.low), abs(found.high)) < 59:
            assert (found.low, found.high) == pytest.approx((inside[0], inside[-1]), abs=1e-3)
            assert found.holds(found.value) and not found.holds(found.high + 1e-6)


def test_noise_that_differs_by_chance_is_pooled(make_row):
    rows = curve(make_row, "a", {10: [1.0, 2.0, 4.0], 100: [5.0, 9.0], 1000: [7.0]})
    items = points_of(rows)
    noise = moderated(items)
    expected = math.sqrt((2 * np.var([1, 2, 4], ddof=1) + np.var([5, 9], ddof=1)) / 3)
    for item in items:
        assert (noise.of(item).sd, noise.of(item).df) == (pytest.approx(expected), 3)
    assert "no point has a second seed" in moderated(points_of(curve(make_row, "a", {10: [1.0]}))).reason
    equal = moderated(points_of(curve(make_row, "a", {10: [1.0, 1.0], 100: [2.0, 2.0]})))
    assert "the seeds agree to the last digit" in equal.reason


def test_noise_that_differs_is_drawn_together(make_row):
    """Smyth 2004: a scaled inverse chi-squared prior, whose parameters are those of the logs of the variances."""
    rng = np.random.default_rng(0)
    spreads = 2.0 * np.sqrt(4 / rng.chisquare(4, 400))  # four degrees of freedom around two
    values = {10 + i: list(rng.normal(0, sd, 4)) for i, sd in enumerate(spreads)}
    items = points_of(curve(make_row, "a", values))
    variances = [np.var(v, ddof=1) for v in values.values()]
    freedom, variance = prior([3] * 400, variances)
    assert freedom == pytest.approx(4, rel=0.3) and variance == pytest.approx(4, rel=0.15)
    logs = np.log(variances)
    assert special.polygamma(1, freedom / 2) == pytest.approx(logs.var(ddof=1) - special.polygamma(1, 1.5))
    mean = math.log(variance) + special.digamma(1.5) - math.log(1.5)
    mean += math.log(freedom / 2) - special.digamma(freedom / 2)
    assert mean == pytest.approx(logs.mean())
    noise = moderated(items)
    for item, own in zip(items, variances, strict=True):
        assert noise.of(item).sd ** 2 == pytest.approx((freedom * variance + 3 * own) / (freedom + 3))
        assert noise.of(item).df == pytest.approx(freedom + 3)
    assert noise.typical.df == pytest.approx(freedom)


def test_chance_differences_are_found_in_one_of_twenty():
    rng = np.random.default_rng(1)
    for seeds in (1, 2, 4):
        freed = [not math.isinf(prior([seeds] * 12, rng.chisquare(seeds, 12))[0]) for _ in range(200)]
        assert 0.01 <= np.mean(freed) <= 0.10


def test_assumed_noise():
    assert assumed(0.5).typical.df == math.inf
    for wrong in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="assumed noise"):
            assumed(wrong)


def test_degrees_of_freedom_are_welchs():
    one, two = [1.0, 3.0, 4.0, 9.0], [2.0, 2.5, 2.0]
    errors = [(np.std(v, ddof=1) / math.sqrt(len(v)), len(v) - 1) for v in (one, two)]
    se, df = welch(errors)
    expected = stats.ttest_ind(one, two, equal_var=False)
    assert df == pytest.approx(expected.df)
    assert (np.mean(one) - np.mean(two)) / se == pytest.approx(expected.statistic)
    assert welch([(2.0, math.inf)]) == (2.0, math.inf)
    assert together(errors) == (se, 3) and together([(1.0, 8), (1.0, 2)])[1] < 8


def test_the_interval_is_where_the_two_are_not_told_apart(make_row):
    """Against a fine grid of Welch tests of the interpolated curves, written out."""
    rng = np.random.default_rng(2)
    places = [2, 4, 8, 16]
    values = {
        "small": {x: list(10 + 2 * math.log(x, 2) + rng.normal(0, 0.5, 3)) for x in places},
        "large": {x: list(3 + 5 * math.log(x, 2) + rng.normal(0, 0.5, 3)) for x in places},
    }
    (found,) = frontier.crossovers(points_of([r for n, v in values.items() for r in curve(make_row, n, v)]))
    assert (found.cheap, found.dear, found.note) == ("small", "large", "")
    sd = math.sqrt(np.mean([np.var(s, ddof=1) for v in values.values() for s in v.values()]))
    medians = {n: [np.median(s) for s in v.values()] for n, v in values.items()}
    grid = np.linspace(1, 4, 30_001)
    gap = np.interp(grid, [1, 2, 3, 4], medians["large"]) - np.interp(grid, [1, 2, 3, 4], medians["small"])
    share = grid - np.minimum(np.floor(grid), 3)
    # All points share one estimate of the noise, of 16 degrees of freedom.
    se = sd * 1.160178 / math.sqrt(3) * np.stack([1 - share, share])
    same = np.abs(gap) <= stats.t.ppf(0.95, 16) * np.sqrt(2 * (se**2).sum(axis=0))
    inside = 2 ** grid[same]
    assert (found.low, found.high) == pytest.approx((inside[0], inside[-1]), rel=1e-3)
    assert found.low < found.flops < found.high


def test_an_interval_is_open_where_the_end_of_the_data_is_not_told_apart(make_row):
    rows = curve(make_row, "a", {10: [1.0, 1.2], 20: [5.0, 9.0]})
    rows += curve(make_row, "b", {10: [4.0, 4.2], 20: [6.0, 6.2]})
    (found,) = frontier.crossovers(points_of(rows))
    assert found.high is None and (found.low is None or found.low > 10) and not found.note


def test_lengths_far_apart_do_not_say_where_curves_cross(make_row):
    rows = curve(make_row, "a", {10: [1.0, 1.2], 40: [5.0, 5.2], 320: [9.0, 9.2]})
    rows += curve(make_row, "b", {10: [4.0, 4.2], 40: [6.0, 6.2], 320: [7.0, 7.2]})
    (found,) = frontier.crossovers(points_of(rows))
    assert (found.low, found.high) == (None, None) and 40 < found.flops < 320
    assert found.note == "the lengths around it are a factor of 8 apart"


def test_without_a_second_seed_there_is_no_interval(make_row):
    rows = [*curve(make_row, "a", {10: [1.0], 1000: [9.0]}), *curve(make_row, "b", {10: [4.0], 1000: [6.0]})]
    (found,) = frontier.crossovers(points_of(rows))
    assert (found.low, found.high) == (None, None)
    assert found.note == "no point has a second seed"


def test_one_point_a_method_has_no_crossover(make_row):
    assert frontier.crossovers(points_of([make_row("a", 10), make_row("b", 100)])) == []


def test_how_often_a_point_is_on_the_front():
    costs, scores, errors = [1, 2, 2, 3], [10.0, 20.0, 19.0, 5.0], [1.0, 1.0, 1.0, 0.5]
    found = front_frequency(costs, scores, errors, draws=4000)
    rng = np.random.default_rng(9)
    hits = np.zeros(4)
    for _ in range(4000):
        hits += frontier.non_dominated(costs, rng.normal(scores, errors))
    assert found == pytest.approx(hits / 4000, abs=0.04)
    assert found[1] + found[2] == pytest.approx(1) and found[3] == 0
    mirrored = front_frequency(costs, [-s for s in scores], errors, maximise=False, draws=4000)
    assert mirrored == pytest.approx(found, abs=0.04)
    assert front_frequency([1, 2, 2], [1, 1, 3], [0, 0, 0]) == [1, 0, 1]
    unknown = front_frequency(costs, scores, [1.0, None, None, 1.0])
    assert isinstance(unknown, NotEnough) and "2 of 4" in unknown.reason


def test_envelopes_over_variants_against_brute_force(make_row):
    rng = np.random.default_rng(4)
    rows = [
        make_row(f"{m} {v}", b, float(rng.integers(0, 30)), flops=b, settings={"method": m})
        for m, v, b in itertools.product(("mae", "clip"), ("a", "b", "c"), (10, 100, 1000))
    ]
    items = points_of([*rows, make_row("random", kind="baseline")])
    found = envelopes(items)
    assert set(found) == {"mae", "clip"}
    for name, envelope in found.items():
        group = {(p.name, p.flops): p.estimate.value for p in items if p.rows[0].settings.get("method") == name}
        kept = {
            (a, x)
            for (a, x), score in group.items()
            if not any((s > score and y <= x) or (s == score and y < x) for (_, y), s in group.items())
        }
        assert {(p.name, p.flops) for p in envelope.points} == kept
        assert set(envelope.variants) == {variant for variant, _ in group}
        assert max(s for (variant, _), s in group.items() if variant == envelope.best) == max(group.values())
    whole = envelopes(items, family=lambda point: "all")
    assert len(whole["all"].variants) == 6


def test_envelopes_of_two_axes_are_refused(make_row):
    one, two = points_of([make_row("a", 10)]), points_of([make_row("a", 10, protocol="ridge-frozen-v2")])
    with pytest.raises(ConfigError, match="2 protocols"):
        envelopes([*one, *two])
