"""Features of one's own images from a trained model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset
from spendflops.engine.build import open_source
from spendflops.engine.load import Model
from spendflops.engine.rundir import storage_error
from spendflops.parts import images


def extract(
    model: Model, dataset: Dataset, *, split: str | None, batch_size: int, out: Path
) -> dict[str, tuple[int, ...]]:
    """Writes an ``.npz`` of features and returns the shapes in it.

    Args:
        model: From :func:`spendflops.load`.
        dataset: The images; resized to what the model expects.
        split: Of the data set; None for its only one.
        batch_size: Images at a time.
        out: File to write, atomically.

    Raises:
        errors.DataError: An image that cannot be read, a disk that is full.
    """
    name = split if split is not None else _only_split(dataset)
    wanted = ("image", "label") if dataset.info.classes else ("image",)
    source = open_source(dataset, name, wanted)
    columns: dict[str, list] = {"digest": []}
    for start in range(0, len(source), batch_size):
        samples = [source[i] for i in range(start, min(start + batch_size, len(source)))]
        pixels = np.stack([images.resize(s["image"].decode(), model.spec.size, "bicubic") for s in samples])
        # A last batch of another size would compile once more.
        full = np.pad(pixels, [(0, batch_size - len(samples))] + [(0, 0)] * 3)
        for key, value in model.features(full).items():
            columns.setdefault(key, []).extend(np.asarray(value)[: len(samples)])
        columns["digest"] += [s["image"].digest() for s in samples]
        if "label" in wanted:
            columns.setdefault("label", []).extend(int(s["label"]) for s in samples)
    arrays = {key: np.asarray(value) for key, value in columns.items()}
    if "label" in arrays:
        arrays["classes"] = np.asarray(dataset.info.classes)
    _save(out, arrays)
    return {key: value.shape for key, value in arrays.items()}


def _only_split(dataset: Dataset) -> str:
    splits = list(dataset.info.sizes)
    if len(splits) != 1:
        raise errors.ConfigError(
            f"{dataset.info.name} has the splits {', '.join(splits)}", fix="choose one with --split"
        )
    return splits[0]


def _save(out: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(out, error) from error
