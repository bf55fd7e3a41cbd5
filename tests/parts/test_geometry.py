"""The geometry of features against loops over numbers, on sets whose values are known, and their invariances."""

import math

import numpy as np
import pytest

from spendflops.contracts.errors import DataError, DivergedError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts import geometry

INFO = DatasetInfo(name="toy", features={})


def cloud(count, width, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, width)) * np.geomspace(3, 0.01, width) + 0.5).astype(np.float32)


def rotation(width):
    return np.linalg.qr(np.random.default_rng(5).standard_normal((width, width)))[0]


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("shape", [(40, 7), (7, 7), (5, 9), (2, 1)])
def test_singular_values_are_those_of_the_whole_matrix(shape, centre, monkeypatch):
    rows = cloud(*shape)
    whole = rows.astype(np.float64) - (rows.astype(np.float64).mean(axis=0) if centre else 0)
    want = np.linalg.svd(whole, compute_uv=False)
    np.testing.assert_allclose(geometry.singular_values(rows, centre=centre), want, atol=1e-13 * want[0])
    monkeypatch.setattr(geometry, "_ROWS", 3)
    values = geometry.singular_values(rows, centre=centre)
    np.testing.assert_allclose(values, want, atol=1e-13 * want[0])
    assert values.shape == (min(shape),) and (np.diff(values) <= 0).all()


def test_small_singular_values_survive():
    # Against the Gram matrix, whose eigenvalues lose everything below 1e-8 of the largest value.
    rows = np.random.default_rng(0).standard_normal((50, 4))
    rows = np.linalg.qr(rows)[0] * [1, 1e-3, 1e-10, 1e-12]
    np.testing.assert_allclose(geometry.singular_values(rows), [1, 1e-3, 1e-10, 1e-12], rtol=1e-3)


def slow_rank(values, epsilon):
    parts = [v / sum(values) + epsilon for v in values]
    return math.exp(-sum(p * math.log(p) for p in parts))


def test_effective_rank_against_a_loop_and_where_it_is_known():
    values = np.random.default_rng(0).random(9)
    assert geometry.effective_rank(values) == pytest.approx(slow_rank(values, 1e-7), rel=1e-13)
    assert geometry.effective_rank(values * 1e5, epsilon=1e-4) == pytest.approx(slow_rank(values, 1e-4), rel=1e-13)
    assert geometry.effective_rank(np.ones(8), epsilon=0) == pytest.approx(8, rel=1e-13)
    assert geometry.effective_rank(np.array([1.0, 0, 0]), epsilon=0) == 1
    # Two directions of weights 3/4 and 1/4.
    assert geometry.effective_rank(np.array([3.0, 1, 0]), epsilon=0) == pytest.approx(4 / 3**0.75, rel=1e-13)
    with np.errstate(all="raise"):
        assert geometry.effective_rank(np.zeros(4)) == pytest.approx(1, abs=1e-4)
        assert geometry.effective_rank(np.zeros(4), epsilon=0) == 1


def slow_unit(row):
    length = math.sqrt(sum(float(v) ** 2 for v in row))
    return [float(v) / length if length else 0.0 for v in row]


def test_unit_rows_of_any_scale():
    rows = cloud(6, 4)
    rows[0], rows[1] = 0, rows[1] * 1e-30
    np.testing.assert_allclose(geometry.unit_rows(rows), [slow_unit(r) for r in rows], rtol=1e-13)
    assert geometry.unit_rows(np.float32([[3e38, 4e38 / 10]])).max() < 1


def slow_deviation(rows):
    columns = list(zip(*[slow_unit(r) for r in rows], strict=True))
    means = [sum(c) / len(c) for c in columns]
    spreads = [math.sqrt(sum((v - m) ** 2 for v in c) / len(c)) for c, m in zip(columns, means, strict=True)]
    return sum(spreads) / len(spreads)


def test_deviation_against_a_loop_and_where_it_is_known(monkeypatch):
    rows = cloud(23, 5)
    assert geometry.deviation(rows) == pytest.approx(slow_deviation(rows), rel=1e-12)
    monkeypatch.setattr(geometry, "_ROWS", 4)
    assert geometry.deviation(rows) == pytest.approx(slow_deviation(rows), rel=1e-12)
    assert geometry.deviation(np.tile(rows[:1], (9, 1))) == pytest.approx(0, abs=1e-15)
    # Both ends of every axis: the largest value there is.
    assert geometry.deviation(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(0.5, rel=1e-13)
    # A circle that lies along two of eight axes.
    turn = np.arange(12) * math.pi / 6
    circle = np.zeros((12, 8))
    circle[:, 0], circle[:, 1] = np.cos(turn), np.sin(turn)
    assert geometry.deviation(circle) * math.sqrt(8) == pytest.approx(math.sqrt(2 / 8), rel=1e-12)


def slow_uniformity(rows, t):
    rows = [slow_unit(r) for r in rows]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    close = [math.exp(-t * sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))) for i, j in pairs]
    return math.log(sum(close) / len(pairs))


@pytest.mark.parametrize("t", [0.5, 2.0, 100.0])
def test_uniformity_against_a_loop_over_pairs(t, monkeypatch):
    rows = cloud(21, 4)
    want = slow_uniformity(rows, t)
    assert geometry.uniformity(rows, t=t) == pytest.approx(want, rel=1e-11)
    for pairs in (1, 4, 20, 21):
        monkeypatch.setattr(geometry, "_PAIRS", pairs)
        assert geometry.uniformity(rows, t=t) == pytest.approx(want, rel=1e-11)


def test_uniformity_where_it_is_known():
    assert geometry.uniformity(np.array([[1.0, 0], [-2, 0]])) == pytest.approx(-8, rel=1e-13)
    assert geometry.uniformity(np.eye(6)) == pytest.approx(-4, rel=1e-13)
    assert -1e-12 < geometry.uniformity(np.tile(cloud(1, 6), (9, 1))) <= 0
    rows = np.random.default_rng(0).standard_normal((1500, 512))
    assert geometry.uniformity(rows) == pytest.approx(-4, abs=0.02)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_against_a_loop(alpha, monkeypatch):
    first, second = cloud(11, 5, 0), cloud(11, 5, 1)
    want = sum(math.dist(slow_unit(a), slow_unit(b)) ** alpha for a, b in zip(first, second, strict=True)) / len(first)
    assert geometry.alignment(first, second, alpha=alpha) == pytest.approx(want, rel=1e-12)
    monkeypatch.setattr(geometry, "_ROWS", 3)
    assert geometry.alignment(first, second, alpha=alpha) == pytest.approx(want, rel=1e-12)
    assert geometry.alignment(first, first * 8, alpha=alpha) < 1e-13
    assert geometry.alignment(first, -first, alpha=alpha) == pytest.approx(2**alpha, rel=1e-13)


def test_what_a_rotation_and_the_order_change():
    rows, turn = cloud(60, 6).astype(np.float64), rotation(6)
    order = np.random.default_rng(3).permutation(60)
    for changed in (rows @ turn, rows[order], 3 * rows[order] @ turn):
        rank = geometry.effective_rank(geometry.singular_values(changed))
        assert rank == pytest.approx(geometry.effective_rank(geometry.singular_values(rows)), rel=1e-12)
        assert geometry.uniformity(changed) == pytest.approx(geometry.uniformity(rows), rel=1e-12)
    # The deviation is one of coordinates: it keeps its value in another order, not in another basis.
    assert geometry.deviation(rows[order]) == pytest.approx(geometry.deviation(rows), rel=1e-13)
    assert abs(geometry.deviation(rows @ turn) - geometry.deviation(rows)) > 1e-3


def test_rows_that_are_refused():
    rows = {"feature": np.ones((2, 3), np.float32)}
    assert geometry.check_rows(rows, "feature", info=INFO, asker="x") is rows["feature"]
    for bad in ({}, {"feature": rows["feature"][:1]}):
        with pytest.raises(DataError, match=r"x has [01] example"):
            geometry.check_rows(bad, "feature", info=INFO, asker="x")
    for value in (np.nan, np.inf):
        with pytest.raises(DivergedError, match="not finite"):
            geometry.check_rows({"feature": rows["feature"] * value}, "feature", info=INFO, asker="x")
