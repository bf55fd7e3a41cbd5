"""Random erasing: rectangles against a loop in Python, their distribution, what is inside and what is not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.parts.augment.erasing import Erasing

SIZE = (24, 32)
COUNT = 4000


def slow(rng, size, *, probability=0.25, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), attempts=10):
    """(top, left, height, width) as the definition has them, one by one; None where nothing is erased."""
    if rng.random() >= probability:
        return None
    for _ in range(attempts):
        target = rng.uniform(*area) * size[0] * size[1]
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if height < size[0] and width < size[1]:
            return rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1), height, width
    return None


def boxes(inside):
    """(top, left, height, width) of each mask, which must be a whole rectangle; None where it is empty."""
    found = []
    for mask in np.asarray(inside):
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            found.append(None)
            continue
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        found.append((rows[0], cols[0], np.ptp(rows) + 1, np.ptp(cols) + 1))
    return found


def drawn(count=COUNT, seed=0, size=SIZE, **options):
    return boxes(Erasing(**options).rectangles(jax.random.key(seed), count, size))


def quantiles(found):
    """Of top, left, height, width, area and log ratio."""
    x = np.array([box for box in found if box is not None], float)
    columns = [*x.T, x[:, 2] * x[:, 3], np.log(x[:, 2] / x[:, 3])]
    return np.array([np.quantile(column, (0.1, 0.25, 0.5, 0.75, 0.9)) for column in columns])


def test_probability():
    for probability in (0.25, 1.0):
        part = np.mean([box is not None for box in drawn(probability=probability)])
        assert part == pytest.approx(probability, abs=0.02)
    assert not any(drawn(count=50, probability=0.0))


def test_distribution_is_that_of_the_loop():
    rng = np.random.default_rng(0)
    expected = quantiles([slow(rng, SIZE, probability=1.0) for _ in range(COUNT)])
    found = quantiles(drawn(probability=1.0))
    # Whole pixels: a quantile may lie one beside the other.
    np.testing.assert_allclose(found[:4], expected[:4], atol=1.01)
    np.testing.assert_allclose(found[4], expected[4], rtol=0.06, atol=2)
    np.testing.assert_allclose(found[5], expected[5], atol=0.09)


def test_rectangles_stay_within_their_bounds():
    found = drawn(probability=1.0)
    assert all(h < SIZE[0] and w < SIZE[1] for _, _, h, w in found)
    assert all(0 <= top <= SIZE[0] - h and 0 <= left <= SIZE[1] - w for top, left, h, w in found)
    # Sides are rounded.
    area = np.array([h * w for _, _, h, w in found]) / math.prod(SIZE)
    assert area.min() > 0.01 and area.max() < 1 / 3 + 0.03
    # Every border is reached.
    assert {top == 0 for top, *_ in found} == {top + h == SIZE[0] for top, _, h, _ in found} == {True, False}
    assert {left == 0 for _, left, *_ in found} == {left + w == SIZE[1] for _, left, _, w in found} == {True, False}


def test_what_does_not_fit_is_drawn_anew_and_then_left_out():
    large = {"area": (0.4, 0.8), "ratio": (0.3, 1 / 0.3), "probability": 1.0}
    rng = np.random.default_rng(1)
    parts = []
    for attempts in (1, 10):
        parts.append(np.mean([box is None for box in drawn(attempts=attempts, **large)]))
        slowly = np.mean([slow(rng, SIZE, attempts=attempts, **large) is None for _ in range(COUNT)])
        assert parts[-1] == pytest.approx(slowly, abs=0.03)
    assert parts[0] > parts[1] + 0.1
    assert not any(drawn(count=50, area=(1.0, 1.0), ratio=(1.0, 1.0), probability=1.0))


def test_noise_inside_and_the_image_outside():
    erasing, key = Erasing(probability=0.5), jax.random.key(3)
    images = jnp.asarray(np.random.default_rng(0).normal(5, 0.1, (200, *SIZE, 3)), jnp.float32)
    result = np.asarray(jax.jit(erasing)(images, key))
    inside = (result != np.asarray(images)).any(-1)
    found = boxes(inside)
    assert 70 < sum(box is not None for box in found) < 130
    noise = result[inside]
    # A value of its own for every pixel and channel.
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert len(np.unique(noise)) > 0.98 * noise.size
    assert result.dtype == np.float32


def test_the_key_decides():
    erasing = Erasing(probability=1.0)
    images = jnp.zeros((2, *SIZE, 3))
    first, again, other = (erasing(images, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_active():
    assert Erasing().active and not Erasing(probability=0.0).active


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probability": 1.1}, "probability"),
        ({"probability": -0.1}, "probability"),
        ({"area": (0.5, 0.2)}, "area"),
        ({"area": (0.1, 1.2)}, "area"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"attempts": 0}, "attempt"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError, match=message):
        Erasing(**options)
