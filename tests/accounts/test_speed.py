"""The law between FLOPs and time: case T12, its intervals by hand and in simulations, and where there is none."""

import math

import numpy as np
import pytest
from scipy import stats

from spendflops.accounts import speed
from spendflops.accounts.speed import Speed
from spendflops.contracts.errors import ConfigError

T12 = [
    Speed(method=m, flops=f * 10**12, seconds=1 / (10 * f**-0.9 * e))
    for m, f, e in (("a", 1, 1.05), ("b", 2, 0.97), ("a", 4, 1.01), ("b", 8, 0.98))
]


def test_t12():
    law = speed.fit(T12).law
    assert law.slope == pytest.approx(-0.9240308380, abs=1e-10)
    assert law.intercept == pytest.approx(2.3295900995, abs=1e-10)
    assert law.r2 == pytest.approx(0.9988255318, abs=1e-10)
    assert law.slope_se == pytest.approx(0.0224051199, abs=1e-10)
    assert (law.points, law.methods, law.low, law.high) == (4, ("a", "b"), 10**12, 8 * 10**12)


def test_the_interval_is_that_of_one_new_observation():
    x = np.log([1, 2, 4, 8.0])
    y = np.log([10 * f**-0.9 * e for f, e in ((1, 1.05), (2, 0.97), (4, 1.01), (8, 0.98))])
    design = np.stack([np.ones(4), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    variance = ((y - design @ beta) ** 2).sum() / 2
    new = np.array([1.0, np.log(16.0)])
    half = stats.t.ppf(0.95, 2) * np.sqrt(variance * (1 + new @ inverse @ new))
    got = speed.fit(T12).law.at(16 * 10**12)
    assert math.log(got.steps_per_second) == pytest.approx(new @ beta, abs=1e-12)
    assert math.log(got.low) == pytest.approx(new @ beta - half, abs=1e-12)
    assert math.log(got.high) == pytest.approx(new @ beta + half, abs=1e-12)
    assert got.extrapolated == 2
    assert speed.fit(T12).law.at(5 * 10**11).extrapolated == 2
    assert speed.fit(T12).law.at(3 * 10**12).extrapolated == 1


def test_the_interval_covers_new_programs():
    rng = np.random.default_rng(0)
    flops = np.geomspace(1e11, 1e13, 8)
    covered = 0
    for _ in range(400):
        noise = rng.normal(0, 0.15, 9)
        times = (flops / 1e13) ** 0.8 * np.exp(noise[:8])
        points = [Speed(method="m", flops=int(f), seconds=float(s)) for f, s in zip(flops, times, strict=True)]
        got = speed.fit(points).law.at(3 * 10**12)
        truth = math.exp(noise[8]) / 0.3**0.8
        covered += got.low <= truth <= got.high
    assert 0.86 <= covered / 400 <= 0.94


def test_a_method_that_the_others_do_not_predict():
    law = {"wide": 1.0, "deep": 1.0, "narrow": 0.5}
    points = [
        Speed(method=m, flops=int(f * 1e12), seconds=f / (5 * factor)) for m, factor in law.items() for f in (1, 3, 9)
    ]
    found = speed.fit(points).law
    assert found.worst_left_out[0] == "narrow"
    assert found.left_out["narrow"] == pytest.approx(2.0)  # the others say it is twice as fast as it is
    assert found.left_out["wide"] == pytest.approx(found.left_out["deep"]) and found.left_out["wide"] < 1


def test_too_few_points_are_an_answer():
    for few in ([], T12[:2], [T12[0], T12[0], T12[1], T12[1]]):
        found = speed.fit(few)
        assert found.law is None and "not enough" in found.reason
    one = speed.fit([Speed(method="a", flops=s.flops, seconds=s.seconds) for s in T12]).law
    assert one.left_out == {} and one.worst_left_out is None  # nothing says how another method would do


@pytest.mark.parametrize("wrong", [{"flops": 0}, {"seconds": 0}, {"seconds": math.nan}, {"flops": -1}])
def test_steps_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="a step of mae"):
        Speed(**{"method": "mae", "flops": 1, "seconds": 1.0, **wrong})
