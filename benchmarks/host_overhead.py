"""Host work of the training loop: microseconds a step for a model of 200 leaves, over a bare jitted call.

The model does next to nothing on the device and the batch is always the same array, so that what is left is the work of
the host: taking a batch, placing it, calling the program, writing the step that was reached, looking at the loss. Bare
is `state, metrics = jitted(state, batch, call)` in a loop, on the same state. Both are timed in turns in one process. A
sample is the median over the steps of a stretch of the time from one step to the next, so that neither what a run does
once (opening, its checkpoint) nor a step that another process interrupted counts. Beside it, the processor time of the
thread that runs the loop, averaged over the stretch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from stages import begun

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import DatasetInfo, Features, Loss
from spendflops.engine import loop, sharding
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Recipe, Stage

LEAVES, WARM = 200, 50


class Leaves(Backbone):
    """Many small parameters."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.image_size, self.stride, self.dim = (8, 8), (8, 8), 8
        self.leaves = nnx.List(nnx.Param(jnp.full((8,), 1.0 + i)) for i in range(LEAVES))

    def __call__(self, images: Any, ctx: Any, *, levels: Any = ()) -> Features:
        zeros = jnp.zeros((images.shape[0], 1, 8))
        return Features(tokens=zeros, prefix=zeros[:, :0], summary=zeros[:, 0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels(Views):
    """The image as it is."""

    def __call__(self, sample: Any, rng: Any, spec: Any) -> dict[str, np.ndarray]:
        return {"image": sample["image"]}


class Decay(Objective):
    """The sum of all squares: a gradient for every leaf and hardly any work."""

    inputs = {"image": "uint8 B H W C"}  # noqa: RUF012
    views = Pixels

    def __init__(self, backbone: Backbone, *, info: DatasetInfo, rngs: nnx.Rngs):
        self.backbone = backbone

    def loss(self, batch: Any, targets: Any, ctx: Any) -> Loss:
        scale = jnp.mean(batch["image"].astype(jnp.float32))
        return Loss(value=scale * sum(jnp.sum(jnp.square(leaf[...])) for leaf in self.backbone.leaves))


class Blank(Dataset):
    """Black images."""

    def __init__(self) -> None:
        self.info = DatasetInfo(name="blank", features={"image": "uint8 H W C"}, sizes={"train": 8})

    def source(self, split: str, *, features: tuple[str, ...]) -> Any:
        return [{"image": np.ones((8, 8, 3), np.uint8)}] * 8


class Same:
    """In the place of the input pipeline: the same batch at once, and a note of the time whenever it is asked for."""

    notes: list[tuple[float, float]]

    def __init__(self, source: Any, views: Any, *, batch_size: int, **more: Any):
        self._batch = {"image": np.ones((batch_size, 8, 8, 3), np.uint8)}

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batch

    @contextlib.contextmanager
    def read(self, first: int, last: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        Same.notes = []
        yield self._noted(last - first)

    def _noted(self, steps: int) -> Iterator[dict[str, np.ndarray]]:
        for _ in range(steps):
            Same.notes.append((time.perf_counter(), time.thread_time()))
            yield self._batch


STAGE = Stage(objective=Decay, backbone=Leaves, dataset=Blank(), optimizer=adamw(lr=1e-3), batch_size=8)


def loop_notes(steps: int) -> list[tuple[float, float]]:
    """(wall, processor) time of each step of the training loop."""
    recipe = Recipe(stages=(STAGE,), budget=f"{steps} steps", log_every=10**6, checkpoint_every=10**6)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop.data, "Batches", Same):
        loop.run_recipe(recipe, folder, quiet=True, checked=True)
    return Same.notes


class Bare:
    """The same step as a plain jitted function, called in a loop."""

    def __init__(self) -> None:
        built = build_stage(STAGE)
        self._step = jax.jit(built.train.fn, donate_argnums=(0,))
        self._state, self._call = begun(built)
        self._batch = sharding.place({"image": np.ones((8, 8, 8, 3), np.uint8)}, built.train.args[1])

    def __call__(self, steps: int) -> list[tuple[float, float]]:
        """(wall, processor) time of each step."""
        notes = []
        for _ in range(steps):
            notes.append((time.perf_counter(), time.thread_time()))
            self._state, metrics = self._step(self._state, self._batch, self._call)
        jax.block_until_ready((self._state, metrics))
        return notes


def sample(notes: list[tuple[float, float]]) -> tuple[float, float]:
    """Microseconds a step: median of the wall times, mean of the processor times; the first steps warm up."""
    wall, processor = np.diff(np.asarray(notes[WARM:]), axis=0).T
    return 1e6 * float(np.median(wall)), 1e6 * float(np.mean(processor))


def main() -> None:
    """Takes the samples in turns."""
    quick = harness.options(__doc__ or "").quick
    before, bare = harness.machine(), Bare()
    rounds, steps = (2, 300) if quick else (15, 1000)
    found: dict[str, list[tuple[float, float]]] = {"bare jitted call": [], "training loop": []}
    for _ in range(rounds):
        found["bare jitted call"].append(sample(bare(WARM + steps)))
        found["training loop"].append(sample(loop_notes(WARM + steps)))
    cases = []
    for place, kind, goal in ((0, "wall", "at most 1.3"), (1, "processor time of the thread", "")):
        samples = {name: [pair[place] for pair in pairs] for name, pairs in found.items()}
        cases += [harness.Case(name=f"{name}, {kind}", unit="us a step", samples=s) for name, s in samples.items()]
        ratios = [a / b for b, a in zip(*samples.values(), strict=True)]
        cases.append(harness.Case(name=f"ratio, {kind}", unit="x", samples=ratios, goal=goal))
    harness.finish("host_overhead", cases, quick=quick, before=before, about=f"{LEAVES} leaves, AdamW, batch of 8")


if __name__ == "__main__":
    main()
