"""What a traced program holds at once, beside figures that are worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from spendflops.engine.liveness import peak_bytes

N = 1000
X = jax.ShapeDtypeStruct((N,), jnp.float32)


def peak(fn, *args, **options):
    return peak_bytes(jax.make_jaxpr(fn)(*args), **options)


def chain(x):
    return jnp.sum(jnp.tanh(x) * 2.0)


@pytest.mark.parametrize("reusable, expected", [((), 12 * N), ((0,), 8 * N)])
def test_a_chain_holds_two_arrays_at_once_and_its_argument(reusable, expected):
    # x stays, tanh(x) and its double are there together; where x may be given away, its memory serves the double.
    assert peak(chain, X, reusable=reusable) == expected


def test_what_is_needed_later_is_held_until_then():
    def later(x):
        kept = jnp.tanh(x)
        other = jnp.sin(jnp.cos(x))
        return kept + other

    # x, kept, cos and sin; then x, kept, sin and the sum.
    assert peak(later, X) == 4 * 4 * N


def test_what_nobody_reads_is_not_computed():
    def idle(x):
        jnp.tanh(x)
        return x

    assert peak(idle, X) == 4 * N


def test_a_loop_holds_its_inside_once():
    def looped(x):
        return jax.lax.fori_loop(0, 100, lambda _, y: jnp.tanh(y) * 2.0, x)

    once = peak(lambda x: jnp.tanh(x) * 2.0, X)
    assert once <= peak(looped, X) <= 2 * once


def test_literals_take_nothing():
    assert peak(lambda x: x + 1.0, X) == 8 * N
