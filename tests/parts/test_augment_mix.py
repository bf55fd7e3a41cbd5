"""Mixup and CutMix against the formulas, pixel by pixel, and their distributions."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.parts.augment.mix import Mixing, rectangle

IMAGES = np.random.default_rng(0).normal(size=(5, 12, 9, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    """Images and parts of a thousand keys, and which of them were mixed up (cut otherwise, or left alone)."""
    mixing = Mixing(mixup=0.8, cutmix=1.0, probability=0.6, switch=0.25)
    keys = jax.random.split(jax.random.key(1), 1000)
    images, parts = jax.jit(jax.vmap(lambda key: mixing(jnp.asarray(IMAGES), key)))(keys)
    images, parts = np.asarray(images), np.asarray(parts)
    whole = ((images[:, 0] == IMAGES[0]) | (images[:, 0] == IMAGES[4])).all((1, 2, 3))
    return images, parts, ~whole


def box(size, left, centre):
    """(top, bottom, left, right) as timm cuts it, in Python's own numbers."""
    found = []
    for side, middle in zip(size, centre, strict=True):
        half = int(side * math.sqrt(1 - left)) // 2
        found += [min(max(middle - half, 0), side), min(max(middle + half, 0), side)]
    return found


def test_rectangle_is_the_one_of_the_formula():
    size = (12, 9)
    cut = jax.jit(lambda left, row, col: rectangle(size, left, [row, col]))
    for left, row, col in itertools.product((0.0, 0.13, 0.5, 0.97, 1.0), (0, 5, 11), (0, 4, 8)):
        expected = np.zeros(size, np.float32)
        top, bottom, first, last = box(size, left, (row, col))
        expected[top:bottom, first:last] = 1
        np.testing.assert_array_equal(cut(left, row, col), expected)


def test_mixup_is_a_weighted_sum_with_the_reversed_batch(drawn):
    images, parts, summed = drawn
    part = parts[summed, None, None, None, None]
    np.testing.assert_allclose(images[summed], part * IMAGES + (1 - part) * IMAGES[::-1], atol=1e-6)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert (part.mean(), part.var()) == pytest.approx((0.5, 1 / (4 * (2 * 0.8 + 1))), abs=0.025)


def test_cutmix_takes_whole_pixels_and_its_part_counts_them(drawn):
    images, parts, summed = drawn
    cut = ~summed & (parts < 1)
    for mixed, part in zip(images[cut], parts[cut], strict=True):
        own = (mixed[0] == IMAGES[0]).all(-1)
        np.testing.assert_array_equal(mixed[0][~own], IMAGES[4][~own])
        np.testing.assert_array_equal(mixed[2], IMAGES[2])  # the middle one of an odd batch is its own partner
        assert part == pytest.approx(own.mean(), abs=1e-6)
        rows, cols = np.nonzero(~own)
        assert rows.size == (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
    assert len(set(parts[cut].tolist())) > 20


def test_probability_and_switch(drawn):
    images, parts, summed = drawn
    untouched = parts == 1
    assert np.mean(summed) == pytest.approx(0.6 * 0.75, abs=0.04)
    # Some rectangles are empty: parts are uniform for alpha = 1, before what lies beyond the border is cut off.
    assert 0.4 - 0.04 <= np.mean(untouched) <= 0.4 + 0.6 * 0.25 * 0.15 + 0.04
    np.testing.assert_array_equal(images[untouched], np.broadcast_to(IMAGES, images[untouched].shape))


def test_active():
    assert not Mixing().active and not Mixing(mixup=1.0, probability=0.0).active
    assert Mixing(mixup=0.1).active and Mixing(cutmix=0.1).active


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mixup": -0.1}, "Beta"),
        ({"cutmix": -1.0}, "Beta"),
        ({"probability": 1.5}, "0..1"),
        ({"switch": -0.5}, "0..1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError, match=message):
        Mixing(**options)
