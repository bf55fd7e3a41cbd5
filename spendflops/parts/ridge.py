r"""Ridge regression in closed form, in float64, with the penalty chosen by leaving one out.

Features are standardised, :math:`x = (f - \mu) / (\sigma + 10^{-5})`, with the mean and deviation of the examples that
are fitted. With X the standardised features (columns sum to 0) and Y the targets, the weights are

.. math:: W = (X^T X + \lambda I)^{-1} X^T Y = X^T (X X^T + \lambda I)^{-1} Y

(primal, dual), through one eigendecomposition for every penalty. The intercept is the mean of the targets
(``"free"``), or shrunk as by an appended constant feature of 100 (``"constant_100"``, big_vision's few-shot probe).

Leaving example i out changes its residual to :math:`(y_i - \hat y_i) / (1 - h_{ii})`, h the hat matrix: exact for the
given standardisation, without a second fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

GRID = tuple(10.0 ** (k / 2) for k in range(-10, 5))
"""Penalties that are tried, as multiples of the number of examples: the Gram matrix grows with it, too."""

_ROWS = 65_536
_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ridge:
    """A fitted regression.

    Attributes:
        mean, scale: Of the features, [D].
        weights: On standardised features, [D K].
        intercept: [K].
        penalty: The lambda that was used.
        loo: Mean squared leave-one-out residual at that penalty.
    """

    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "D K"]
    intercept: Float[np.ndarray, " K"]
    penalty: float
    loo: float

    def __call__(self, features: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N K"]:
        """Predicted targets."""
        weights = self.weights / self.scale[:, None]
        return np.asarray(features, np.float64) @ weights + (self.intercept - self.mean @ weights)


def fit_ridge(
    features: Float[np.ndarray, "N D"],
    targets: Float[np.ndarray, "N K"],
    *,
    penalty: float | str = "loo",
    intercept: str = "free",
    dual: bool | None = None,
) -> Ridge:
    """Fits ``targets`` on ``features``.

    Args:
        features: Any float type; read in blocks, so that a large float32 array is never copied to float64 as a whole.
        targets: One column a right-hand side.
        penalty: Lambda, above 0, or ``"loo"``: the one of :data:`GRID` with the smallest leave-one-out error; of equal
            ones the largest.
        intercept: ``"free"`` or ``"constant_100"``.
        dual: Which form to solve; by default the smaller system.

    Raises:
        ValueError: Shapes that do not fit, no examples, a penalty that is not positive, or features that are not
            finite.
    """
    features, targets = np.asarray(features), np.asarray(targets, np.float64)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or not len(features):
        raise ValueError(f"features {features.shape} and targets {targets.shape} are not [N D] and [N K]")
    if penalty != "loo" and not float(penalty) > 0:
        raise ValueError(f"penalty {penalty} is not above 0")
    if intercept not in ("free", "constant_100"):
        raise ValueError(f"unknown intercept {intercept!r}")
    count, width = features.shape
    mean = sum(block.sum(axis=0) for block in _blocks(features)) / count
    scale = np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in _blocks(features)) / count) + _EPSILON
    if not np.isfinite(mean).all() or not np.isfinite(scale).all():
        raise ValueError("features are not finite")

    system = (_Dual if (count < width if dual is None else dual) else _Primal)(features, targets, mean, scale)
    penalties = [g * count for g in GRID] if penalty == "loo" else [float(penalty)]
    # The constant's diagonal of the hat matrix: 1/N unpenalised, else 100^2 / (N 100^2 + lambda).
    constants = [1 / (count + (0 if intercept == "free" else p / 1e4)) for p in penalties]
    errors = system.leave_one_out(penalties, constants)
    best = min(range(len(penalties)), key=lambda i: (errors[i], -penalties[i]))
    return Ridge(
        mean=mean,
        scale=scale,
        weights=system.weights(penalties[best]),
        intercept=targets.sum(axis=0) * constants[best],
        penalty=penalties[best],
        loo=errors[best],
    )


class _Primal:
    """Eigenvectors V, eigenvalues s of X'X [D D]."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, mean: np.ndarray, scale: np.ndarray):
        self._features, self._targets, self._mean, self._scale = features, targets, mean, scale
        width = features.shape[1]
        gram, cross = np.zeros((width, width)), np.zeros((width, targets.shape[1]))
        for rows, block in self._standardised():
            gram += block.T @ block
            cross += block.T @ targets[rows]
        self._values, self._vectors = np.linalg.eigh(gram)
        self._values = np.maximum(self._values, 0)
        self._projected = self._vectors.T @ cross

    def leave_one_out(self, penalties: list[float], constants: list[float]) -> list[float]:
        totals, sums = np.zeros(len(penalties)), self._targets.sum(axis=0)
        for rows, block in self._standardised():
            rotated = block @ self._vectors
            squared, targets = np.square(rotated), self._targets[rows]
            for i, (penalty, constant) in enumerate(zip(penalties, constants, strict=True)):
                shrunk = 1 / (self._values + penalty)
                fitted = rotated @ (shrunk[:, None] * self._projected) + constant * sums
                totals[i] += _squares(targets - fitted, squared @ shrunk + constant)
        return list(totals / self._targets.size)

    def weights(self, penalty: float) -> np.ndarray:
        return self._vectors @ (self._projected / (self._values + penalty)[:, None])

    def _standardised(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start, block in zip(range(0, len(self._features), _ROWS), _blocks(self._features), strict=True):
            yield slice(start, start + len(block)), (block - self._mean) / self._scale


class _Dual:
    """Eigenvectors U, eigenvalues s of XX' [N N]."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, mean: np.ndarray, scale: np.ndarray):
        self._x, self._targets = (features.astype(np.float64) - mean) / scale, targets
        self._values, self._vectors = np.linalg.eigh(self._x @ self._x.T)
        self._values = np.maximum(self._values, 0)
        self._projected = self._vectors.T @ targets

    def leave_one_out(self, penalties: list[float], constants: list[float]) -> list[float]:
        squared, sums = np.square(self._vectors), self._targets.sum(axis=0)
        totals = []
        for penalty, constant in zip(penalties, constants, strict=True):
            shrunk = self._values / (self._values + penalty)
            fitted = self._vectors @ (shrunk[:, None] * self._projected) + constant * sums
            totals.append(_squares(self._targets - fitted, squared @ shrunk + constant) / self._targets.size)
        return totals

    def weights(self, penalty: float) -> np.ndarray:
        return self._x.T @ (self._vectors @ (self._projected / (self._values + penalty)[:, None]))


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), _ROWS):
        yield features[start : start + _ROWS].astype(np.float64)


def _squares(residuals: np.ndarray, leverage: np.ndarray) -> float:
    # An example alone has leverage 1, nothing is left to predict it from: a huge error, not a division by 0.
    rest = np.maximum(1 - leverage, np.finfo(np.float64).eps)
    return float(np.square(residuals / rest[:, None]).sum())
