"""The symmetric cross-entropy over all pairs of a batch, with all logits in memory or a few rows of them at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spendflops.contracts.errors import ConfigError


def contrast(
    x: Float[Array, "B E"], y: Float[Array, "B E"], *, groups: Int[Array, " B"] | None = None, chunk: int | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Equation (1) of the method, and the part of the images whose own caption has their largest logit.

    With m captions equal to i's, itself included, the target of i is 1/m for each of them, and the loss the divergence
    from it: log sum_j exp(l_ij) - mean of their l_ij - log m.

    Args:
        x: Of images, times the scale.
        y: Of their captions.
        groups: Captions with the same number are equal; by default none are.
        chunk: Rows of logits held at a time; None for all. Value and gradient are the same.

    Raises:
        ConfigError: A batch that is not whole chunks.
    """
    count = len(x)
    same = jnp.arange(count) if groups is None else groups
    if chunk is None:
        logits = _logits(x, y)
        partition = jnp.mean(jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)) / 2
        best = jnp.argmax(logits, axis=1)
    else:
        if count % chunk:
            raise ConfigError(
                f"a batch of {count} does not divide into chunks of {chunk}",
                fix="choose a chunk that divides the batch size",
            )
        partition, best = _streamed(x, y, chunk)
    accuracy = jnp.mean(same[best] == same)
    if groups is None:
        return partition - jnp.mean(jnp.sum(x * y, axis=1)), accuracy
    sizes, images, captions = (jax.ops.segment_sum(z, groups, count) for z in (jnp.ones(count, x.dtype), x, y))
    sizes = jnp.maximum(sizes, 1)
    positive = jnp.sum(jnp.sum(images * captions, axis=1) / sizes)
    return partition - (positive + jnp.sum(jnp.log(sizes[groups]))) / count, accuracy


def equal_rows(tokens: Int[Array, "B L"]) -> Int[Array, " B"]:
    """A number for each row, the same where rows are equal: sorted column by column, without comparing all pairs."""

    def refine(group: Array, column: Array) -> tuple[Array, None]:
        order = jnp.lexsort((column, group))
        pairs = jnp.stack([group, column])[:, order]
        new = jnp.any(pairs[:, 1:] != pairs[:, :-1], axis=0)
        number = jnp.concatenate([jnp.zeros(1, group.dtype), jnp.cumsum(new).astype(group.dtype)])
        return jnp.zeros_like(group).at[order].set(number), None

    return jax.lax.scan(refine, jnp.zeros(len(tokens), jnp.int32), tokens.T)[0]


def _logits(x: Array, y: Array) -> Array:
    return jnp.einsum("ie,je->ij", x, y, precision="highest")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _streamed(x: Array, y: Array, chunk: int) -> tuple[Array, Array]:
    """(mean of the log-partitions of rows and columns, argmax of each row), at most ``chunk`` rows at a time."""
    return _forward(x, y, chunk)[0]


def _blocks(x: Array, chunk: int) -> Array:
    # Every (B / chunk)-th row: where the batch is split over devices, each of them holds its part of every block.
    return jnp.swapaxes(x.reshape(chunk, -1, *x.shape[1:]), 0, 1)


def _whole(blocks: Array) -> Array:
    return jnp.swapaxes(blocks, 0, 1).reshape(-1, *blocks.shape[2:])


def _forward(x: Array, y: Array, chunk: int):
    def step(columns: Array, block: Array) -> tuple[Array, tuple[Array, Array]]:
        logits = _logits(block, y)
        columns = jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0))
        return columns, (jax.nn.logsumexp(logits, axis=1), jnp.argmax(logits, axis=1))

    start = jnp.full(len(y), -jnp.inf, x.dtype)
    columns, (rows, best) = jax.lax.scan(step, start, _blocks(x, chunk))
    value = jnp.mean(_whole(rows) + columns) / 2
    return (value, _whole(best)), (x, y, rows, columns)


def _backward(chunk: int, saved, cotangents):
    x, y, rows, columns = saved
    weight = cotangents[0] / (2 * len(y))

    def step(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        block, row = inputs
        logits = _logits(block, y)
        slope = weight * (jnp.exp(logits - row[:, None]) + jnp.exp(logits - columns))
        total = total + jnp.einsum("ij,ie->je", slope, block, precision="highest")
        return total, jnp.einsum("ij,je->ie", slope, y, precision="highest")

    by_caption, by_image = jax.lax.scan(step, jnp.zeros_like(y), (_blocks(x, chunk), rows))
    return _whole(by_image), by_caption


_streamed.defvjp(_forward, _backward)
