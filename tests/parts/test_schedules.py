"""Schedules against the values of the papers and of the official code."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Context
from spendflops.parts.schedules import (
    Constant,
    Cosine,
    MultiStep,
    WarmupCosine,
    WarmupPoly,
    WarmupStableDecay,
    as_schedule,
    scaled_lr,
)


def at(schedule, step, steps):
    return float(schedule(Context(key=jax.random.key(0), step=jnp.asarray(step), steps=jnp.asarray(steps))))


def test_t5_mae_of_800_epochs():
    peak = scaled_lr(1.5e-4, batch_size=4096)
    assert peak == pytest.approx(2.4e-3)
    epoch = 1000  # any number of steps
    mae = WarmupCosine(peak=peak, warmup_steps=40 * epoch)
    found = [at(mae, e * epoch, 800 * epoch) for e in (0, 20, 40, 420, 800)]
    np.testing.assert_allclose(found, [0, 1.2e-3, 2.4e-3, 1.2e-3, 0], rtol=1e-6, atol=1e-9)


def test_t5_simmim_of_the_warm_up():
    assert scaled_lr(1e-4, batch_size=2048, per=512) == pytest.approx(4e-4)
    simmim = WarmupCosine(peak=4e-4, start=2e-6, warmup_steps=10_000)
    assert at(simmim, 0, 800_000) == pytest.approx(2e-6)
    assert at(simmim, 10_000, 800_000) == pytest.approx(4e-4)


def test_t10_clip():
    clip = WarmupCosine(peak=1e-3, start=1e-7, warmup_steps=10_000)
    found = [at(clip, step, 250_000) for step in (0, 5000, 10_000, 130_000, 190_000, 250_000)]
    np.testing.assert_allclose(found, [1e-7, 5.0005e-4, 1e-3, 5e-4, 1.4644660941e-4, 0], rtol=2e-6, atol=1e-10)


def test_t8_segmentation():
    poly = WarmupPoly(peak=1e-4)
    values = {0: 1.0e-10, 1: 6.6765e-8, 750: 4.92572e-5, 1499: 9.69658e-5, 1500: 9.70285e-5, 25_240: 5.0e-5}
    for step, value in values.items():
        assert at(poly, step, 50_480) == pytest.approx(value, rel=1e-5)
    assert at(poly, 50_479, 50_480) == pytest.approx(1.98e-9, rel=2e-3)
    assert at(poly, 1500, 50_480) / 1e-4 == pytest.approx(1 - 1500 / 50_480, rel=1e-6)


def test_t17_dino():
    dino = WarmupCosine(peak=5e-4, end=1e-6, warmup_steps=20, inclusive=True)
    values = {0: 0, 1: 2.63157895e-5, 19: 5e-4, 20: 5e-4, 21: 4.99807645e-4, 60: 2.505e-4, 99: 1.19235546e-6}
    for step, value in values.items():
        assert at(dino, step, 100) == pytest.approx(value, rel=1e-5, abs=1e-12)
    without = WarmupCosine(peak=5e-4, end=1e-6, warmup_steps=20)
    assert at(without, 19, 100) == pytest.approx(4.75e-4)


def test_t17_byol():
    peak = scaled_lr(0.3, batch_size=4096)
    byol = WarmupCosine(peak=peak, warmup_steps=100)
    found = [at(byol, step, 1000) for step in (0, 50, 100, 550, 1000)]
    np.testing.assert_allclose(found, [0, 2.4, 4.8, 2.4, 0], rtol=1e-6, atol=1e-9)


def test_a_cosine_over_the_whole_stage():
    decay = Cosine(start=0.04, end=0.4)
    steps = np.arange(0, 101, 4)
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * steps / 100))
    np.testing.assert_allclose([at(decay, s, 100) for s in steps], expected, rtol=1e-6)


def test_t5_steps_of_simmim_and_viny():
    simmim = MultiStep(peak=4e-4, milestones=(0.875,), factor=0.1, warmup_fraction=1 / 80, start=2e-6)
    found = [at(simmim, epoch, 800) for epoch in (0, 5, 10, 699, 700, 799)]
    np.testing.assert_allclose(found, [2e-6, 2.01e-4, 4e-4, 4e-4, 4e-5, 4e-5], rtol=1e-6)
    viny = MultiStep(peak=1e-3, milestones=(0.5, 0.85), factor=0.5)
    # Every number of epochs puts a milestone on its own step, also where its product is not a float32.
    for steps in (100, 312_500, 1_000_000):
        at_half, at_85 = steps // 2, round(0.85 * steps)
        found = [at(viny, s, steps) for s in (0, at_half - 1, at_half, at_85 - 1, at_85, steps - 1)]
        np.testing.assert_allclose(found, np.array([1, 1, 0.5, 0.5, 0.25, 0.25]) * 1e-3, rtol=1e-6)


def test_milestones_are_parts_of_the_stage():
    with pytest.raises(ConfigError, match="parts of the stage"):
        MultiStep(peak=1.0, milestones=(50.0,), factor=0.1)
    with pytest.raises(ConfigError, match="multistep: warmup_fraction 2 is not in"):
        MultiStep(peak=1.0, milestones=(), factor=0.1, warmup_fraction=2)


def test_with_steps_and_a_fraction_the_shorter_warm_up_counts():
    both = WarmupCosine(peak=1.0, warmup_steps=50, warmup_fraction=0.1)
    assert float(both.warmup(100)) == 10 and float(both.warmup(10_000)) == 50
    assert at(both, 5, 100) == pytest.approx(0.5)


def test_the_whole_curve_against_plain_numpy():
    schedule = WarmupCosine(peak=0.3, start=0.1, end=0.01, warmup_fraction=0.2)
    steps = 200
    found = np.array([at(schedule, s, steps) for s in range(0, steps + 1, 5)])
    expected = []
    for s in range(0, steps + 1, 5):
        if s < 40:
            expected.append(0.1 + 0.2 * s / 40)
        else:
            expected.append(0.01 + 0.29 * (1 + np.cos(np.pi * (s - 40) / 160)) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_lengths_are_read_at_run_time_so_one_program_serves_them_all():
    schedule = WarmupCosine(peak=1.0, warmup_fraction=0.1)
    traced = jax.jit(lambda step, steps: schedule(Context(key=jax.random.key(0), step=step, steps=steps)))
    for steps in (10, 1000):
        assert float(traced(steps // 2, steps)) == pytest.approx(at(schedule, steps // 2, steps))
    assert traced._cache_size() == 1


def test_a_stage_of_one_step_has_a_finite_rate():
    for options in ({"warmup_fraction": 0.5}, {"warmup_steps": 0}):
        assert np.isfinite(at(WarmupCosine(peak=1.0, **options), 0, 1))
    assert np.isfinite(at(WarmupPoly(peak=1.0), 0, 1))


def test_numbers_are_constant_schedules():
    assert at(as_schedule(0.5), 3, 10) == 0.5 == at(Constant(value=0.5), 9, 10)
    schedule = Constant(value=1.0)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("options, message", [({}, "needs warmup_steps"), ({"warmup_fraction": 1.0}, "not in")])
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        WarmupCosine(peak=1.0, **options)


def oracle_wsd(step, steps, *, warmup, part, peak, start, end, shape):
    cooldown = math.floor(steps * part)
    stable = start + (peak - start) * min(step / warmup, 1) if warmup else peak
    if step < steps - cooldown:
        return stable
    done = (step - (steps - cooldown)) / cooldown
    return end + (stable - end) * (1 - (math.sqrt(done) if shape == "1-sqrt" else done))


@pytest.mark.parametrize("shape", ["1-sqrt", "linear"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_warm_up_stable_decay(shape, warmup):
    options = {"peak": 2e-3, "start": 1e-5, "end": 1e-4, "shape": shape}
    wsd = WarmupStableDecay(**options, warmup_steps=warmup, cooldown_fraction=0.2)
    for steps in (1, 5, 50, 63, 1001):
        curve = jax.vmap(lambda step, n=steps: wsd(Context(key=jax.random.key(0), step=step, steps=jnp.asarray(n))))
        expected = [oracle_wsd(s, steps, warmup=warmup, part=Fraction(1, 5), **options) for s in range(steps)]
        np.testing.assert_allclose(curve(jnp.arange(steps)), expected, rtol=1e-6)
    # Hägele et al.'s own shape, at a quarter of the cooldown: half of the rate.
    if shape == "1-sqrt":
        plain = WarmupStableDecay(peak=1.0, warmup_steps=10, cooldown_fraction=0.2)
        assert at(plain, 85, 100) == pytest.approx(0.5) and at(plain, 80, 100) == at(plain, 10, 100) == 1.0


def test_a_trunk_ends_at_the_same_step_for_numbers_and_inside_a_program():
    for part in (0.2, 0.1, 0.05, 0.3, 1 / 3, 0.123, 0.999):
        wsd = WarmupStableDecay(peak=1.0, warmup_steps=1, cooldown_fraction=part)
        exact = Fraction(part).limit_denominator(1000)
        for steps in (0, 1, 9, 10, 62_500, 187_503, 2_000_000_003):
            expected = steps - steps * exact.numerator // exact.denominator
            assert wsd.trunk(steps) == expected == int(jax.jit(wsd.trunk)(jnp.int32(steps))), (part, steps)


def test_a_trunk_does_not_know_its_length():
    wsd = WarmupStableDecay(peak=1e-3, warmup_steps=5)
    for step in range(40):
        assert at(wsd, step, 50) == at(wsd, step, 5000)
    assert at(wsd, 41, 50) < at(wsd, 41, 5000)


@pytest.mark.parametrize(
    "wrong", [{"cooldown_fraction": 1.0}, {"cooldown_fraction": 0.0}, {"cooldown_fraction": 1e-4}, {"shape": "cosine"}]
)
def test_what_is_no_cooldown_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"schedules\.wsd"):
        WarmupStableDecay(**{"peak": 1.0, "warmup_steps": 1, **wrong})
