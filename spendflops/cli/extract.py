"""spendflops extract RUN folder:photos out.npz [--stage NAME]

RUN is a run directory, or a folder of weights from `spendflops import`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.cli import options
from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.contracts.dataset import Dataset
    from spendflops.engine.load import Model


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    flags.DEFINE_string("stage", None, "Stage whose model is used; the last by default.", flag_values=known)
    flags.DEFINE_string("split", None, "Split of the data; all of a folder by default.", flag_values=known)
    flags.DEFINE_integer("batch_size", 64, "Images at a time.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Writes ``summary`` and ``mean_tokens`` [N D], ``digest`` [N] and, of labelled data, ``label`` and ``classes``."""
    if len(rest) != 3:
        raise errors.ConfigError(
            "extract takes a run, data and an output file", fix="spendflops extract runs/mae folder:photos out.npz"
        )
    run, data, out = rest
    if not out.endswith(".npz"):
        raise errors.ConfigError(f"the output is {out!r}", fix="a name that ends with .npz")
    from spendflops.engine.load import load

    dataset = options.dataset(data)
    written = extract(
        load(run, stage=known.stage), dataset, split=known.split, batch_size=known.batch_size, out=Path(out)
    )
    print(f"{out}: " + ", ".join(f"{k} {list(v)}" for k, v in written.items()))
    return 0


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
    import numpy as np

    from spendflops.engine.build import open_source
    from spendflops.parts import images

    wanted = ("image", "label") if dataset.info.classes else ("image",)
    source = open_source(dataset, options.split_of(dataset, split), wanted)
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


def _save(out: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    from spendflops.engine.rundir import storage_error

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(out, error) from error
