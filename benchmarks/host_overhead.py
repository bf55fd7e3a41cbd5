"""Host work of the training loop: microseconds a step for a model of 200 leaves, over a bare jitted call.

The model does next to nothing on the device and the batch is always the same array, so that what is left is the work of
the host: taking a batch, placing it, calling the program, writing the step that was reached, looking at the loss. Bare
is `state, metrics = jitted(state, batch, call)` in a loop, on the same state. Both are timed in turns in one process; a
time a step is the difference of a long and a short run, which cancels what a run does once (opening, its checkpoint).
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from typing import Any
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import DatasetInfo, Features, Loss
from spendflops.engine import loop, sharding
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Recipe, Stage

LEAVES, SHORT = 200, 50


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
    """In the place of the input pipeline: the same batch at once."""

    def __init__(self, source: Any, views: Any, *, spec: Any, batch_size: int, seed: int):
        self._batch = {"image": np.ones((batch_size, 8, 8, 3), np.uint8)}

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batch

    @contextlib.contextmanager
    def read(self, first: int, last: int) -> Any:
        yield iter([self._batch] * (last - first))


STAGE = Stage(objective=Decay, backbone=Leaves, dataset=Blank(), optimizer=adamw(lr=1e-3), batch_size=8)


def loop_seconds(steps: int) -> float:
    """The time of the training loop for so many steps."""
    taken = []
    train = loop._train

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        state = jax.block_until_ready(train(*args, **kwargs))
        taken.append(time.perf_counter() - started)
        return state

    recipe = Recipe(stages=(STAGE,), budget=f"{steps} steps", log_every=10**6, checkpoint_every=10**6)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loop, "_train", timed),
        mock.patch.object(loop.data, "Batches", Same),
    ):
        loop.run_recipe(recipe, folder, quiet=True)
    return taken[0]


class Bare:
    """The same step as a plain jitted function, called in a loop."""

    def __init__(self) -> None:
        built = build_stage(STAGE)
        self._step = jax.jit(built.train.fn, donate_argnums=(0,))
        self._state = built.init.compile()(sharding.place(jax.random.key(0), batch=False))
        self._batch = sharding.place({"image": np.ones((8, 8, 8, 3), np.uint8)}, batch=True)
        self._call = sharding.place({"key": jax.random.key(1), "steps": np.int32(100)}, batch=False)

    def __call__(self, steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch, self._call)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started


def main() -> None:
    """Takes the samples in turns."""
    quick = harness.options(__doc__ or "").quick
    before, bare = harness.machine(), Bare()
    rounds, steps = (2, 200) if quick else (15, 1000)
    bare(SHORT)
    loop_seconds(SHORT)
    samples: dict[str, list[float]] = {"bare": [], "loop": []}
    for _ in range(rounds):
        for name, run in (("bare", bare), ("loop", loop_seconds)):
            short, long = run(SHORT), run(SHORT + steps)
            samples[name].append(1e6 * (long - short) / steps)
    ratios = [a / b for a, b in zip(samples["loop"], samples["bare"], strict=True)]
    cases = [
        harness.Case(name="bare jitted call", unit="us a step", samples=samples["bare"]),
        harness.Case(name="training loop", unit="us a step", samples=samples["loop"]),
        harness.Case(name="ratio, round by round", unit="x", samples=ratios, goal="at most 1.3"),
    ]
    harness.finish("host_overhead", cases, quick=quick, before=before, about=f"{LEAVES} leaves, AdamW, batch of 8")


if __name__ == "__main__":
    main()
