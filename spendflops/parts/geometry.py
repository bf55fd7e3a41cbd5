"""The geometry of a set of features: how many directions they use, how far they spread. On the host, in float64.

No labels are read. Every function is a function of the set: the order of the rows, and in which batches they came,
changes its value by rounding alone. Rows are read in blocks, so that a float32 array is never copied as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from spendflops.contracts.errors import DataError, DivergedError
from spendflops.contracts.types import DatasetInfo

_ROWS = 4096
_PAIRS = 1024


def check_rows(rows: Mapping[str, Any], name: str, *, info: DatasetInfo, asker: str) -> Float[np.ndarray, "N ..."]:
    """The rows ``name``, of which there are at least two, all finite.

    Raises:
        DataError: Fewer examples.
        DivergedError: Others.
    """
    found = np.asarray(rows[name]) if name in rows else np.zeros((0, 1), np.float32)
    if len(found) < 2:
        raise DataError(
            f"{asker} has {len(found)} example(s) of {info.name}",
            why="it compares examples with each other",
            fix="give a split of at least two, better of many more than the features have dimensions",
        )
    if not np.isfinite(found).all():
        raise DivergedError(f"features of the images of {info.name} are not finite", fix="look at the training loss")
    return found


def singular_values(rows: Float[np.ndarray, "N D"], *, centre: bool = False) -> Float[np.ndarray, " K"]:
    """The min(N, D) singular values, descending, of the rows or (``centre``) of what is left without their mean.

    Blocks of rows are folded into one triangle by QR decompositions, which leaves singular values as they are: each is
    exact to float64 rounding of the largest. The roots of the eigenvalues of the D x D Gram matrix, which are the same
    numbers at half the price, lose all values below 1e-8 of the largest.
    """
    rows = np.asarray(rows)
    count, width = rows.shape
    middle = _mean(rows) if centre else np.zeros(width)
    if count <= width:
        return np.linalg.svd(rows.astype(np.float64) - middle, compute_uv=False)
    triangle = np.zeros((0, width))
    for block in _blocks(rows, max(_ROWS, 2 * width)):
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block - middle]), mode="r"))
    return np.linalg.svd(triangle, compute_uv=False)


def effective_rank(values: Float[np.ndarray, " K"], *, epsilon: float = 1e-7) -> float:
    r"""exp of the entropy of normalised singular values: :math:`e^{-\sum p \ln p}, p_k = s_k / \sum s + \epsilon`.

    Between 1 (one direction, or only zeros) and K, but for the part of epsilon, about 16 K epsilon.
    """
    values = np.asarray(values, np.float64)
    total = values.sum()
    parts = (values / total if total > 0 else values) + epsilon
    parts = parts[parts > 0]
    return float(np.exp(-math.fsum(parts * np.log(parts))))


def unit_rows(rows: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
    """Rows of length 1, float64; a row of zeros stays."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def deviation(rows: Float[np.ndarray, "N D"]) -> float:
    """Mean over dimensions of the standard deviation (by N) of the rows at length 1: 0 if all are equal.

    At most 1 / sqrt(D), which rows in all directions alike come near to.
    """
    rows = np.asarray(rows)
    middle = sum(unit_rows(block).sum(axis=0) for block in _blocks(rows, _ROWS)) / len(rows)
    squares = sum(np.square(unit_rows(block) - middle).sum(axis=0) for block in _blocks(rows, _ROWS)) / len(rows)
    return float(np.sqrt(squares).mean())


def uniformity(rows: Float[np.ndarray, "N D"], *, t: float = 2.0) -> float:
    r""":math:`\ln\,\mathrm{mean}_{i<j}\,e^{-t\,\lVert x_i - x_j\rVert^2}` over all pairs of rows, at length 1.

    0 if all are equal; about :math:`-2t` for rows in all directions of many dimensions. N^2 D multiply-adds.
    """
    rows = np.asarray(rows)
    count, sums = len(rows), []
    for start in range(0, count, _PAIRS):
        block = unit_rows(rows[start : start + _PAIRS])
        for other in range(start, count, _PAIRS):
            second = unit_rows(rows[other : other + _PAIRS])
            lengths = np.square(block).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
            close = np.exp(-t * np.maximum(lengths - 2 * block @ second.T, 0))
            sums.append(float((np.triu(close, 1) if other == start else close).sum()))
    return math.log(math.fsum(sums) / (count * (count - 1) / 2))


def alignment(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "N D"], *, alpha: float = 2.0) -> float:
    r""":math:`\mathrm{mean}_i\,\lVert x_i - y_i\rVert^\alpha` of two rows each, at length 1: 0 if both are equal."""
    blocks = zip(_blocks(np.asarray(first), _ROWS), _blocks(np.asarray(second), _ROWS), strict=True)
    apart = [np.linalg.norm(unit_rows(a) - unit_rows(b), axis=1) ** alpha for a, b in blocks]
    return math.fsum(np.concatenate(apart)) / len(first)


def _mean(rows: np.ndarray) -> np.ndarray:
    return sum(block.sum(axis=0) for block in _blocks(rows, _ROWS)) / len(rows)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size].astype(np.float64)
