"""Barlow Twins: the conformance kit, and the loss against a slow float64 computation written from the paper."""

import math

import jax
import numpy as np
import pytest
from spendflops_barlow.barlow import EPSILON, BarlowTwins, cross_correlation, inverted_above, redundancy_loss

import spendflops.testing
from spendflops.contracts.errors import ConfigError

test_barlow = spendflops.testing.objective_tests("barlow")


def oracle(a: np.ndarray, b: np.ndarray, redundancy: float) -> float:
    """Equations (1) and (2), element by element."""
    count, width = a.shape

    def column(z: np.ndarray, i: int) -> list[float]:
        mean = sum(z[:, i].tolist()) / count
        centred = [x - mean for x in z[:, i].tolist()]
        norm = math.sqrt(sum(x * x for x in centred) / count + EPSILON)
        return [x / norm for x in centred]

    total = 0.0
    for i in range(width):
        for j in range(width):
            c = sum(x * y for x, y in zip(column(a, i), column(b, j), strict=True)) / count
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


@pytest.mark.parametrize(("count", "width", "redundancy"), [(2, 3, 5e-3), (16, 5, 5.1e-3), (33, 1, 0.0), (7, 8, 1.0)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_loss(count, width, redundancy, scale):
    rng = np.random.default_rng(count)
    a, b = (scale * rng.normal(size=(count, width)) + 2 * scale for _ in range(2))
    with jax.enable_x64(True):
        value = redundancy_loss(cross_correlation(a, b), redundancy)
    assert float(value) == pytest.approx(oracle(a, b, redundancy), rel=1e-10)


def test_equal_views_with_independent_components_cost_nothing():
    z = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert float(redundancy_loss(cross_correlation(z, z), 5e-3)) == pytest.approx(0, abs=1e-8)
    # One component twice: no agreement is lost, C_01 = C_10 = 1.
    twice = z[:, [0, 0]]
    assert float(redundancy_loss(cross_correlation(twice, twice), 5e-3)) == pytest.approx(2 * 5e-3, rel=1e-3)


def test_solarisation_inverts_bright_values():
    assert inverted_above(np.array([0, 127, 128, 255], np.uint8)).tolist() == [0, 127, 127, 0]


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="projector_layers 0"):
        BarlowTwins(None, info=None, rngs=None, projector_layers=0)
