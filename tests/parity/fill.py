"""Deterministic weights and inputs of the golden runs, without random numbers; numpy alone."""

from __future__ import annotations

import numpy as np

PAD, END = 0, 6143
"""Ids of the golden texts; the end has the largest, as in OpenAI's vocabulary."""


def fill(key, shape):
    """Values from a key and a place, rounded to float32; weights of norms are near 1."""
    values = 0.05 * np.sin(0.1 * (np.arange(np.prod(shape, dtype=int)) + 1) + 0.7 * len(key))
    near_one = len(shape) == 1 and key.endswith("weight")
    return (values + float(near_one)).reshape(shape).astype(np.float32)


def filled(shapes):
    """A state dict."""
    return {key: fill(key, tuple(shape)) for key, shape in shapes.items()}


def images(size, count=2):
    """[B H W C], float32, on the scale of normalised pixels."""
    n, row, col, ch = np.meshgrid(np.arange(count), np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    return np.sin(0.3 * row + 0.2 * col + ch + n).astype(np.float32)


def noise():
    """[2 16]: the order in which patches are hidden."""
    i = np.arange(16)
    return np.stack([(7 * i % 16) / 16, ((5 * i + 3) % 16) / 16]).astype(np.float32)


def texts(length=9):
    """[2 L] ids: two texts of different lengths, padded."""
    tokens = np.full((2, length), PAD)
    for row, words in enumerate(((7, 400, 31), (11, 12, 6000, 77, 5))):
        tokens[row, : len(words) + 1] = (*words, END)
    return tokens


def summary(value):
    """What is kept of an array: enough to tell it from any other."""
    flat = np.asarray(value, np.float64).reshape(-1)
    place = np.arange(flat.size)
    return {
        "shape": list(np.shape(value)),
        "mean": float(flat.mean()),
        "std": float(flat.std()),
        "wave": float(flat @ np.sin(place + 1) / flat.size),
        "first": [float(x) for x in flat[:4]],
    }
