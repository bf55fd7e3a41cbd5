"""Optimisers: directions from optax, and our own groups, clipping and decay around them.

Every parameter belongs to exactly one group (the first that matches); the table is printed when a run starts. A group
has its own optimiser state, which starts when the group does: with one shared state a layer that is released late would
take steps several times too large.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from spendflops.contracts import errors
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Context
from spendflops.engine.layer_decay import Layers
from spendflops.engine.state import flatten, unflatten
from spendflops.parts.schedules import Schedule, as_schedule, length_of

REST = Group(match=".*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Clips gradients to a norm: of all parameters together, or of each tensor (as DINO does)."""

    norm: float
    per: str = "global"

    def __post_init__(self) -> None:
        if self.per not in ("global", "tensor"):
            raise errors.ConfigError(f"optim.clip.per must be 'global' or 'tensor', not {self.per!r}")

    def __call__(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        def shrink(norm: Array) -> Array:
            return jnp.minimum(1.0, self.norm / jnp.maximum(norm, 1e-12))

        if self.per == "tensor":
            return {p: g * shrink(jnp.linalg.norm(g.reshape(-1))) for p, g in gradients.items()}
        factor = shrink(optax.tree.norm(gradients))
        return {p: g * factor for p, g in gradients.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """``p <- p - lr * group.lr * (direction(g) + weight_decay * p)``; decay is decoupled unless ``coupled``.

    Attributes:
        direction: Makes the optax transformation that turns gradients into directions, without a learning rate.
        lr, weight_decay: Numbers or schedules.
        clip: Applied to the gradients of all groups, before anything else.
        groups: None for the method's official groups (``Objective.groups``).
        coupled: Adds ``weight_decay * p`` to the gradient instead (SGD with L2).
        adapt: LARS: scales the gradient of each tensor of groups that decay by ``trust * |p| / |g|``, before momentum.
            None for all others.
        lr_in_momentum: LARS: the learning rate enters inside the momentum buffer, not after it.
        name: For the printed table.
    """

    name: str
    direction: Callable[[], optax.GradientTransformation]
    lr: float | Schedule
    weight_decay: float | Schedule = 0.0
    clip: Clip | None = None
    groups: tuple[Group, ...] | None = None
    coupled: bool = False
    adapt: float | None = None
    lr_in_momentum: bool = True

    def assign(self, params: Mapping[str, Any], objective: Objective) -> list[tuple[Group, list[str]]]:
        """Groups with the paths of their parameters: first match wins, every parameter exactly one.

        Raises:
            errors.ConfigError: A group of the user's that matches nothing; layers of a model of another depth.
        """
        if isinstance(self.groups, Layers):
            self.groups.check(flatten(params))
        groups = (*(objective.groups if self.groups is None else self.groups), REST)
        table: list[tuple[Group, list[str]]] = [(g, []) for g in groups]
        for path in flatten(params):
            next(paths for group, paths in table if re.fullmatch(group.match, path)).append(path)
        unused = [g.match for g, paths in table if not paths and self.groups is not None and g is not REST]
        if unused:
            raise errors.ConfigError(
                f"the optimiser group {unused[0]!r} matches no parameter",
                why=f"paths look like {next(iter(flatten(params)))}",
                fix="a regular expression over whole paths; an earlier group may have taken them all",
            )
        return [(g, paths) for g, paths in table if paths]

    def init(self, params: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
        """``{"count": steps done, "groups": {index: optax state}}``."""
        flat = flatten(params)
        states = {
            str(i): self.direction().init({p: flat[p] for p in paths})
            for i, (group, paths) in enumerate(self.assign(params, objective))
            if group.train
        }
        return {"count": jnp.zeros((), jnp.int32), "groups": states}

    def trained(self, params: Mapping[str, Any], objective: Objective) -> list[str]:
        """Paths of the parameters that are differentiated."""
        return [p for group, paths in self.assign(params, objective) if group.train for p in paths]

    def update(
        self, gradients: Mapping[str, Array], state: Mapping[str, Any], params: Mapping[str, Any], *,
        objective: Objective, ctx: Context,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Array]]:  # fmt: skip
        """One step.

        Args:
            gradients: By path, of the trained parameters.
            state: Of this optimiser.
            params: Nested.

        Returns:
            New params (nested), new state, metrics (learning rate, gradient norm).
        """
        flat = flatten(params)
        lr, decay = as_schedule(self.lr)(ctx), as_schedule(self.weight_decay)(ctx)
        norm = optax.tree.norm(gradients)
        gradients = self.clip(gradients) if self.clip else gradients
        new_states = {}
        for i, (group, paths) in enumerate(self.assign(params, objective)):
            if not group.train:
                continue
            old = state["groups"][str(i)]
            mine = {p: flat[p] for p in paths}
            new, moments = self._group({p: gradients[p] for p in paths}, old, mine, group, lr, decay)
            if (group.start, group.start_fraction) != (None, None):
                # Before its start a group keeps its parameters and its untouched state.
                active = ctx.step >= length_of(group.start, group.start_fraction, ctx.steps)
                new = {p: jnp.where(active, new[p], mine[p]) for p in paths}
                moments = jax.tree.map(lambda a, b, on=active: jnp.where(on, a, b), moments, old)
            flat |= new
            new_states[str(i)] = moments
        metrics = {"lr": lr, "grad_norm": norm}
        return unflatten(flat), {"count": state["count"] + 1, "groups": new_states}, metrics

    def _group(
        self, grads: dict[str, Array], moments: Any, params: dict[str, Array], group: Group, lr: Array, decay: Array
    ) -> tuple[dict[str, Array], Any]:
        wd = decay if group.decay else 0.0
        rate = lr * group.lr
        if self.adapt is not None:
            inside, outside = (rate, 1.0) if self.lr_in_momentum else (1.0, rate)
            steps = {p: inside * _trust(grads[p] + wd * params[p], params[p], self.adapt, group.decay) for p in grads}
            steps, moments = self.direction().update(steps, moments, params)
            return {p: params[p] - outside * steps[p] for p in params}, moments
        if self.coupled:
            grads = {p: grads[p] + wd * params[p] for p in grads}
        directions, moments = self.direction().update(grads, moments, params)
        outer = 0.0 if self.coupled else wd
        return {p: params[p] - rate * (directions[p] + outer * params[p]) for p in params}, moments

    def table(self, params: Mapping[str, Any], objective: Objective) -> list[tuple[str, int, int, str]]:
        """Rows (match, tensors, parameters, how they are treated) to print."""
        flat = flatten(params)
        return [
            (
                g.match,
                len(paths),
                sum(int(flat[p].size) for p in paths),
                f"lr x{g.lr:g}, {'decay' if g.decay else 'no decay'}" + _from(g)
                if g.train
                else "frozen: closed over, no backward work",
            )
            for g, paths in self.assign(params, objective)
        ]


def _from(group: Group) -> str:
    starts = [] if group.start is None else [f"step {group.start}"]
    starts += [] if group.start_fraction is None else [f"{group.start_fraction:.2%} of the stage"]
    return f", from {' or '.join(starts)}" if starts else ""


def _trust(gradient: Array, param: Array, coefficient: float, adapted: bool) -> Array:
    if not adapted:
        return gradient
    p, g = jnp.linalg.norm(param.reshape(-1)), jnp.linalg.norm(gradient.reshape(-1))
    return gradient * jnp.where((p > 0) & (g > 0), coefficient * p / jnp.maximum(g, 1e-30), 1.0)


@dataclasses.dataclass(frozen=True)
class _Adam:
    b1: float
    b2: float
    eps: float

    def __call__(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class _Momentum:
    momentum: float
    nesterov: bool

    def __call__(self) -> optax.GradientTransformation:
        return optax.trace(decay=self.momentum, nesterov=self.nesterov) if self.momentum else optax.identity()


def adamw(
    *, lr: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    weight_decay: float | Schedule = 0.0, clip: Clip | None = None, groups: tuple[Group, ...] | None = None,
) -> Optimizer:  # fmt: skip
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    direction = _Adam(b1, b2, eps)
    return Optimizer(name="adamw", direction=direction, lr=lr, weight_decay=weight_decay, clip=clip, groups=groups)


def sgd(
    *, lr: float | Schedule, momentum: float = 0.9, nesterov: bool = False, weight_decay: float | Schedule = 0.0,
    clip: Clip | None = None, groups: tuple[Group, ...] | None = None,
) -> Optimizer:  # fmt: skip
    """SGD with momentum; the decay is L2 in the gradient."""
    return Optimizer(
        name="sgd", direction=_Momentum(momentum, nesterov), lr=lr, weight_decay=weight_decay, clip=clip, groups=groups,
        coupled=True,
    )  # fmt: skip


def lars(
    *, lr: float | Schedule, momentum: float = 0.9, trust: float = 0.001, weight_decay: float | Schedule = 0.0,
    lr_in_momentum: bool = True, clip: Clip | None = None, groups: tuple[Group, ...] | None = None,
) -> Optimizer:  # fmt: skip
    """LARS (You et al. 2017, arXiv 1708.03888). Groups without decay are without adaptation, too.

    In SimCLR's form the learning rate enters inside the momentum buffer, in BYOL's (``lr_in_momentum=False``) after it.
    """
    return Optimizer(
        name="lars", direction=_Momentum(momentum, False), lr=lr, weight_decay=weight_decay, clip=clip, groups=groups,
        adapt=trust, lr_in_momentum=lr_in_momentum,
    )  # fmt: skip
