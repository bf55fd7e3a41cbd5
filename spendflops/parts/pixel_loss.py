"""Cross-entropy over the pixels of label maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def pixel_cross_entropy(
    logits: Float[Array, "B H W K"], labels: Int[Array, "B H W"], valid: Bool[Array, "B H W"], *, normalise_by: str
) -> Float[Array, ""]:
    """Softmax cross-entropy summed over valid pixels, divided by their number ("valid") or by that of all ("all")."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    losses = -jnp.take_along_axis(log_p, jnp.where(valid, labels, 0)[..., None], axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(valid), 1) if normalise_by == "valid" else valid.size
    return jnp.sum(jnp.where(valid, losses, 0)) / count


def pixel_accuracy(
    logits: Float[Array, "B H W K"], labels: Int[Array, "B H W"], valid: Bool[Array, "B H W"]
) -> Float[Array, ""]:
    """The part of the valid pixels whose largest logit is their label's; 0 without any."""
    hits = jnp.sum((jnp.argmax(logits, axis=-1) == labels) & valid)
    return hits / jnp.maximum(jnp.sum(valid), 1)
