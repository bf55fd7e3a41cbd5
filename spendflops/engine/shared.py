"""Training steps that several stages share: the same model on other data, or in another length, is traced once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from spendflops.engine import sharding
from spendflops.engine.describe import canonical, describe
from spendflops.engine.program import Program
from spendflops.engine.recipe import Stage
from spendflops.engine.state import Definition, begin, flatten
from spendflops.engine.step import closed_form, train_step

_KNOWN: dict[Any, Program] = {}


def training(stage: Stage, definition: Definition, inputs: dict[str, Any]) -> Program:
    """The training step of a stage's model on inputs of these shapes, in the process's one copy.

    A step reads nothing but the module, and Flax's description of a module (its classes, its static attributes, the
    shapes of its values) is all of it: where these are equal, so are the programs.
    """
    same, described = model_on(definition, inputs), describe(stage.optimizer)
    if same is None:
        return _program(stage, definition, inputs, None)
    size = (stage.batch_size, stage.accumulate)
    key = (stage.label, size, stage.mesh, same, canonical(described))
    if key not in _KNOWN:
        _KNOWN[key] = _program(stage, definition, inputs, (size, same, canonical(_without_numbers(described))))
    return _KNOWN[key]


def model_on(definition: Definition, inputs: Mapping[str, Any]) -> Hashable | None:
    """What is equal for models that compute the same on inputs of the same shapes; None where it cannot be told."""
    parts = definition.params, definition.stats, inputs
    shapes = tuple(f"{path} {x.shape} {x.dtype}" for part in parts for path, x in flatten(part).items())
    found = (jax.device_count(), definition.graph, shapes)
    try:
        hash(found)
    except TypeError:  # an attribute without a hash
        return None
    return found


def _program(stage: Stage, definition: Definition, inputs: dict[str, Any], family: Any) -> Program:
    params, stats, objective, optimizer = definition.params, definition.stats, definition.example, stage.optimizer
    state = jax.eval_shape(lambda p, s: begin(definition, optimizer, p, s, p), params, stats)
    # Formulas are of a step that trains what the method itself trains.
    own = dataclasses.replace(optimizer, groups=None)
    as_meant = own.trained(params, objective) == optimizer.trained(params, objective)
    state = stage.mesh.state(state)
    run = {"key": stage.mesh.struct((), jax.random.key(0).dtype), "steps": stage.mesh.struct((), np.int32)}
    return Program(
        name=f"{stage.label}/train",
        fn=train_step(definition, optimizer, accumulate=stage.accumulate, mesh=stage.mesh.devices),
        args=(state, inputs, run),
        examples=stage.batch_size,
        donate=(0,),
        places=(sharding.places(state), stage.mesh.replicated),
        devices=jax.device_count(),
        closed_form=closed_form(definition, inputs) if as_meant else None,
        family=family,
    )


def _without_numbers(described: Any) -> Any:
    """A description in which a learning rate is some rate; 0 stays 0, since code may ask for it."""
    if isinstance(described, dict):
        return {key: _without_numbers(value) for key, value in described.items()}
    if isinstance(described, list):
        return [_without_numbers(value) for value in described]
    return "a number" if isinstance(described, float) and described else described
