"""Ridge regression against plain solves and brute-force leaving out; the two cases T12."""

import numpy as np
import pytest

from spendflops.parts import ridge
from spendflops.parts.ridge import GRID, fit_ridge


def data(count, width, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, width)) * rng.uniform(0.1, 5, width) + rng.uniform(-9, 9, width)
    targets = features[:, :outputs] + rng.standard_normal((count, outputs)) + 2
    return features, targets


def standardised(features):
    return (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-5)


def plain(features, targets, penalty, intercept):
    """The normal equations with an explicit intercept column, solved directly."""
    constant = 1.0 if intercept == "free" else 100.0
    x = np.column_stack([standardised(features), np.full(len(features), constant)])
    shrink = penalty * np.eye(x.shape[1])
    if intercept == "free":
        shrink[-1, -1] = 0
    solution = np.linalg.solve(x.T @ x + shrink, x.T @ targets)
    return solution[:-1], constant * solution[-1]


@pytest.mark.parametrize("dual", [False, True])
def test_t12_two_points(dual):
    # Few-shot probe: x = 0 (class 0) and 2 (class 1), targets +-1, lambda 1024, constant feature 100.
    fit = fit_ridge(
        np.array([[0.0], [2.0]]), np.array([[1.0, -1], [-1, 1]]), penalty=1024.0, intercept="constant_100", dual=dual
    )
    np.testing.assert_allclose(fit.weights, [[-2 / 1026, 2 / 1026]], rtol=2e-5)
    np.testing.assert_allclose(fit.intercept, [0, 0], atol=1e-15)
    np.testing.assert_allclose(fit(np.array([[2.0]])), [[-0.0019493, 0.0019493]], atol=5e-8)


@pytest.mark.parametrize("dual", [False, True])
def test_t12_mirrored(dual):
    # x = +1 (class 0), -1 (class 1): weight 2 / 1026 = .0019493177 for class 0.
    fit = fit_ridge(
        np.array([[1.0], [-1.0]]), np.array([[1.0, -1], [-1, 1]]), penalty=1024.0, intercept="constant_100", dual=dual
    )
    np.testing.assert_allclose(fit.weights * (1 + 1e-5), [[0.0019493177, -0.0019493177]], rtol=1e-7)


@pytest.mark.parametrize("count, width", [(50, 10), (8, 20), (20, 7)])
@pytest.mark.parametrize("intercept", ["free", "constant_100"])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1024.0])
def test_primal_and_dual_are_the_plain_solution(count, width, intercept, penalty):
    features, targets = data(count, width)
    weights, constant = plain(features, targets, penalty, intercept)
    for dual in (False, True, None):
        fit = fit_ridge(features, targets, penalty=penalty, intercept=intercept, dual=dual)
        np.testing.assert_allclose(fit.weights, weights, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(fit.intercept, constant, rtol=1e-10, atol=1e-12)
        new = np.random.default_rng(1).standard_normal((5, width))
        want = (new - features.mean(axis=0)) / (features.std(axis=0) + 1e-5) @ weights + constant
        np.testing.assert_allclose(fit(new), want, rtol=1e-9, atol=1e-9)


def left_out(features, targets, penalty, intercept):
    """Mean squared error of predicting each example by a fit to the others, under the common standardisation."""
    x, errors = standardised(features), []
    constant = 1.0 if intercept == "free" else 100.0
    x = np.column_stack([x, np.full(len(x), constant)])
    shrink = penalty * np.eye(x.shape[1])
    if intercept == "free":
        shrink[-1, -1] = 0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        solution = np.linalg.solve(x[rest].T @ x[rest] + shrink, x[rest].T @ targets[rest])
        errors.append((targets[i] - x[i] @ solution) ** 2)
    return np.mean(errors)


@pytest.mark.parametrize("count, width", [(30, 4), (9, 14)])
@pytest.mark.parametrize("intercept", ["free", "constant_100"])
def test_leave_one_out_is_exact(count, width, intercept):
    features, targets = data(count, width, seed=3)
    for penalty in (0.01, 1.0, 300.0):
        want = left_out(features, targets, penalty, intercept)
        for dual in (False, True):
            got = fit_ridge(features, targets, penalty=penalty, intercept=intercept, dual=dual).loo
            np.testing.assert_allclose(got, want, rtol=1e-7)
    chosen = fit_ridge(features, targets, intercept=intercept)
    errors = [left_out(features, targets, g * count, intercept) for g in GRID]
    assert chosen.penalty == GRID[int(np.argmin(errors))] * count


def test_noise_gets_the_largest_penalty_and_signal_a_small_one():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 20))
    assert fit_ridge(features, features @ rng.standard_normal((20, 2))).penalty == GRID[0] * 200
    assert fit_ridge(features, rng.standard_normal((200, 2))).penalty >= GRID[-3] * 200


def test_blocks_change_nothing(monkeypatch):
    features, targets = data(37, 5)
    want = fit_ridge(features, targets)
    monkeypatch.setattr(ridge, "_ROWS", 8)
    got = fit_ridge(features, targets)
    assert got.penalty == want.penalty
    np.testing.assert_allclose(got.weights, want.weights, rtol=1e-12)
    np.testing.assert_allclose(got.loo, want.loo, rtol=1e-12)


def test_order_of_examples_and_constant_features_do_not_matter():
    features, targets = data(40, 6)
    features = np.column_stack([features, np.full(40, 3.0)])
    order = np.random.default_rng(0).permutation(40)
    a, b = fit_ridge(features, targets), fit_ridge(features[order], targets[order])
    np.testing.assert_allclose(a(features), b(features), rtol=1e-9)
    assert np.isfinite(a.weights).all() and abs(a.weights[-1]).max() < 1e-9
    np.testing.assert_allclose(fit_ridge(features.astype(np.float32), targets)(features), a(features), rtol=1e-4)


def test_one_example_and_wrong_arguments():
    one = fit_ridge(np.ones((1, 3)), np.array([[2.0]]))
    assert one(np.zeros((1, 3)))[0, 0] == pytest.approx(2.0)
    features, targets = data(5, 3)
    for bad in (
        {"penalty": 0.0},
        {"penalty": -1.0},
        {"intercept": "none"},
    ):
        with pytest.raises(ValueError):
            fit_ridge(features, targets, **bad)
    with pytest.raises(ValueError, match="finite"):
        fit_ridge(np.full((3, 2), np.nan), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"\[N D\]"):
        fit_ridge(features, targets[:3])
