"""What the checks of objectives and backbones look at: a small model, its compiled step and a short training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.contracts import conformity, registry
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.objective import Views
from spendflops.contracts.types import Context
from spendflops.engine import data, optim, sharding
from spendflops.engine.build import input_spec
from spendflops.engine.program import Program
from spendflops.engine.state import Definition, Tree, create, define
from spendflops.engine.step import closed_form, train_step
from spendflops.testing.samples import KitData

TINY_VIT = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 1, "heads": 2, "compute_dtype": "float32"}
B1 = 0.9


def context(*, key: int = 0, train: bool = True) -> Context:
    """The first of 100 steps."""
    return Context(key=jax.random.key(key), step=jnp.asarray(0), steps=jnp.asarray(100), train=train)


class Subject:
    """An objective on a small backbone with a batch of samples.

    Args:
        cls: The objective.
        options: Its own.
        backbone, views, dataset, batch_size, devices: See ``objective_tests``.
    """

    def __init__(
        self,
        cls: type,
        *,
        options: Mapping[str, Any],
        backbone: Callable[..., Any] | None = None,
        views: Views | None = None,
        dataset: Dataset | None = None,
        batch_size: int = 8,
        devices: int | None = None,
    ):
        self.cls, self.options, self.devices = cls, dict(options), devices
        self.given = {"backbone": backbone, "views": views, "dataset": dataset}
        self.dataset = dataset or KitData()
        self.batch_size = -(-batch_size // jax.device_count()) * jax.device_count()

    @functools.cached_property
    def objective(self) -> Callable[..., Any]:
        """The factory that a recipe would hold."""
        return functools.partial(self.cls, **self.options)

    @functools.cached_property
    def backbone(self) -> Callable[..., Any]:
        """The backbone's factory."""
        return self.given["backbone"] or functools.partial(registry.load("backbones", "vit"), **TINY_VIT)

    @functools.cached_property
    def views(self) -> Views:
        """The given ones, or the objective's own."""
        return self.given["views"] or self.cls.views()

    @functools.cached_property
    def definition(self) -> Definition:
        """The model without values."""
        return self.define()

    def define(self, **changes: Any) -> Definition:
        """A new definition; ``changes`` are options of the objective and of the backbone, of those that have them."""
        return define(*(_changed(f, changes) for f in (self.backbone, self.objective)), info=self.dataset.info)

    @functools.cached_property
    def spec(self) -> Any:
        """What the model expects of its images."""
        return input_spec(self.definition.example, self.dataset.info)

    def inputs(self, batch_size: int | None = None) -> dict[str, Any]:
        """Shapes of a batch, as declared."""
        return data.train_structs(self.definition.example, self.views, self.spec, batch_size or self.batch_size)

    @functools.cached_property
    def samples(self) -> list[Any]:
        """Four batches' worth."""
        source = self.dataset.source("train", features=self.views.features)
        return [source[i % len(source)] for i in range(4 * self.batch_size)]

    @functools.cached_property
    def batches(self) -> list[dict[str, np.ndarray]]:
        """Those of four steps, on the host."""
        made = []
        for step in range(4):
            chosen = enumerate(self.samples[step * self.batch_size : (step + 1) * self.batch_size])
            examples = [self.views(s, np.random.default_rng([step, i]), self.spec) for i, s in chosen]
            made.append({name: np.stack([e[name] for e in examples]) for name in examples[0]})
        return made

    def optimizer(self, definition: Definition) -> optim.Optimizer:
        """Adam without decay; frozen groups stay frozen, late ones start at once."""
        table = optim.adamw(lr=3e-3).assign(definition.params, definition.example)
        groups = tuple(dataclasses.replace(g, start=None, start_fraction=None) for g, _ in table if g is not optim.REST)
        return optim.adamw(lr=3e-3, b1=B1, b2=0.95, groups=groups)

    def program(
        self, definition: Definition | None = None, batch_size: int | None = None, *, accumulate: int = 1
    ) -> Program:
        """A new training step: it is traced again."""
        definition = definition or self.definition
        optimizer = self.optimizer(definition)
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
        state = jax.eval_shape(lambda k: create(definition, optimizer, k), key)
        mesh = sharding.Mesh()
        state, call = mesh.state(state), {"key": mesh.struct((), key.dtype), "steps": mesh.struct((), np.int32)}
        size = batch_size or self.batch_size
        inputs = self.inputs(size)
        return Program(
            name="kit/train",
            fn=train_step(definition, optimizer, accumulate=accumulate, mesh=mesh.devices),
            args=(state, inputs, call),
            closed_form=closed_form(definition, inputs),
            examples=size,
            devices=jax.device_count(),
        )

    @functools.cached_property
    def train(self) -> Program:
        """The training step."""
        return self.program()

    @functools.cached_property
    def initial(self) -> Tree:
        """The state at step 0."""
        # Not compiled as a whole: so small, operation by operation is faster.
        made = create(self.definition, self.optimizer(self.definition), jax.random.key(0))
        return sharding.place(made, self.train.args[0])

    def step(
        self, state: Tree, batch: Mapping[str, np.ndarray], *, key: int = 0, program: Program | None = None
    ) -> tuple[Tree, dict[str, Any]]:
        """One step: the new state and the metrics."""
        program = program or self.train
        call = sharding.place({"key": jax.random.key(key), "steps": np.int32(100)}, program.args[2])
        return program.compile()(state, sharding.place(dict(batch), program.args[1]), call)

    def run(self, state: Tree, steps: range, *, key: int = 0, program: Program | None = None) -> list[tuple[Tree, Any]]:
        """States and metrics after each of the steps."""
        made = []
        for number in steps:
            state, metrics = self.step(state, self.batches[number], key=key, program=program)
            made.append((state, metrics))
        return made

    @functools.cached_property
    def trajectory(self) -> list[tuple[Tree, Any]]:
        """States and metrics after steps 1, 2 and 3."""
        return self.run(self.initial, range(3))

    def gradient(self, state: Tree) -> dict[str, np.ndarray]:
        """Parameter path -> running mean of the gradients so far; after one step, the gradient."""
        moments = [group.mu for group in state["opt"]["groups"].values()]
        return {path: np.asarray(m) / (1 - B1) for mu in moments for path, m in mu.items()}


def _changed(factory: Callable[..., Any], changes: Mapping[str, Any]) -> Callable[..., Any]:
    target = getattr(factory, "func", factory)
    known = conformity.constructor(target).parameters
    mine = {name: value for name, value in changes.items() if name in known}
    return functools.partial(factory, **mine) if mine else factory


def has_option(factory: Callable[..., Any], name: str) -> bool:
    """Whether a factory's class takes the option."""
    return name in conformity.constructor(getattr(factory, "func", factory)).parameters
