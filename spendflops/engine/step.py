"""The two compiled functions of a run: one training step, one prediction. Phases are named scopes set here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jax.sharding import Mesh
from jaxtyping import Array

from spendflops.contracts.objective import Objective
from spendflops.contracts.types import Batch, Context
from spendflops.engine.optim import Optimizer
from spendflops.engine.state import Definition, Tree, copies, flatten, teacher_of, unflatten


def train_step(
    definition: Definition, optimizer: Optimizer, *, accumulate: int = 1, mesh: Mesh | None = None
) -> Callable[..., tuple[Tree, dict[str, Array]]]:
    """``(state, batch, run) -> (state, metrics)`` for one step.

    ``run`` is ``{"key", "steps"}``: the stage's random key and its length are arguments, so that one compilation serves
    every budget and seed. Metrics are float32 scalars: ``loss``, the objective's own, ``lr``, ``grad_norm``,
    ``health``.

    Args:
        definition: The model.
        optimizer: Takes one step a batch.
        accumulate: Micro-batches that a batch is divided into, one after the other, to hold fewer activations. Of a
            loss that is a mean over examples, and of statistics that move by such means, the step is the same; metrics
            are means over the micro-batches, each of which draws random numbers of its own.
        mesh: Of the devices that the batch is split over, None where it is on one.
    """
    objective = definition.example
    trained = frozenset(optimizer.trained(definition.params, objective))

    def differentiate(state: Tree, batch: Batch, ctx: Context) -> dict[str, Any]:
        flat = flatten(state["params"])
        fixed = {p: x for p, x in flat.items() if p not in trained}

        targets = None
        if objective.teacher or type(objective).targets is not Objective.targets:
            with jax.named_scope("targets"):
                teacher = definition.merge({**state["params"], **state["ema"]}, state["stats"])
                targets = jax.lax.stop_gradient(teacher.targets(batch, ctx))

        def forward(moving: dict[str, Array]) -> tuple[Array, tuple[dict[str, Array], Tree]]:
            with jax.named_scope("forward"):
                module = definition.merge(unflatten({**fixed, **moving}), state["stats"])
                loss = module.loss(batch, targets, ctx)
                return loss.value.astype(jnp.float32), (dict(loss.metrics), definition.stats_of(module))

        moving = {p: flat[p] for p in flat if p in trained}
        (value, (metrics, stats)), gradients = jax.value_and_grad(forward, has_aux=True)(moving)
        return {"gradients": gradients, "metrics": {**metrics, "loss": value}, "stats": stats}

    def step(state: Tree, batch: Batch, run: Mapping[str, Array]) -> tuple[Tree, dict[str, Array]]:
        key = jax.random.fold_in(run["key"], state["step"])
        ctx = Context(key=key, step=state["step"], steps=run["steps"], train=True, mesh=mesh)
        if accumulate == 1:
            found = differentiate(state, batch, ctx)
        else:

            def part(number: Array, rows: Batch) -> dict[str, Any]:
                own = dataclasses.replace(ctx, key=jax.random.fold_in(key, number))
                return differentiate(state, rows, own)

            found = _mean(part, micro_batches(batch, accumulate), accumulate)

        with jax.named_scope("update"):
            params, opt, shown = optimizer.update(
                found["gradients"], state["opt"], state["params"], objective=objective, ctx=ctx
            )
            if type(objective).project is not Objective.project:
                module = definition.merge(params, found["stats"])
                module.project()
                params = definition.params_of(module)
            ema = state["ema"]
            if objective.teacher:
                decay = objective.teacher_decay(ctx)
                ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, teacher_of(objective, params))

        new = {"step": state["step"] + 1, "params": params, "stats": found["stats"], "ema": ema, "opt": opt}
        # One number to read at every step: it is finite only if both are.
        health = found["metrics"]["loss"] + shown["grad_norm"]
        return new, {**found["metrics"], **shown, "health": health}

    return step


def reads_length(definition: Definition, inputs: Mapping[str, Any]) -> bool:
    """Whether the targets, the loss or the statistics of a training step read how long the stage is."""

    def forward(steps: Array, rest: tuple[Tree, Tree, Tree, Batch, Array, Array]) -> tuple[Array, Tree]:
        params, stats, ema, batch, key, step = rest
        ctx = Context(key=key, step=step, steps=steps, train=True)
        targets = definition.merge({**params, **ema}, stats).targets(batch, ctx)
        module = definition.merge(params, stats)
        value = module.loss(batch, targets, ctx).value
        return value, definition.stats_of(module)

    key, count = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    ema = jax.eval_shape(lambda params: copies(definition, params), definition.params)
    rest = (definition.params, definition.stats, ema, dict(inputs), key, count)
    program = jax.make_jaxpr(forward)(count, rest)
    _, used = partial_eval.dce_jaxpr(program.jaxpr, True)
    return used[0]


def micro_batches(batch: Batch, count: int) -> Batch:
    """[B ...] to [count B/count ...]: every ``count``-th example, so that a device keeps its rows, however many."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def _mean(part: Callable[[Array, Batch], Any], batches: Batch, count: int) -> Any:
    """The mean of ``part(number, batch)``, summed up one by one; of whole numbers, which are no means, the last."""

    def add(total: Any, given: tuple[Array, Batch]) -> tuple[Any, None]:
        return jax.tree.map(lambda t, x: t + x if _inexact(x) else x, total, part(*given)), None

    given = jnp.arange(count), batches
    shapes = jax.eval_shape(part, *jax.tree.map(lambda x: x[0], given))
    total, _ = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), given)
    return jax.tree.map(lambda x: x / count if _inexact(x) else x, total)


def _inexact(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def closed_form(definition: Definition, inputs: Mapping[str, Any]) -> int | None:
    """Counter A of a training step on a batch of these shapes; None where the method has no formula."""
    try:
        return definition.example.closed_form(inputs)
    except NotImplementedError:
        return None


def predict_step(
    definition: Definition, want: tuple[str, ...], evaluators: tuple[tuple[str, Any], ...], *, mesh: Mesh | None = None
) -> Callable[[Tree, Tree, Batch], dict[str, Any]]:
    """``(params, stats, batch) -> {evaluator: {"metrics", "rows"}}``: one prediction feeds every evaluator.

    ``mesh``: of the devices that the batch is split over, None where it is on one.
    """

    def step(params: Tree, stats: Tree, batch: Batch) -> dict[str, Any]:
        zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
        ctx = Context(key=jax.random.key(0), step=zero, steps=one, train=False, mesh=mesh)
        with jax.named_scope("predict"):
            predictions = _predicted(definition.merge(params, stats), batch, ctx, want)
            return {name: dict(evaluator.step(predictions, batch, ctx)) for name, evaluator in evaluators}

    return step


def _predicted(module: Objective, batch: Batch, ctx: Context, want: tuple[str, ...]) -> dict[str, Any]:
    """The outputs of a batch; of several images an example [B K H W C] they are [B K ...], too."""
    if not want:
        return {}
    if "image" not in batch or batch["image"].ndim == 4:
        return module.predict(batch, ctx, want=want)
    count, images = batch["image"].shape[:2], batch["image"]
    flat = {**batch, "image": images.reshape(-1, *images.shape[2:])}
    return jax.tree.map(lambda x: x.reshape(*count, *x.shape[1:]), module.predict(flat, ctx, want=want))
