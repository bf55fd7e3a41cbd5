"""Saturating power laws: exact curves, an independent slow fit, robustness, and what is said of thin data."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from spendflops.contracts.errors import DataError
from spendflops.study.frontier import powerlaw
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.powerlaw import fit

FLOPS = [1e18, 2e18, 4e18, 8e18, 16e18]


def truth(flops, limit=46.0, drop=13.5, rate=0.35):
    return limit - drop * (flops / 1e18) ** -rate


def test_an_exact_curve_is_found():
    found = fit(FLOPS, [truth(x) for x in FLOPS])
    assert (found.limit, found.exponent) == (pytest.approx(46, rel=1e-4), pytest.approx(0.35, rel=1e-4))
    assert found.drop * 1e18**-0.35 == pytest.approx(13.5, rel=1e-3)
    assert found(3e19) == pytest.approx(truth(3e19), abs=1e-3)
    assert found.held_out.error == pytest.approx(0, abs=1e-2)
    assert (found.held_out.factor, found.lengths, found.df, found.saturates) == (2, 5, 2, True)


def test_errors_fall_as_scores_rise():
    """The mirror image: lower is better."""
    values = [truth(x) for x in FLOPS]
    up, down = fit(FLOPS, values), fit(FLOPS, [100 - v for v in values], higher_is_better=False)
    assert down.limit == pytest.approx(100 - up.limit)
    a, b = up.predict(2e19), down.predict(2e19)
    assert (b.low, b.value, b.high) == pytest.approx((100 - a.high, 100 - a.value, 100 - a.low), abs=1e-4)


def test_least_squares_where_nothing_is_an_outlier():
    """Huber's loss far from its bend is least squares: the same curve by scipy, from the textbook form."""
    rng = np.random.default_rng(3)
    x = np.repeat(FLOPS, 3)
    y = truth(x) + rng.uniform(-0.2, 0.2, len(x))  # bounded: no residual beyond 1.345 standard deviations of the noise
    found = fit(x, y)

    def squares(p):
        return y - (p[0] - np.exp(p[1]) * (x / 1e18) ** -np.exp(p[2]))

    best = optimize.least_squares(squares, [46.0, math.log(13.5), math.log(0.35)], x_scale=[10, 1, 1], xtol=1e-14)
    residual = y - np.array([found(v) for v in x])
    assert np.max(np.abs(residual)) < 1.345 * found.sd * 1.35
    assert (residual**2).sum() == pytest.approx(2 * best.cost, rel=0.02)
    assert found(2e19) == pytest.approx(best.x[0] - np.exp(best.x[1]) * 20 ** -np.exp(best.x[2]), abs=0.05)


def test_the_profile_against_a_slow_one(monkeypatch):
    """With Huber's bend out of reach the interval is that of the F test, here by a fit at every fixed value."""
    monkeypatch.setattr(powerlaw, "HUBER", 1e6)
    monkeypatch.setattr(powerlaw, "_PSI_SQUARED", 1.0)
    monkeypatch.setattr(powerlaw, "_INSIDE", 1.0)
    rng = np.random.default_rng(5)
    x = np.repeat(FLOPS, 2)
    y = truth(x) + rng.normal(0, 0.4, len(x))
    target, df = 32e18, len(x) - 3
    found = fit(x, y).predict(target)

    def rss(value):
        def squares(p):
            b = math.exp(p[1])
            return y - (value + math.exp(p[0]) * ((target / 1e18) ** -b - (x / 1e18) ** -b) / b)

        starts = ([0.0, r] for r in (-4.0, -2.0, -1.0, 0.0, 1.0))
        return min(2 * optimize.least_squares(squares, s, bounds=([-9, -4.7], [9, 1.1])).cost for s in starts)

    best = optimize.minimize_scalar(rss, bounds=(30, 60), method="bounded", options={"xatol": 1e-9})
    bound = stats.t.ppf(0.95, df) ** 2 * best.fun / df
    low = optimize.brentq(lambda v: rss(v) - best.fun - bound, best.x - 10, best.x)
    high = optimize.brentq(lambda v: rss(v) - best.fun - bound, best.x, best.x + 10)
    assert (found.value, found.low, found.high) == pytest.approx((best.x, low, high), abs=0.005)


def test_one_wild_run_moves_the_curve_little():
    rng = np.random.default_rng(0)
    x = np.repeat(FLOPS, 3)
    y = truth(x) + rng.normal(0, 0.3, len(x))
    clean = fit(x, y)(2e19)
    y[14] -= 20.0
    design = np.stack([np.ones(15), np.log(x)], axis=1)
    assert abs(fit(x, y)(2e19) - clean) < 0.4
    assert abs(np.linalg.lstsq(design, y, rcond=None)[0] @ [1, math.log(2e19)] - clean) > 1  # least squares does move


def test_a_line_in_log_flops_does_not_saturate():
    found = fit(FLOPS, [10 + 2 * math.log2(x / 1e18) for x in FLOPS])
    assert not found.saturates and math.isinf(found.limit)
    assert found(32e18) == pytest.approx(20, abs=1e-6)


def test_what_falls_is_fitted_by_a_flat_curve():
    """A score that gets worse with FLOPs is no saturating law; nothing is extrapolated downwards."""
    found = fit(FLOPS, [5.0, 4.0, 3.0, 2.0, 1.0])
    assert found(1e18) == found(1e20) == pytest.approx(3, abs=0.1)


def test_the_longest_runs_are_held_out():
    values = [truth(x) for x in FLOPS]
    values[-1] -= 2.0
    held = fit(FLOPS, values).held_out
    assert (held.flops, held.factor) == (16e18, 2)
    assert held.error == pytest.approx(2.0, abs=1e-2)  # the others say two points more than there are
    mirrored = fit(FLOPS, [100 - v for v in values], higher_is_better=False).held_out
    assert mirrored.error == pytest.approx(-2.0, abs=1e-2)


def test_how_far_a_prediction_is_beyond_the_data():
    found = fit(FLOPS, [truth(x) for x in FLOPS])
    assert [found.predict(x).factor for x in (32e18, 5e18, 16e18, 5e17)] == [2, 1, 1, 2]


def test_fewer_than_four_lengths_are_not_enough():
    for count in (1, 2, 3):
        found = fit(FLOPS[:count] * 3, [truth(x) for x in FLOPS[:count]] * 3)
        assert isinstance(found, NotEnough) and f"{count} length" in found.reason


@pytest.mark.parametrize(("flops", "score"), [(0, 1.0), (-1e18, 1.0), (math.nan, 1.0), (1e18, math.nan)])
def test_numbers_that_mean_nothing_are_refused(flops, score):
    with pytest.raises(DataError, match="run 5 of 5"):
        fit([*FLOPS[:4], flops], [1.0, 2.0, 3.0, 4.0, score])
