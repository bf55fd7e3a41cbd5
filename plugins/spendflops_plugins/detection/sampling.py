"""Boxes to train on: a fixed number, at random, with a quota of positives (Ren et al., arXiv:1506.01497, sec. 3.1.3).

No matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int8, Int32, Key

from spendflops.contracts.errors import ConfigError


class Sampled(NamedTuple):
    """K slots: positives, then negatives, then those that nothing was left for.

    Attributes:
        index: Into the boxes; 0 in a slot that is not valid.
        positive: Whether the box is one.
        valid: Whether there is a box.
    """

    index: Int32[Array, " K"]
    positive: Bool[Array, " K"]
    valid: Bool[Array, " K"]


def sample(label: Int8[Array, " N"], key: Key[Array, ""], *, count: int, positives: int) -> Sampled:
    """Draws ``count`` boxes without replacement.

    At most ``positives`` are positive; negatives fill up what is left. Each set is uniform among all
    of its size. The largest of random float32 numbers are drawn, for which nothing has to be sorted; two numbers that
    are equal, one pair in 2^23, favour the first box.

    Args:
        label: 1 positive, 0 negative; other boxes are never drawn.
        key: Of the draw.
        count: K.
        positives: The most of them, 0 to K.

    Raises:
        ConfigError: More positives than boxes.
    """
    if not 0 <= positives <= count:
        raise ConfigError(f"up to {positives} positive boxes of {count}", fix="give a number from 0 to the other")
    luck = jax.random.uniform(key, label.shape, jnp.float32)
    firsts, found = _largest(luck, label == 1, positives, count)
    negatives, left = _largest(luck, label == 0, count, count)
    slot, taken = jnp.arange(count), found.sum()
    positive = slot < taken
    rest = jnp.maximum(slot - taken, 0)
    valid = positive | left[rest]
    index = jnp.where(positive, firsts, negatives[rest])
    return Sampled(jnp.where(valid, index, 0), positive, valid)


def sample_masks(
    label: Int8[Array, " N"], key: Key[Array, ""], *, count: int, positives: int
) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """The positives and the negatives that :func:`sample` draws, marked among all boxes: for losses over anchors."""
    drawn = sample(label, key, count=count, positives=positives)

    def mark(which: Bool[Array, " K"]) -> Bool[Array, " N"]:
        beyond = jnp.where(which, drawn.index, len(label))
        return jnp.zeros(len(label), bool).at[beyond].set(True, mode="drop")

    return mark(drawn.positive), mark(drawn.valid & ~drawn.positive)


def _largest(
    luck: Float[Array, " N"], among: Bool[Array, " N"], most: int, slots: int
) -> tuple[Int32[Array, " K"], Bool[Array, " K"]]:
    """Places of the at most ``most`` largest, in ``slots`` slots, and which of these are filled."""
    # float32, not integers: XLA's selection is far faster than a sort, and exists for floats alone.
    values, index = jax.lax.top_k(jnp.where(among, luck, -1), min(most, len(luck)))
    room = (0, slots - len(index))
    return jnp.pad(index, room), jnp.pad(values >= 0, room)
