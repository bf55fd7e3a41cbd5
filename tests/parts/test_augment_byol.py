"""BYOL's colour operators against explicit sums, pixel by pixel."""

import colorsys
import math

import numpy as np
import pytest
from pictures import smooth

from spendflops.parts.augment import byol, common

NOISE = np.random.default_rng(5).random((6, 7, 3)).astype(np.float32)


def by_pixel(function, given=NOISE):
    out = np.empty_like(given, dtype=np.float64)
    for i in range(given.shape[0]):
        for j in range(given.shape[1]):
            out[i, j] = np.clip(function(*given[i, j].astype(float)), 0, 1)
    return out


def close(got, want):
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def saturated(factor):
    def pixel(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(max(s * factor, 0), 1), v)

    return pixel


def turned(delta):
    def pixel(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + delta) % 1, s, v)

    return pixel


def contrasted(factor, given):
    mean = [given[..., c].astype(float).mean() for c in range(3)]
    return lambda *p: [factor * (v - m) + m for v, m in zip(p, mean, strict=True)]


@pytest.mark.parametrize("delta", [-0.4, -0.1, 0.0, 0.3])
def test_brightness_is_added(delta):
    close(byol.adjust_brightness_byol(NOISE, delta), by_pixel(lambda *p: [v + delta for v in p]))


@pytest.mark.parametrize("seed", range(8))
def test_jitter_is_the_four_operators_in_the_drawn_order(seed):
    rng = np.random.default_rng(seed)
    rng.random()
    order, u = rng.permutation(4), 2 * rng.random(4) - 1
    x = NOISE
    for index in order:
        pixel = (
            lambda *p: [v + 0.4 * u[0] for v in p],
            contrasted(1 + 0.3 * u[1], x),
            saturated(1 + 0.2 * u[2]),
            turned(0.1 * u[3]),
        )[index]
        x = by_pixel(pixel, x)
    got = byol.color_jitter_byol(
        NOISE, np.random.default_rng(seed), probability=1.0, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1
    )
    close(got, x)
    assert got.min() >= 0 and got.max() <= 1


def test_jitter_draws_every_order_and_the_whole_range():
    orders, added = set(), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rng.random()
        orders.add(tuple(rng.permutation(4)))
        alone = {"contrast": 0.0, "saturation": 0.0, "hue": 0.0, "brightness": 0.4}
        grey = np.full((2, 2, 3), 0.5, np.float32)
        added.append(
            float(byol.color_jitter_byol(grey, np.random.default_rng(seed), probability=1.0, **alone)[0, 0, 0])
        )
    assert len(orders) == 24
    assert min(added) == pytest.approx(0.1, abs=0.02) and max(added) == pytest.approx(0.9, abs=0.02)
    assert np.mean(added) == pytest.approx(0.5, abs=0.05)


def test_grey():
    grey = byol.to_gray_byol(NOISE, np.random.default_rng(0), probability=1.0)
    close(grey, by_pixel(lambda r, g, b: [0.2989 * r + 0.5870 * g + 0.1140 * b] * 3))


def blurred(x, sigma):
    radius = int(x.shape[0] / 10 / 2)
    taps = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    padded = np.pad(x.astype(float), ((radius, radius), (radius, radius), (0, 0)))
    out = np.zeros(x.shape)
    for i, a in enumerate(taps):
        for j, b in enumerate(taps):
            out += a * b / sum(taps) ** 2 * padded[i : i + x.shape[0], j : j + x.shape[1]]
    return out


@pytest.mark.parametrize("height,width", [(40, 40), (61, 33), (96, 96)])
def test_blur_is_as_wide_as_a_tenth_of_the_height_with_zeros_outside(height, width):
    x = np.random.default_rng(2).random((height, width, 3)).astype(np.float32)
    got = byol.gaussian_blur_byol(x, np.random.default_rng(0), probability=1.0, sigma=(1.3, 1.3))
    close(got, blurred(x, 1.3))


def test_t18_blur_of_a_constant_image():
    white = np.ones((224, 224, 3), np.float32)
    got = byol.gaussian_blur_byol(white, np.random.default_rng(0), probability=1.0, sigma=(2.0, 2.0))
    for place, expected in (((112, 112), 1.0), ((0, 112), 0.59973557), ((0, 0), 0.35968275)):
        assert got[place] == pytest.approx(expected, abs=1e-6)


def test_t18_solarise():
    x = np.array([0, 0.25, 0.499, 0.5, 0.75, 1], np.float32).reshape(2, 1, 3)
    got = byol.solarize_byol(x, np.random.default_rng(0), probability=1.0)
    np.testing.assert_allclose(got.reshape(-1), [0, 0.25, 0.499, 0.5, 0.25, 0], atol=1e-7)
    close(
        byol.solarize_byol(NOISE, np.random.default_rng(0), probability=1.0, threshold=0.3),
        by_pixel(lambda *p: [v if v < np.float32(0.3) else 1 - v for v in p]),
    )


@pytest.mark.parametrize(
    "operator", [byol.color_jitter_byol, byol.to_gray_byol, byol.gaussian_blur_byol, byol.solarize_byol]
)
def test_operators_keep_type_input_and_probability(operator):
    array = smooth(32, 32)
    before = array.copy()
    out = operator(array, np.random.default_rng(0), probability=1.0)
    assert out.dtype == np.uint8 and out.shape == array.shape and (array == before).all() and (out != before).any()
    real = common.to_float(array)
    same = operator(real, np.random.default_rng(0), probability=1.0)
    assert same.dtype == np.float32 and np.abs(common.to_uint8(same).astype(int) - out).max() == 0
    assert operator(array, np.random.default_rng(0), probability=0.0) is array
    rng = np.random.default_rng(0)
    changed = sum(operator(array, rng, probability=0.3) is not array for _ in range(500))
    assert 110 < changed < 190
