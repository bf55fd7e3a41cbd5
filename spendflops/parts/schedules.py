"""Schedules: functions of the context, so that one compilation serves every length of training."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from spendflops.contracts import errors
from spendflops.contracts.types import Context

Schedule = Callable[[Context], Float[Array, ""]]
Steps = TypeVar("Steps", int, Array)
SHAPES = ("1-sqrt", "linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        return jnp.asarray(self.value, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up from ``start``, then half a cosine to ``end`` at the last step of the stage.

    Attributes:
        peak: Value at the end of the warm-up.
        warmup_steps: Length of the warm-up in steps; or
        warmup_fraction: as a fraction of the stage. Exactly one of the two; with both, the shorter one counts.
        start, end: First and last value.
        inclusive: The warm-up's last step is at the peak, from which the cosine then starts: two steps in a row at the
            peak, as in DINO's code. Else the cosine's first step is the only one.
    """

    peak: float
    warmup_steps: int | None = None
    warmup_fraction: float | None = None
    start: float = 0.0
    end: float = 0.0
    inclusive: bool = False

    def __post_init__(self) -> None:
        _check_length("schedules.warmup_cosine", "warmup", self.warmup_steps, self.warmup_fraction)

    def warmup(self, steps: Array | int) -> Array:
        """Steps of warm-up in a stage of ``steps`` steps."""
        return length_of(self.warmup_steps, self.warmup_fraction, steps)

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        warmup = self.warmup(ctx.steps)
        rising = self.start + (self.peak - self.start) * ctx.step / jnp.maximum(warmup - self.inclusive, 1)
        done = jnp.clip((ctx.step - warmup) / jnp.maximum(ctx.steps - warmup, 1), 0, 1)
        falling = self.end + (self.peak - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jnp.where(ctx.step < warmup, rising, falling).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from ``start`` to ``end`` over the whole stage: DINO's weight decay rises from 0.04 to 0.4."""

    start: float
    end: float

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        half = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(ctx.progress, 0, 1)))
        return (self.end + (self.start - self.end) * half).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiStep:
    """Linear warm-up from ``start``, then ``peak``, times ``factor`` from each milestone on (SimMIM's ViT, ViNy).

    Attributes:
        peak: Value at the end of the warm-up.
        milestones: Parts of the stage, between 0 and 1.
        factor: At each milestone.
        warmup_steps, warmup_fraction: As in :class:`WarmupCosine`; none is no warm-up.
        start: First value of the warm-up.
    """

    peak: float
    milestones: tuple[float, ...]
    factor: float
    warmup_steps: int | None = None
    warmup_fraction: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 < m < 1 for m in self.milestones):
            raise errors.ConfigError(
                f"schedules.multistep.milestones are {self.milestones}", why="they are parts of the stage, in (0, 1)"
            )
        if (self.warmup_steps, self.warmup_fraction) != (None, None):
            _check_length("schedules.multistep", "warmup", self.warmup_steps, self.warmup_fraction)

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        # Milestones are whole steps: in float32 a product such as 0.875 * steps may miss its step.
        passed = sum((ctx.step >= jnp.round(m * ctx.steps)).astype(jnp.float32) for m in self.milestones)
        value = self.peak * jnp.asarray(self.factor, jnp.float32) ** passed
        if (self.warmup_steps, self.warmup_fraction) != (None, None):
            warmup = length_of(self.warmup_steps, self.warmup_fraction, ctx.steps)
            rising = self.start + (self.peak - self.start) * ctx.step / jnp.maximum(warmup, 1)
            value = jnp.where(ctx.step < warmup, rising, value)
        return jnp.asarray(value, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupPoly:
    """Linear warm-up times polynomial decay, as mmcv multiplies them: the warm-up scales a value already falling.

    ``lr(t) = peak (1 - t/T)^power`` and, for ``t < warmup_steps``, that times ``1 - (1 - t/warmup_steps)(1 - ratio)``.
    """

    peak: float
    power: float = 1.0
    warmup_steps: int = 1500
    ratio: float = 1e-6

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        # Not 1 - step / steps, which in float32 has lost half of its digits at the end.
        steps = jnp.maximum(ctx.steps, 1)
        regular = self.peak * ((steps - ctx.step) / steps) ** self.power
        # 1 - (1 - t/w)(1 - ratio), without the cancellation: in float32 that is off by 1 % at the first step.
        warm = self.ratio + (1 - self.ratio) * ctx.step / max(self.warmup_steps, 1)
        return jnp.where(ctx.step < self.warmup_steps, regular * warm, regular).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Linear warm-up, a constant ``peak``, and a cooldown to ``end`` over the last part of the stage.

    Until its cooldown a run does not know how long it will be: a longer one goes on from there, as from a trunk (Hägele
    et al. 2024, arXiv 2405.18392, whose shape is 1-sqrt: ``end + (peak - end) (1 - sqrt(done))``). The cooldown's first
    step is still at the peak, as the first step of a half cosine is.

    Attributes:
        peak: The constant value.
        warmup_steps: Length of the warm-up in steps. There is no fraction: it would be another trunk for every length.
        cooldown_fraction: Part of the stage, in (0, 1), to a thousandth; as whole steps it is rounded down.
        shape: Of the cooldown: ``"1-sqrt"`` or ``"linear"``.
        start, end: First and last value.
    """

    peak: float
    warmup_steps: int
    cooldown_fraction: float = 0.2
    shape: str = SHAPES[0]
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self._part < 1 or self.warmup_steps < 0:
            raise errors.ConfigError(
                f"schedules.wsd: cooldown_fraction {self.cooldown_fraction:g}, warmup_steps {self.warmup_steps}",
                why="the cooldown is a part of the stage, in (0, 1), the warm-up a number of steps",
            )
        if self.shape not in SHAPES:
            raise errors.ConfigError(f"schedules.wsd.shape is {self.shape!r}", fix=f"one of {', '.join(SHAPES)}")

    @property
    def _part(self) -> fractions.Fraction:
        return fractions.Fraction(self.cooldown_fraction).limit_denominator(1000)

    def trunk(self, steps: Steps) -> Steps:
        """Steps before the cooldown of a stage of ``steps`` steps, the same for numbers and inside a program."""
        # Whole numbers: in float32 0.2 * steps may miss a step, and with it the place where a longer run leaves.
        over, under = self._part.numerator, self._part.denominator
        return steps - (steps // under * over + steps % under * over // under)

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        leaves = self.trunk(ctx.steps)
        warm = jnp.minimum(ctx.step / max(self.warmup_steps, 1), 1) if self.warmup_steps else 1.0
        stable = self.start + (self.peak - self.start) * warm
        done = jnp.clip((ctx.step - leaves) / jnp.maximum(ctx.steps - leaves, 1), 0, 1)
        left = 1 - (jnp.sqrt(done) if self.shape == "1-sqrt" else done)
        return jnp.where(ctx.step < leaves, stable, self.end + (stable - self.end) * left).astype(jnp.float32)


def length_of(count: int | None, fraction: float | None, steps: Array | int) -> Array:
    """``count`` steps or ``fraction`` of ``steps``; with both, the shorter one: a recipe for long and short runs."""
    lengths = []
    if count is not None:
        lengths.append(jnp.asarray(count, jnp.float32))
    if fraction is not None:
        lengths.append(jnp.asarray(fraction * steps, jnp.float32))
    return jnp.min(jnp.stack(lengths))


def _check_length(owner: str, name: str, count: int | None, fraction: float | None) -> None:
    if count is None and fraction is None:
        raise errors.ConfigError(f"{owner} needs {name}_steps or {name}_fraction")
    if fraction is not None and not 0 <= fraction < 1:
        raise errors.ConfigError(f"{owner}: {name}_fraction {fraction} is not in [0, 1)")


def scaled_lr(base: float, *, batch_size: int, per: int = 256) -> float:
    """The linear scaling rule, explicit: ``base * batch_size / per`` (MAE and SimCLR: per 256; SimMIM: per 512)."""
    return base * batch_size / per


def as_schedule(value: float | Schedule) -> Schedule:
    """A number as a constant schedule."""
    return value if callable(value) else Constant(value=float(value))
