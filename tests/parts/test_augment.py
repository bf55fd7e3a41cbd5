"""SimCLR's colour operators against the standard library's colour conversions and explicit sums."""

import colorsys
import math

import numpy as np
import pytest
from pictures import smooth

from spendflops.parts import augment

NOISE = np.random.default_rng(5).random((6, 7, 3)).astype(np.float32)


def by_pixel(function):
    out = np.empty_like(NOISE, dtype=np.float64)
    for i in range(NOISE.shape[0]):
        for j in range(NOISE.shape[1]):
            out[i, j] = np.clip(function(*NOISE[i, j].astype(float)), 0, 1)
    return out


def close(got, want):
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-5


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_brightness_contrast_saturation(factor):
    close(augment.adjust_brightness_simclr(NOISE, factor) + 1e-9, by_pixel(lambda *p: [factor * v for v in p]) + 1e-9)
    mean = [NOISE[..., c].astype(float).mean() for c in range(3)]
    close(
        augment.adjust_contrast(NOISE, factor),
        by_pixel(lambda *p: [(v - m) * factor + m for v, m in zip(p, mean, strict=True)]),
    )

    def saturated(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(s * factor, 1), v)

    close(augment.adjust_saturation(NOISE, factor), by_pixel(saturated))


@pytest.mark.parametrize("delta", [-0.2, -0.05, 0.0, 0.13, 0.5])
def test_hue(delta):
    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + delta) % 1, s, v)

    close(augment.adjust_hue(NOISE, delta), by_pixel(turned))


def test_grey():
    grey = augment.to_gray_simclr(NOISE, np.random.default_rng(0), probability=1.0)
    close(grey, by_pixel(lambda r, g, b: [0.2989 * r + 0.5870 * g + 0.1140 * b] * 3))


def test_blur_is_gaussian_with_zeros_outside():
    x = np.random.default_rng(2).random((40, 40, 3)).astype(np.float32)
    got = augment.gaussian_blur_simclr(x, np.random.default_rng(0), probability=1.0, sigma=(1.3, 1.3))
    taps = [math.exp(-(k**2) / (2 * 1.3**2)) for k in (-2, -1, 0, 1, 2)]  # 40 // 10 = 4, radius 2
    padded = np.pad(x.astype(float), ((2, 2), (2, 2), (0, 0)))
    want = np.zeros((40, 40, 3))
    for i in range(5):
        for j in range(5):
            want += taps[i] * taps[j] / sum(taps) ** 2 * padded[i : i + 40, j : j + 40]
    close(got, want)
    white = np.ones((224, 224, 3), np.float32)
    black_outside = augment.gaussian_blur_simclr(white, np.random.default_rng(0), probability=1.0, sigma=(2.0, 2.0))
    assert abs(black_outside[0, 0, 0] - 0.3597) < 1e-4 and abs(black_outside[0, 112, 0] - 0.5997) < 1e-4
    small = NOISE.copy()
    assert (augment.gaussian_blur_simclr(small, np.random.default_rng(0), probability=1.0) == small).all()


def test_jitter_composes_its_operators_in_the_drawn_order():
    rng = np.random.default_rng(11)
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        got = augment.color_jitter_simclr(NOISE, rng, strength=0.5, probability=1.0)
        rng = np.random.default_rng(seed)
        rng.random()
        order, u = rng.permutation(4), 2 * rng.random(4) - 1
        x = NOISE
        for index in order:
            factor = 1 + 0.4 * u[index]
            if index == 3:
                x = augment.adjust_hue(x, 0.1 * u[3])
            else:
                x = (augment.adjust_brightness_simclr, augment.adjust_contrast, augment.adjust_saturation)[index](
                    x, factor
                )
        close(got, x)
        seen.add(tuple(order))
        assert got.min() >= 0 and got.max() <= 1
    assert len(seen) > 15
    dark = augment.color_jitter_simclr(NOISE, np.random.default_rng(0), probability=1.0, brightness=3.0)
    assert np.isfinite(dark).all() and dark.min() >= 0  # the factor stops at 0


@pytest.mark.parametrize(
    "operator", [augment.color_jitter_simclr, augment.to_gray_simclr, augment.gaussian_blur_simclr]
)
def test_operators_keep_type_input_and_probability(operator):
    array = smooth(32, 32)
    before = array.copy()
    out = operator(array, np.random.default_rng(0), probability=1.0)
    assert out.dtype == np.uint8 and out.shape == array.shape and (array == before).all()
    real = augment.to_float(array)
    same = operator(real, np.random.default_rng(0), probability=1.0)
    assert same.dtype == np.float32 and np.abs(augment.to_uint8(same).astype(int) - out).max() == 0
    assert operator(array, np.random.default_rng(0), probability=0.0) is array
    rng = np.random.default_rng(0)
    changed = sum(operator(array, rng, probability=0.3) is not array for _ in range(500))
    assert 110 < changed < 190


def test_float_round_trip():
    array = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert (augment.to_uint8(augment.to_float(array)) == array).all()
    assert augment.to_uint8(np.array([[[-1.0, 0.5, 2.0]]], np.float32)).tolist() == [[[0, 128, 255]]]
