"""torchvision's and Pillow's operators against slow sums and the standard library's colour conversions."""

import colorsys
import functools
import math

import numpy as np
import PIL.Image
import pytest
from pictures import smooth

from spendflops.parts.augment import torchvision as augment

NOISE = np.random.default_rng(5).integers(0, 256, (9, 11, 3), dtype=np.uint8)


def grey(array):
    """ITU-R 601-2 in 16-bit fixed point, as Pillow documents it."""
    r, g, b = np.moveaxis(array.astype(int), -1, 0)
    return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16


def blend(first, second, factor):
    """first + factor (second - first) in float32, cut to 0..255 and then to a whole number."""
    first, second = np.float32(first), second.astype(np.float32)
    return np.trunc(np.clip(first + np.float32(factor) * (second - first), 0, 255)).astype(int)


def on_pillow(operator, array, amount):
    return np.asarray(operator(PIL.Image.fromarray(array), amount)).astype(int)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.37, 2.5])
def test_brightness_contrast_saturation_are_blends(factor):
    black = np.zeros(NOISE.shape)
    mean = np.full(NOISE.shape, int(grey(NOISE).mean() + 0.5))
    colourless = np.repeat(grey(NOISE)[..., None], 3, axis=-1)
    for operator, first in (
        (augment.adjust_brightness_torchvision, black),
        (augment.adjust_contrast_torchvision, mean),
        (augment.adjust_saturation_torchvision, colourless),
    ):
        np.testing.assert_array_equal(on_pillow(operator, NOISE, factor), blend(first, NOISE, factor))


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.003, 0.07])
def test_hue_turns_whole_levels(turn):
    expected = np.empty(NOISE.shape)
    for place in np.ndindex(NOISE.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(NOISE[place] / 255))
        h, s = math.floor(h * 255 + 1e-9), math.floor(s * 255 + 1e-9)
        h = (h + math.trunc(turn * 255)) % 256
        expected[place] = [round(255 * c) for c in colorsys.hsv_to_rgb(h / 255, s / 255, v)]
    # Between its three products with 255 Pillow rounds in float32.
    off = np.abs(on_pillow(augment.adjust_hue_torchvision, NOISE, turn) - expected)
    assert off.max() <= 1 and np.mean(off > 0) < 0.1


def test_grey_is_the_same_in_all_channels():
    found = augment.to_gray_torchvision(NOISE, np.random.default_rng(0), probability=1.0)
    np.testing.assert_array_equal(found, np.repeat(grey(NOISE)[..., None], 3, axis=-1))


def test_t18_solarisation_begins_at_128():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
    found = augment.solarize_pillow(levels, np.random.default_rng(0), probability=1.0)
    np.testing.assert_array_equal(found[..., 0].ravel(), [x if x < 128 else 255 - x for x in range(256)])
    quarter = augment.solarize_pillow(levels, np.random.default_rng(0), probability=1.0, threshold=64)
    assert quarter[4, 0, 0] == 191


def box_radius(sigma):
    """Of three extended box filters with the variance of a Gaussian together (Gwosdek et al. 2011)."""
    variance = sigma**2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole, rest


def box_taps(sigma):
    whole, rest = box_radius(sigma)
    width = 2 * (whole + rest) + 1
    return np.array([rest, *[1.0] * (2 * whole + 1), rest]) / width


def blurred(channel, sigma):
    """Three box filters along rows, then along columns, in 24-bit fixed point; the border is repeated."""
    whole, rest = box_radius(sigma)
    middle = int(2**24 / (2 * (whole + rest) + 1))
    edge = (2**24 - (2 * whole + 1) * middle) // 2
    taps = [edge, *[middle] * (2 * whole + 1), edge]
    x = channel.astype(int)
    for _ in range(2):
        for _ in range(3):
            padded = np.pad(x, ((0, 0), (whole + 1, whole + 1)), mode="edge")
            x = (sum(t * padded[:, i : i + x.shape[1]] for i, t in enumerate(taps)) + 2**23) >> 24
        x = x.T
    return x


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_t18_blur_is_three_box_filters_with_the_border_repeated(sigma):
    x = np.random.default_rng(2).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    rng = np.random.default_rng(0)
    found = augment.gaussian_blur_pillow(x, rng, probability=1.0, radius=(sigma, sigma)).astype(int)
    expected = np.stack([blurred(x[..., c], sigma) for c in range(3)], axis=-1)
    np.testing.assert_array_equal(found, expected)
    constant = np.full((24, 30, 3), 77, np.uint8)
    assert (augment.gaussian_blur_pillow(constant, rng, probability=1.0) == 77).all()


def test_t18_an_impulse():
    x = np.zeros((21, 21, 3), np.uint8)
    x[10, 10] = 255
    found = augment.gaussian_blur_pillow(x, np.random.default_rng(0), probability=1.0, radius=(2.0, 2.0))[..., 0]
    assert found[10, 10] / 255 == pytest.approx(0.035, abs=5e-4)  # a true Gaussian has 1 / 8 pi = 0.040
    line = np.zeros((1, 21, 3), np.uint8)
    line[0, 10] = 255
    found = augment.gaussian_blur_pillow(line, np.random.default_rng(0), probability=1.0, radius=(2.0, 2.0))
    assert np.count_nonzero(found[0, :, 0]) == 11
    taps = functools.reduce(np.convolve, [box_taps(2.0)] * 3)
    assert taps.sum() == pytest.approx(1) and taps @ (np.arange(len(taps)) - len(taps) // 2) ** 2 == pytest.approx(4)


def test_jitter_composes_its_operators_in_the_drawn_order():
    seen = set()
    for seed in range(40):
        found = augment.color_jitter_torchvision(NOISE, np.random.default_rng(seed), probability=1.0, hue=0.2)
        rng = np.random.default_rng(seed)
        rng.random()
        order = rng.permutation(4)
        amounts = [rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)]
        names = ("brightness", "contrast", "saturation", "hue")
        x = NOISE
        for index in order:
            operator = getattr(augment, f"adjust_{names[index]}_torchvision")
            x = on_pillow(operator, x, amounts[index]).astype(np.uint8)
        np.testing.assert_array_equal(found, x)
        seen.add(tuple(order))
    assert len(seen) > 12
    wide = {"brightness": 3.0, "contrast": 3.0, "saturation": 3.0}  # factors stop at 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert augment.color_jitter_torchvision(NOISE, rng, probability=1.0, **wide).dtype == np.uint8
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    still = augment.color_jitter_torchvision(NOISE, np.random.default_rng(0), probability=1.0, hue=0.0, **off)
    np.testing.assert_array_equal(still, NOISE)


@pytest.mark.parametrize("name", ["color_jitter_torchvision", "to_gray_torchvision", "gaussian_blur_pillow"])
def test_operators_keep_type_input_and_probability(name):
    operator, array = getattr(augment, name), smooth(32, 32)
    before = array.copy()
    out = operator(array, np.random.default_rng(0), probability=1.0)
    assert out.dtype == np.uint8 and out.shape == array.shape and (array == before).all()
    assert operator(array, np.random.default_rng(0), probability=0.0) is array
    rng = np.random.default_rng(0)
    changed = sum(operator(array, rng, probability=0.3) is not array for _ in range(500))
    assert 110 < changed < 190
