"""DINO.

Caron et al. 2021, "Emerging properties in self-supervised vision transformers" (arXiv 2104.14294), and the official
code. A student and its moving average, the teacher, end in K logits s and t. The teacher sees two global views of an
image, the student these and any number of small local views:

    P_t = softmax((t - c) / tau_t)      P_s = softmax(s / tau_s)                                                    (1)
    loss = mean over pairs (teacher view i, student view v != i) of -sum_k P_t[i, k] log P_s[v, k]                  (3)
    c <- m c + (1 - m) mean(t)          over both views of the global batch, after the loss                         (4)

With Q the sum of the two P_t, (3) is [sum_v n_v LSE(s_v / tau_s) - sum_v (Q - P_t[v]) . s_v / tau_s] / pairs, where v
is compared with n_v teacher views: 1 for a global view, whose own P_t is left out, 2 for a local one.

Deviation: schedules that the official code gives in epochs are in steps or parts of the run, so that runs shorter than
an epoch have them; the teacher's temperature rises at every step.
Deviation: batch norm, where there is any, has one set of running statistics, the student's. Both networks use those of
the batch in training, as officially.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Loss, Stat
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.schedules import Cosine, length_of
from spendflops_plugins.dino.head import Head
from spendflops_plugins.dino.views import DINOViews

__all__ = ["DINO", "DINOViews", "Head", "cross_entropy"]

DECAY_MASKS = {
    "official": r".*/(.*bias|scale|gamma_[12])",
    "no_pos_cls": r".*/(.*bias|scale|gamma_[12]|cls_token|pos_embed)",
}
"""What is not decayed. Official: biases and one-dimensional tensors, so that class token and positions are decayed."""


class DINO(Objective):
    """Self-distillation without labels.

    Args:
        backbone: Any; its summary vector goes through the head.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        out_dim: K, the number of logits.
        hidden: Width of the head's hidden layers.
        bottleneck: Width of the unit vectors in front of the last layer.
        norm_last_layer: Whether the last layer's weights are unit vectors; else their lengths are learned.
        use_bn_in_head: Whether batch norm follows the head's hidden layers, over all views together.
        student_temp: tau_s.
        teacher_temp_start, teacher_temp: tau_t at first, and at the end of its warm-up.
        teacher_temp_warmup_steps, teacher_temp_warmup_fraction: Length of the warm-up, linear and with both ends, in
            steps or as a part of the stage; with both, the shorter one counts.
        max_teacher_temp: Above it the authors found training unstable; raise it to try.
        center_momentum: m of equation (4).
        teacher_decay_start, teacher_decay_end: Of the teacher's moving average, with half a cosine between them.
        freeze_last_layer_steps, freeze_last_layer_fraction: How long the last layer keeps its initial values, in
            steps or as a part of the stage; with both, the shorter one counts. Its optimiser state begins afterwards.
        decay_mask: A name in :data:`DECAY_MASKS`.
        compute_dtype: Of the head's products, see the backbone's. Logits and softmaxes are always float32.

    Raises:
        ConfigError: A temperature out of range, one that changes without a warm-up, an unknown mask.
    """

    inputs: ClassVar = {"global_view": "uint8 B G=2 H W C", "local_view": "uint8 B V h w C"}
    teacher = ("backbone", "head")
    transfer = "teacher"
    views = DINOViews
    kit_options: ClassVar = {"out_dim": 64, "hidden": 32, "bottleneck": 16}

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        out_dim: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        norm_last_layer: bool = True,
        use_bn_in_head: bool = False,
        student_temp: float = 0.1,
        teacher_temp_start: float = 0.04,
        teacher_temp: float = 0.04,
        teacher_temp_warmup_steps: int | None = None,
        teacher_temp_warmup_fraction: float | None = None,
        max_teacher_temp: float = 0.07,
        center_momentum: float = 0.9,
        teacher_decay_start: float = 0.996,
        teacher_decay_end: float = 1.0,
        freeze_last_layer_steps: int | None = None,
        freeze_last_layer_fraction: float | None = None,
        decay_mask: str = "official",
        compute_dtype: str = "float32",
    ):
        for name, value in (("teacher_temp_start", teacher_temp_start), ("teacher_temp", teacher_temp)):
            if not 0 < value <= max_teacher_temp:
                raise ConfigError(
                    f"{name} {value} is not in (0, {max_teacher_temp}]",
                    why="a teacher that is not sharp enough gives every image the same, uniform targets",
                    fix="0.04 to 0.07; max_teacher_temp allows more",
                )
        self.warmup = (teacher_temp_warmup_steps, teacher_temp_warmup_fraction)
        if teacher_temp_start != teacher_temp and self.warmup == (None, None):
            raise ConfigError(
                f"teacher_temp goes from {teacher_temp_start} to {teacher_temp}, but how fast is not said",
                fix="set teacher_temp_warmup_steps or teacher_temp_warmup_fraction",
            )
        if student_temp <= 0:
            raise ConfigError(f"student_temp {student_temp} must be positive")
        if decay_mask not in DECAY_MASKS:
            known = list(DECAY_MASKS)
            raise ConfigError(f"unknown decay_mask {decay_mask!r}{suggest(decay_mask, known)}", why=f"known: {known}")
        self.backbone = backbone
        self.head = Head(
            backbone.dim,
            out_dim,
            hidden=hidden,
            bottleneck=bottleneck,
            free_lengths=not norm_last_layer,
            batch_norm=use_bn_in_head,
            rngs=rngs,
            dtype_name=compute_dtype,
        )
        self.center = Stat(jnp.zeros((out_dim,), jnp.float32))
        self.student_temp, self.teacher_temps = student_temp, (teacher_temp_start, teacher_temp)
        self.center_momentum, self.average = center_momentum, Cosine(start=teacher_decay_start, end=teacher_decay_end)
        self.couples_batch = use_bn_in_head or backbone.couples_batch
        start = {"start": freeze_last_layer_steps, "start_fraction": freeze_last_layer_fraction}
        self.groups = (
            Group(match="head/last_layer/.*", **start),
            Group(match=DECAY_MASKS[decay_mask], decay=False),
        )

    def targets(self, batch: Batch, ctx: Context) -> Float[Array, "B 2 K"]:
        """The teacher's logits of the global views."""
        # Stochastic depth is for the student alone. Where images of a batch are normalised together, training mode is
        # more than that: there the teacher has it, too.
        trunk = ctx.scoped("teacher") if self.backbone.couples_batch else dataclasses.replace(ctx, train=False)
        return self.head(self._summaries(batch["global_view"], trunk), ctx)

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        large = self._summaries(batch["global_view"], ctx.scoped("global"))
        summaries = large
        if batch["local_view"].shape[1]:
            small = self._summaries(batch["local_view"], ctx.scoped("local"))
            summaries = jnp.concatenate([large, small], axis=1)
        student = self.head(summaries, ctx)
        temperature = self.teacher_temperature(ctx)
        log_p = jax.nn.log_softmax((targets - self.center[...]) / temperature)
        p = jnp.exp(log_p)
        value = cross_entropy(student / self.student_temp, p)
        center = self.center[...]
        new = self.center_momentum * center + (1 - self.center_momentum) * jnp.mean(targets, axis=(0, 1))
        self.center.set_value(new.astype(center.dtype))
        entropy, usage = -jnp.mean(jnp.sum(p * log_p, axis=-1)), jnp.mean(p, axis=(0, 1))
        metrics = {
            "teacher_entropy": entropy,
            "kl": value - entropy,  # CE = H + KL, and every teacher view is in equally many pairs
            "marginal_entropy": -jnp.sum(usage * jnp.log(jnp.maximum(usage, 1e-30))),
            "center_norm": jnp.linalg.norm(new),
            "teacher_temp": temperature,
            "monitor": feature_std(large[:, 0]),
        }
        return Loss(value=value, metrics=metrics)

    def _summaries(self, views: Array, ctx: Context) -> Float[Array, "B V D"]:
        """All views of one resolution in one call. Views of an image stay neighbours: see SimCLR."""
        merged = self.backbone(views.reshape(-1, *views.shape[2:]), ctx).summary
        return merged.reshape(*views.shape[:2], -1)

    def teacher_temperature(self, ctx: Context) -> Float[Array, ""]:
        """tau_t at this step."""
        first, last = self.teacher_temps
        if first == last:
            return jnp.asarray(last, jnp.float32)
        length = length_of(*self.warmup, ctx.steps)
        return first + (last - first) * jnp.minimum(ctx.step / jnp.maximum(length - 1, 1), 1)

    def teacher_decay(self, ctx: Context) -> Float[Array, ""]:
        return self.average(ctx)

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """The teacher forward on the global views, the student forward and backward on all."""
        (count, two, *large), (_, many, *small) = (batch[name].shape[:4] for name in self.inputs)
        flops = self.backbone.flops
        trunks = flops(tuple(large), images=count * two) + flops(tuple(large), train=True, images=count * two)
        trunks += flops(tuple(small), train=True, images=count * many) if many else 0
        return trunks + count * (two + 3 * (two + many)) * self.head.flops()


def cross_entropy(student: Float[Array, "B V K"], p: Float[Array, "B 2 K"]) -> Float[Array, ""]:
    """Equation (3) of logits over tau_s, factorised: one log-sum-exp a student view, not one a pair."""
    views = student.shape[1]
    compared = jnp.where(jnp.arange(views) < 2, 1, 2)
    total = jnp.sum(compared * jax.nn.logsumexp(student, axis=-1), axis=-1)
    # Sums, no products of matrices: XLA fuses them with the softmax, and K is where the memory goes.
    agreement = jnp.sum(p[:, ::-1] * student[:, :2], axis=(1, 2))
    agreement += jnp.sum(jnp.sum(p, axis=1, keepdims=True) * student[:, 2:], axis=(1, 2))
    return jnp.mean(total - agreement) / (2 * views - 2)
