"""Power laws of several methods at once: against integrals done by force, and what the curves lend each other."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from spendflops.contracts.errors import DataError
from spendflops.study.frontier import family
from spendflops.study.frontier.family import together
from spendflops.study.frontier.interval import NotEnough

FLOPS = np.array([1e18, 2e18, 4e18, 8e18])


def curve(flops, limit=46.0, drop=13.5, rate=0.35):
    return limit - drop * (np.asarray(flops) / 1e18) ** -rate


def noisy(seed, seeds=2, sd=0.5, **truth):
    x = np.repeat(FLOPS, seeds)
    return x, curve(x, **truth) + np.random.default_rng(seed).normal(0, sd, len(x))


def by_force(x, y, exponent, place, noise):
    """log of the integral over both ends (flat) and log sd (one run of ``noise``); mean and P(below 44) at a place."""
    u = np.log(x / x.min())
    shape = -np.expm1(-exponent * u) / -np.expm1(-exponent * u.max())  # 0 at the first length, 1 at the last
    target = -np.expm1(-exponent * math.log(place / x.min())) / -np.expm1(-exponent * u.max())
    a = np.linspace(y.min() - 6, y.max() + 6, 241)[:, None, None]
    b = np.linspace(y.min() - 6, y.max() + 6, 241)[None, :, None]
    rss = sum((yi - a - (b - a) * s) ** 2 for yi, s in zip(y, shape, strict=True))
    log_sd = np.linspace(-4, 3, 71)[None, None, :]
    density = np.exp(-(rss + noise) / (2 * np.exp(2 * log_sd)) - (len(y) + 1) * log_sd)
    plane = integrate.simpson(density, x=log_sd[0, 0], axis=2)
    total = plane.sum()
    value = (a + (b - a) * target)[:, :, 0]
    return math.log(total), (plane * value).sum() / total, plane[value < 44].sum() / total


def _noise(x, y, exponents):
    """The variance of the runs around the best of the curves, by numpy's least squares."""
    left = [np.polyfit((x / 1e18) ** -b, y, 1, full=True)[1][0] for b in exponents]
    return min(left) / (len(y) - 3)


def test_one_curve_of_one_exponent_against_the_integral(monkeypatch):
    x, y = noisy(0)
    logs = []
    for exponent in (0.1, 0.35, 1.2):
        monkeypatch.setattr(family, "EXPONENTS", np.array([exponent]))
        member = together({"a": (x, y)})["a"]
        _, mean, below = by_force(x, y, exponent, 16e18, _noise(x, y, [exponent]))
        logs.append(by_force(x, y, exponent, 16e18, _noise(x, y, [0.1, 0.35, 1.2]))[0])
        assert member(16e18) == pytest.approx(mean, abs=0.01)
        places, scales = member.lines.at(math.log(16e18))
        assert special.stdtr(member.df, (44 - places[0]) / scales[0]) == pytest.approx(below, abs=0.01)
    monkeypatch.setattr(family, "EXPONENTS", np.array([0.1, 0.35, 1.2]))
    found = together({"a": (x, y)})["a"].lines.likelihood
    assert found - found[0] == pytest.approx(np.array(logs) - logs[0], abs=0.01)


def test_the_weights_of_exponents_against_a_sum_over_everything(monkeypatch):
    """Three curves, their exponents, mean and spread of these: the joint sum, without the factorisation."""
    monkeypatch.setattr(family, "EXPONENTS", np.array([0.1, 0.3, 0.9]))
    monkeypatch.setattr(family, "MEANS", np.log([0.15, 0.6]))
    monkeypatch.setattr(family, "SPREADS", np.array([0.3, 1.0]))
    runs = {name: noisy(seed, rate=rate) for seed, (name, rate) in enumerate((("a", 0.3), ("b", 0.35), ("c", 0.8)))}
    found = together(runs)
    likelihood = np.exp([found[name].lines.likelihood for name in runs])
    expected = np.zeros((3, 3))
    for mean in family.MEANS:
        for spread in family.SPREADS:
            prior = np.exp(-0.5 * ((np.log(family.EXPONENTS) - mean) / spread) ** 2)
            prior /= prior.sum()
            for i in np.ndindex(3, 3, 3):
                weight = np.prod([prior[b] * likelihood[c, b] for c, b in enumerate(i)])
                for c, b in enumerate(i):
                    expected[c, b] += weight
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.array([found[name].weights for name in runs]) == pytest.approx(expected, abs=1e-10)


def test_exact_curves_are_found():
    x = np.repeat(FLOPS, 4)
    found = together({"a": (x, curve(x)), "b": (x, curve(x, rate=0.8))})
    assert found["a"](16e18) == pytest.approx(curve(16e18), abs=0.15)
    assert found["b"](16e18) == pytest.approx(curve(16e18, rate=0.8), abs=0.15)
    prediction = found["a"].predict(16e18)
    assert prediction.factor == 2 and prediction.low <= prediction.value <= prediction.high
    assert found["a"].predict(3e18).factor == 1 and found["a"].predict(5e17).factor == 2


def test_the_interval_is_the_quantiles_of_the_mixture():
    member = together({"a": noisy(0), "b": noisy(1)})["a"]
    places, scales = member.lines.at(math.log(16e18))
    rng = np.random.default_rng(0)
    which = rng.choice(len(places), 200_000, p=member.weights)
    drawn = places[which] + scales[which] * rng.standard_t(member.df, 200_000)
    found = member.predict(16e18)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=0.03)
    assert found.value == pytest.approx(drawn.mean(), abs=0.02)


def test_what_a_run_at_one_place_says_of_another(monkeypatch):
    """Of one exponent: Bayes' linear regression, by matrices; of several: the variance is that of the mixture."""
    x, y = noisy(0)
    widening = stats.t.ppf(0.95, len(x) - 1) / stats.norm.ppf(0.95)
    monkeypatch.setattr(family, "EXPONENTS", np.array([0.35]))
    member = together({"a": (x, y)})["a"]
    design = np.stack([np.ones_like(x), (x / 1e18) ** -0.35], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    for one, other in ((16e18, 16e18), (16e18, 2e18), (3e18, 1e18)):
        a, b = ([1.0, (place / 1e18) ** -0.35] for place in (one, other))
        expected = widening**2 * member.lines.variance[0] * np.array(a) @ inverse @ np.array(b)
        assert member.covariance(one, other) == pytest.approx(expected, rel=1e-8)
        assert member.covariance(one, other) == pytest.approx(member.covariance(other, one))
    monkeypatch.setattr(family, "EXPONENTS", np.array([0.1, 0.35, 1.2]))
    member = together({"a": (x, y)})["a"]
    places, scales = member.lines.at(math.log(16e18))
    mean = member.weights @ places
    expected = member.weights @ ((widening * scales) ** 2 + (places - mean) ** 2)
    assert member.covariance(16e18, 16e18) == pytest.approx(expected)


def test_many_curves_lend_one_their_exponent():
    short = (np.repeat(FLOPS[:3], 2), noisy(5)[1][:6])
    alone = together({"a": short})["a"].predict(8e18)
    others = {str(s): noisy(10 + s, seeds=6, sd=0.1) for s in range(6)}
    beside = together({"a": short} | others)["a"].predict(8e18)
    assert beside.high - beside.low < 0.7 * (alone.high - alone.low)
    assert abs(beside.value - curve(8e18)) < 1


def test_lower_is_better_is_the_mirror_image():
    x, y = noisy(0)
    up, down = together({"a": (x, y)})["a"], together({"a": (x, 100 - y)}, higher_is_better=False)["a"]
    one, other = up.predict(16e18), down.predict(16e18)
    assert (other.low, other.value, other.high) == pytest.approx((100 - one.high, 100 - one.value, 100 - one.low))


def test_a_wild_run_weighs_less():
    x, y = noisy(0, seeds=3)
    clean = together({"a": (x, y)})["a"](16e18)
    y[-1] -= 30
    moved = together({"a": (x, y)})["a"](16e18)
    straight = np.polynomial.Polynomial.fit(np.log(x), y, 1)(math.log(16e18))
    assert abs(moved - clean) < 3 < abs(straight - clean)


def test_thin_and_wrong_data():
    found = together({"a": noisy(0), "b": (FLOPS[:2], [1.0, 2.0]), "c": ([1e18], [3.0])})
    assert isinstance(found["b"], NotEnough) and "2 lengths" in found["b"].reason
    assert "1 length;" in found["c"].reason and not isinstance(found["a"], NotEnough)
    assert together({}) == {}
    for flops, score in ((0.0, 1.0), (math.nan, 1.0), (1e18, math.inf)):
        with pytest.raises(DataError, match="a: FLOPs or scores"):
            together({"a": ([flops, 2e18, 4e18], [score, 1.0, 2.0])})
