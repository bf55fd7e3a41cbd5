"""Seconds that a checkpoint takes from training: supervised ViT-S/16, 16 images of 224 pixels, AdamW, 0.27 GB of state.

A checkpoint is copied to the host's memory and written in a thread while training goes on. The pause is how much longer
the step that begins one is than the median of the steps without; what writing takes from the steps after it, on a
machine where it shares the cores with training, is their excess over that median, summed up until the next checkpoint.
Both are also stated as parts of the interval between checkpoints, at the recipe's own 1,000 steps. The batch is always
the same; the loop is that of `spendflops train`.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from unittest import mock

import harness
import numpy as np
from host_overhead import Same
from stages import Nothing

from spendflops.contracts import registry
from spendflops.engine import loop
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Recipe, Stage

BATCH, EVERY, USUAL = 16, 8, 1000


class Batches(Same):
    """The same random batch at once."""

    def __init__(self, source, views, *, spec, batch_size, seed, **kwargs):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (batch_size, 224, 224, 3), dtype=np.uint8)
        self._batch = {"image": images, "labels": rng.integers(0, 1000, (batch_size, 1), dtype=np.int32)}


class Blank(Nothing):
    """Data that can be opened, though nobody reads them."""

    def source(self, split, *, features):
        return [{"image": np.zeros((8, 8, 3), np.uint8), "label": 0}] * 8


def intervals(steps: int) -> list[float]:
    """Seconds from each step to the next."""
    vit = functools.partial(registry.load("backbones", "vit"), dim=384, depth=12, heads=6)
    stage = Stage(
        objective=registry.load("objectives", "supervised"),
        backbone=vit,
        dataset=Blank(),
        optimizer=adamw(lr=1e-4, weight_decay=0.05),
        batch_size=BATCH,
    )
    recipe = Recipe(stages=(stage,), budget=f"{steps} steps", log_every=1, checkpoint_every=EVERY)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop.data, "Batches", Batches):
        loop.run_recipe(recipe, folder, quiet=True, checked=True)
    return np.diff([wall for wall, _ in Same.notes]).tolist()


def main() -> None:
    """One run."""
    quick = harness.options(__doc__ or "").quick
    before, rounds = harness.machine(), 1 if quick else 5
    taken = intervals((rounds + 2) * EVERY + 1)[EVERY:]
    # Interval k of a round is the step after k others; the last one of each round begins the checkpoint.
    chunks = [taken[place : place + EVERY] for place in range(EVERY - 1, len(taken) - EVERY + 1, EVERY)]
    plain = statistics.median(x for chunk in chunks for x in chunk[EVERY // 2 :])
    pauses = [chunk[0] - plain for chunk in chunks]
    whole = [sum(chunk) - EVERY * plain for chunk in chunks]
    cases = [
        harness.Case(name="a step", unit="s", samples=[x for chunk in chunks for x in chunk[EVERY // 2 :]]),
        harness.Case(name="pause of the step that begins a checkpoint", unit="s", samples=pauses),
        harness.Case(name="all that a checkpoint takes from training", unit="s", samples=whole),
        harness.Case(
            name=f"its part of {USUAL} steps",
            unit="%",
            samples=[100 * x / (USUAL * plain) for x in whole],
            goal="under 5 %",
        ),
    ]
    harness.finish("checkpoint_pause", cases, quick=quick, before=before)


if __name__ == "__main__":
    main()
