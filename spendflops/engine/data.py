"""The input pipeline: the batch is a pure function of (seed, step).

Grain's ``MapDataset`` gives random access, so a resumed run starts at any step without iterator state, and its order
does not depend on the number of threads. ``filter`` is never used: it would break random access.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Source
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import InputSpec
from spendflops.engine.sharding import struct

BUFFER = 4
"""Batches that wait for the device. Grain counts its buffer in batches: 4 bounds the memory at 4 batches a reader."""


def threads() -> int:
    """Reader threads: one a core. Grain's 16 cost 40 % of the throughput on 2 cores."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _parse_absl_flags() -> None:
    # Grain reads absl flags and raises in a program that did not parse any.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1], known_only=True)


@dataclasses.dataclass(frozen=True)
class _RandomViews:
    views: Views
    spec: InputSpec

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.views(sample, rng, self.spec)


class Batches:
    """Training batches: ``batches[step]`` and iteration from any step give the same arrays.

    Args:
        source: Samples.
        views: Sample -> inputs.
        spec: Of the model.
        batch_size: Examples a batch, all devices.
        seed: Of this stage's order and augmentation.
    """

    def __init__(self, source: Source, views: Views, *, spec: InputSpec, batch_size: int, seed: int):
        if len(source) == 0:
            raise errors.DataError("the training data are empty", fix="check the path and the split")
        _parse_absl_flags()
        self._batches = (
            grain.MapDataset.source(source)
            .seed(seed)
            .shuffle(seed=seed)
            .repeat()
            .random_map(_RandomViews(views, spec), seed=seed)
            .batch(batch_size, drop_remainder=True)
        )

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batches[step]

    @contextlib.contextmanager
    def read(self, first: int, last: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Batches of the steps [first, last), read ahead by threads."""
        options = grain.ReadOptions(num_threads=threads(), prefetch_buffer_size=BUFFER)
        iterator = iter(self._batches[first:last].to_iter_dataset(options))
        try:
            yield iterator
        finally:
            close = getattr(iterator, "close", None)
            if close:
                close()


def padded(source: Source, preprocess: Preprocess, *, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Evaluation batches in the source's order; the last one is filled up and ``_mask`` says which examples count."""
    if len(source) == 0:
        raise errors.DataError("the evaluation data are empty", fix="check the path and the split")
    _parse_absl_flags()
    batches = grain.MapDataset.source(source).map(preprocess).batch(batch_size, drop_remainder=False)
    # The buffer is of batches: Grain polls all that waits in it for each element that it gives.
    options = grain.ReadOptions(num_threads=threads(), prefetch_buffer_size=BUFFER)
    for batch in batches.to_iter_dataset(options):
        real = len(next(iter(batch.values())))
        full = {n: np.pad(a, [(0, batch_size - real)] + [(0, 0)] * (a.ndim - 1)) for n, a in batch.items()}
        yield {**full, "_mask": np.arange(batch_size) < real}


def train_structs(objective: Objective, views: Views, spec: InputSpec, batch_size: int) -> dict[str, Any]:
    """Shapes of a training batch from the objective's ``inputs`` and the letters of its views. No data is opened.

    Raises:
        errors.PluginError: A specification that cannot be read or a letter without a size.
    """
    letters = {**views.letters(spec), "B": batch_size}
    structs = {}
    for name, text in objective.inputs.items():
        dtype, *axes = text.split()
        shape = tuple(_axis(axis, letters, f"{type(objective).__name__}.inputs[{name!r}]") for axis in axes)
        structs[name.rstrip("?")] = struct(shape, np.dtype(dtype), batch=True)
    return structs


def _axis(axis: str, letters: Mapping[str, int], where: str) -> int:
    match = re.fullmatch(r"([A-Za-z_]+)?(?:=?(\d+))?", axis)
    if match and match.group(2):
        return int(match.group(2))
    if match and match.group(1) in letters:
        return letters[match.group(1)]
    raise errors.PluginError(
        f"{where}: no size for {axis!r}",
        why=f"known letters: {', '.join(sorted(letters))}",
        fix="write its size (V=2) or return it from the views' letters(spec)",
    )


def check_batch(batch: Mapping[str, np.ndarray], structs: Mapping[str, jax.ShapeDtypeStruct], who: str) -> None:
    """Raises a ConfigError where a batch is not what the objective declared: before anything compiles."""
    for name, wanted in structs.items():
        if name not in batch:
            raise errors.ConfigError(
                f"{who} needs the input {name!r}",
                why=f"the views give {', '.join(batch)}",
                fix="use the method's own views, or add the entry to yours",
            )
        got = batch[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise errors.ConfigError(
                f"{who}: input {name!r} is {got.dtype}{list(got.shape)}, declared {wanted.dtype}{list(wanted.shape)}",
                fix="views, image size and `inputs` must agree",
            )
    extra = sorted(set(batch) - set(structs))
    if extra:
        raise errors.ConfigError(f"{who}: the views give {extra[0]!r}, which it does not declare in `inputs`")


def stage_seed(seed: int, stage: int) -> int:
    """The seed of a stage's data: independent streams for neighbouring seeds and stages."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint32)[0] >> 1)
