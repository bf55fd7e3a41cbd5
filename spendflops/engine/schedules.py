"""Schedules: functions of the context, so that one compilation serves every length of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from spendflops.contracts import errors
from spendflops.contracts.types import Context

Schedule = Callable[[Context], Float[Array, ""]]


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
    """

    peak: float
    warmup_steps: int | None = None
    warmup_fraction: float | None = None
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps is None and self.warmup_fraction is None:
            raise errors.ConfigError("schedules.warmup_cosine needs warmup_steps or warmup_fraction")
        if self.warmup_fraction is not None and not 0 <= self.warmup_fraction < 1:
            raise errors.ConfigError(f"warmup_fraction {self.warmup_fraction} is not in [0, 1)")

    def warmup(self, steps: Array | int) -> Array:
        """Steps of warm-up in a stage of ``steps`` steps."""
        lengths = []
        if self.warmup_steps is not None:
            lengths.append(jnp.asarray(self.warmup_steps, jnp.float32))
        if self.warmup_fraction is not None:
            lengths.append(jnp.asarray(self.warmup_fraction * steps, jnp.float32))
        return jnp.min(jnp.stack(lengths))

    def __call__(self, ctx: Context) -> Float[Array, ""]:
        warmup = self.warmup(ctx.steps)
        rising = self.start + (self.peak - self.start) * ctx.step / jnp.maximum(warmup, 1)
        done = jnp.clip((ctx.step - warmup) / jnp.maximum(ctx.steps - warmup, 1), 0, 1)
        falling = self.end + (self.peak - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jnp.where(ctx.step < warmup, rising, falling).astype(jnp.float32)


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
        regular = self.peak * (1 - ctx.step / jnp.maximum(ctx.steps, 1)) ** self.power
        # 1 - (1 - t/w)(1 - ratio), without the cancellation: in float32 that is off by 1 % at the first step.
        warm = self.ratio + (1 - self.ratio) * ctx.step / max(self.warmup_steps, 1)
        return jnp.where(ctx.step < self.warmup_steps, regular * warm, regular).astype(jnp.float32)


def scaled_lr(base: float, *, batch_size: int, per: int = 256) -> float:
    """The linear scaling rule, explicit: ``base * batch_size / per`` (MAE and SimCLR: per 256; SimMIM: per 512)."""
    return base * batch_size / per


def as_schedule(value: float | Schedule) -> Schedule:
    """A number as a constant schedule."""
    return value if callable(value) else Constant(value=float(value))
