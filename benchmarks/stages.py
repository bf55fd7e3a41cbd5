"""What benchmarks of training steps share: data that are on no disk, and steps that are timed one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.types import DatasetInfo
from spendflops.engine import sharding
from spendflops.engine.build import BuiltStage, build_stage
from spendflops.engine.recipe import Stage


class Nothing(Dataset):
    """A thousand classes and captions; nothing is read."""

    info = DatasetInfo(
        name="nothing",
        features={"image": "uint8 H W C", "label": "int32", "caption": "str"},
        classes=tuple(f"class {i}" for i in range(1000)),
        sizes={"train": 1000},
    )

    def source(self, split: str, *, features: tuple[str, ...]) -> Any:
        """Never called: programs are made from shapes."""
        raise LookupError(split)


def begun(built: BuiltStage) -> tuple[Any, Any]:
    """The state at step 0, and what every step is called with beside its batch."""
    state = built.init.compile()(sharding.place(jax.random.key(0), built.init.args[0]))
    return state, sharding.place({"key": jax.random.key(1), "steps": np.int32(1000)}, built.train.args[2])


def prepared(stage: Stage) -> tuple[int, Callable[[], float]]:
    """Model FLOPs of a step, compiled, and what takes one on always the same batch and gives its seconds."""
    built = build_stage(stage)
    step, (state, call) = built.train.compile(), begun(built)
    rng = np.random.default_rng(0)
    batch = {n: rng.integers(0, 200, x.shape).astype(x.dtype) for n, x in built.inputs.items()}
    batch = sharding.place(batch, built.train.args[1])

    def take() -> float:
        nonlocal state
        started = time.perf_counter()
        state, metrics = step(state, batch, call)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - started

    flops = built.train.cost().total
    assert flops is not None
    return flops, take


def timed(stage: Stage, steps: int, *, warm: int = 1) -> tuple[int, list[float]]:
    """Model FLOPs of a step, and seconds of each of ``steps`` on one batch, compiled and warmed up before."""
    flops, take = prepared(stage)
    return flops, [take() for _ in range(warm + steps)][warm:]
