"""IsoFLOP profiles: exact parabolas, Fieller by brute force, and the bias of a parabola on Hoffmann's surface."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from spendflops.contracts.errors import DataError
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.isoflop import allocation, optimum

SIZES = [1e7, 3e7, 1e8, 3e8, 1e9]


def parabola(sizes, best=1.2e8, top=40.0, bend=3.0):
    return top - bend * np.log10(np.asarray(sizes) / best) ** 2


def test_an_exact_parabola():
    found = optimum(SIZES, parabola(SIZES))
    assert (found.size.value, found.score, found.inside) == (pytest.approx(1.2e8), pytest.approx(40), True)
    assert found.size.low == pytest.approx(found.size.high)
    lower = optimum(SIZES, 100 - parabola(SIZES), higher_is_better=False)
    assert (lower.size.value, lower.score) == (pytest.approx(1.2e8), pytest.approx(60))


def test_the_interval_against_a_test_of_every_place():
    """All sizes at which the slope of the parabola is not told from zero."""
    rng = np.random.default_rng(1)
    y = parabola(SIZES * 2) + rng.normal(0, 0.5, 10)
    found = optimum(SIZES * 2, y)
    z = np.log(SIZES * 2)
    design = np.stack([np.ones(10), z, z**2], axis=1)
    fitted, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
    covariance = np.linalg.inv(design.T @ design) * rss[0] / 7

    def told(place):
        contrast = np.array([0.0, 1.0, 2 * place])
        return abs(contrast @ fitted) / math.sqrt(contrast @ covariance @ contrast) - stats.t.ppf(0.95, 7)

    middle = math.log(found.size.value)
    ends = [optimize.brentq(told, middle, middle + side * 5) for side in (-1, 1)]
    assert [math.log(found.size.low), math.log(found.size.high)] == pytest.approx(ends, abs=1e-6)


def test_an_optimum_beyond_the_sizes_is_marked():
    found = optimum(SIZES, parabola(SIZES, best=5e9))
    assert not found.inside and found.size.value == pytest.approx(5e9)


def test_thin_or_flat_profiles_are_not_enough():
    assert "2 sizes" in optimum(SIZES[:2] * 3, [1.0, 2.0] * 3).reason
    assert "3 runs of 3 sizes" in optimum(SIZES[:3], [1.0, 2.0, 1.0]).reason
    noise = np.random.default_rng(0).normal(0, 1, 5)
    assert "not bent" in optimum(SIZES, 40 + noise).reason
    assert "not bent" in optimum(SIZES, -parabola(SIZES)).reason  # a valley where a peak is looked for
    assert isinstance(allocation([1e18, 1e19], [1e8, 3e8]), NotEnough)


@pytest.mark.parametrize("sizes", [[0.0, 1, 2, 3], [-1.0, 1, 2, 3], [math.nan, 1, 2, 3]])
def test_sizes_are_positive(sizes):
    with pytest.raises(DataError, match="run 1 of 4"):
        optimum(sizes, [1.0, 2.0, 2.0, 1.0])
    with pytest.raises(DataError, match="run 1 of 4"):
        allocation([1.0, 2.0, 3.0, 4.0], sizes)


def loss(n, d, e=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28):
    """The surface that Hoffmann et al. 2022 fitted."""
    return e + a / n**alpha + b / d**beta


@pytest.mark.parametrize(("half", "bias"), [(8, -0.0288), (4, -0.0129), (2, -0.0032)])
def test_t15_bias_of_a_parabola_on_hoffmanns_surface(half, bias):
    budgets = np.geomspace(1e17, 1e21, 5)
    places = []
    for budget in budgets:
        best = optimize.minimize_scalar(
            lambda u, c=budget: loss(c / 6 / 10**u, 10**u), bounds=(6, 14), method="bounded", options={"xatol": 1e-12}
        ).x
        data = np.geomspace(10**best / half, 10**best * half, 16)
        found = optimum(data, loss(budget / 6 / data, data), higher_is_better=False)
        places.append(found.size.value)
        assert found.size.value / 10**best - 1 == pytest.approx(bias, abs=2e-4)
    found = allocation(budgets, places)
    assert found.exponent.value == pytest.approx(0.548387, abs=1e-4)
    assert found.exponent.high - found.exponent.low < 1e-3
    if half == 8:
        assert found.at(1e24) == (pytest.approx(3.919558e12, rel=2e-4), pytest.approx(1000))
    assert found.at(1e19)[1] == 1
