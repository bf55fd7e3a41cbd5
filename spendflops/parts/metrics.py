"""Scores: integer counts on the device (``count_...``, jax.numpy), scores on the host (numpy).

Counts are int32 inside a step and are added up in int64 on the host: exact for any order and any batch size. A
confusion matrix has the label in rows, the prediction in columns. IoU_c = M_cc / (row_c + column_c - M_cc), over all
pixels of the data set; a class that is in neither labels nor predictions is NaN and is left out of the mean.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Int64

IGNORE = 255
"""The label of pixels that do not count."""


def count_correct(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> dict[str, Int32[Array, ""]]:
    """``correct``, ``count`` and ``invalid`` (labels outside 0..C-1) among the examples of ``mask``.

    The first of equal logits is the prediction; an example with a NaN is wrong.
    """
    predicted = jnp.argmax(logits, axis=-1)
    correct = (predicted == labels) & ~jnp.isnan(logits).any(axis=-1) & mask
    invalid = ((labels < 0) | (labels >= logits.shape[-1])) & mask
    return {
        "correct": correct.sum(dtype=jnp.int32),
        "count": mask.sum(dtype=jnp.int32),
        "invalid": invalid.sum(dtype=jnp.int32),
    }


def count_confusion(
    labels: Int[Array, "*N"], predictions: Int[Array, "*N"], classes: int, *, ignore: int = IGNORE
) -> dict[str, Array]:
    """``confusion`` int32 [C C] and ``invalid``, the labels that are neither a class nor ``ignore``."""
    labels, predictions = labels.reshape(-1).astype(jnp.int32), predictions.reshape(-1).astype(jnp.int32)
    valid = (labels >= 0) & (labels < classes)
    # A scatter, not one-hot products: those would be billed as FLOPs and need C times the memory.
    index = jnp.where(valid, labels * classes + predictions, classes * classes)
    counts = jnp.zeros(classes * classes, jnp.int32).at[index].add(1, mode="drop")
    return {
        "confusion": counts.reshape(classes, classes),
        "invalid": (~valid & (labels != ignore)).sum(dtype=jnp.int32),
    }


def resize_scores(scores: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """Bilinear, pixel centres at half coordinates, not antialiased (``align_corners=False`` elsewhere)."""
    shape = (scores.shape[0], *size, scores.shape[-1])
    return jax.image.resize(scores, shape, "linear", antialias=False)


def confusion_matrix(
    labels: Int[np.ndarray, "*N"], predictions: Int[np.ndarray, "*N"], classes: int, *, ignore: int = IGNORE
) -> Int64[np.ndarray, "C C"]:
    """Counts of (label, prediction).

    Raises:
        ValueError: A label that is neither a class nor ``ignore``, or a prediction that is no class.
    """
    labels, predictions = np.asarray(labels, np.int64).ravel(), np.asarray(predictions, np.int64).ravel()
    valid = labels != ignore
    labels, predictions = labels[valid], predictions[valid]
    for name, values in (("label", labels), ("prediction", predictions)):
        outside = (values < 0) | (values >= classes)
        if outside.any():
            raise ValueError(f"{name} {values[outside][0]} is not one of {classes} classes")
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def iou(confusion: Int[np.ndarray, "C C"]) -> Float[np.ndarray, " C"]:
    """Intersection over union of each class, NaN where the union is empty."""
    confusion = np.asarray(confusion, np.int64)
    hits = np.diagonal(confusion)
    return _divide(hits, confusion.sum(axis=0) + confusion.sum(axis=1) - hits)


def segmentation_scores(confusion: Int[np.ndarray, "C C"], *, absent: str = "skipped") -> dict[str, float]:
    """``miou``, ``pixel_accuracy``, ``mean_accuracy`` (over classes that occur in the labels), ``classes`` averaged.

    A class in neither labels nor predictions is left out of ``miou``, or counts as 0 (``absent="zero"``). NaN where
    nothing was counted.
    """
    confusion = np.asarray(confusion, np.int64)
    hits, ious = np.diagonal(confusion), iou(confusion)
    return {
        "miou": _mean(np.nan_to_num(ious) if absent == "zero" else ious),
        "pixel_accuracy": float(_divide(hits.sum(), confusion.sum())),
        "mean_accuracy": _mean(_divide(hits, confusion.sum(axis=1))),
        "classes": int(np.isfinite(ious).sum()),
    }


def bilinear_matrix(size: int, target: int) -> Float[np.ndarray, "target size"]:
    """Linear interpolation of ``size`` samples at the ``target`` pixel centres, edges held, as a matrix of weights."""
    position = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.minimum(position.astype(np.int64), max(size - 2, 0))
    matrix = np.zeros((target, size))
    rows = np.arange(target)
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, np.minimum(low + 1, size - 1)] += position - low
    return matrix


PARTS = 10
"""Parts of a test set in :func:`binomial_spread`."""


def binomial_spread(accuracy: float, count: int) -> float:
    """Standard deviation of the accuracy of ``PARTS`` equal parts of ``count`` independent examples.

    Divided by sqrt(PARTS) it is the binomial standard error of the whole; it does not depend on an order.
    """
    return float(np.sqrt(accuracy * (1 - accuracy) * PARTS / count))


def spread(values: list[float]) -> float:
    """Sample standard deviation (n - 1); NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(b), np.nan), where=np.asarray(b) > 0)


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
