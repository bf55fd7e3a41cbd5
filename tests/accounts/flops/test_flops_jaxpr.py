"""Counter B: the jaxpr walk."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl

from spendflops.accounts.flops import UncountedWork, count_jaxpr
from spendflops.accounts.flops.hlo import _pairs
from spendflops.accounts.flops.jaxpr import valid_pairs


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def count(fn, *args):
    return count_jaxpr(jax.make_jaxpr(fn)(*args))


def total(fn, *args):
    return count(fn, *args).total


def brute_force_pairs(inputs, taps, outputs, stride, pad_low, lhs_dilation, rhs_dilation):
    """Every tap of every output, looked up in an input written out with its dilation holes."""
    dilated = {index * lhs_dilation for index in range(inputs)}
    pairs = 0
    for output, tap in itertools.product(range(outputs), range(taps)):
        if output * stride + tap * rhs_dilation - pad_low in dilated:
            pairs += 1
    return pairs


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_t1_matrix_product(dtype):
    cost = count(jnp.matmul, jax.ShapeDtypeStruct((128, 256), dtype), jax.ShapeDtypeStruct((256, 512), dtype))
    assert cost.total == 33554432
    assert cost.dtypes == {jnp.dtype(dtype).name: 33554432}
    assert cost.phases == {"other": 33554432}
    assert cost.counter == "jaxpr/1"


def test_batched_product():
    attention = functools.partial(jnp.einsum, "bnhd,bmhd->bhnm")
    assert total(attention, f32(2, 197, 3, 64), f32(2, 197, 3, 64)) == 29805312


def test_outer_product():
    assert total(lambda a, b: jax.lax.dot_general(a, b, (((), ()), ((), ()))), f32(3), f32(5)) == 2 * 15


def scanned(weights, x):
    return jax.lax.scan(lambda h, w: (h @ w, None), x, weights)[0].sum()


def unrolled(weights, x):
    for w in weights:
        x = x @ w
    return x.sum()


def test_t2_scan():
    weights, x = f32(12, 64, 64), f32(32, 64)
    assert total(scanned, weights, x) == 3145728
    assert total(jax.grad(scanned), weights, x) == 9437184
    # Unrolled, the last product and the first input gradient are dead: 34 products instead of 36.
    assert total(jax.grad(unrolled), [f32(64, 64)] * 12, x) == 8912896


@pytest.mark.parametrize(
    ("lhs", "rhs", "options", "flops"),
    [
        ((2, 224, 224, 3), (16, 16, 3, 192), {"window_strides": (16, 16), "padding": "VALID"}, 115605504),  # T3
        ((1, 32, 32, 256), (3, 3, 256, 256), {"window_strides": (1, 1), "padding": "SAME"}, 1158152192),  # T4
        ((1, 4, 4, 1), (2, 2, 1, 2), {"window_strides": (1, 1), "padding": "SAME"}, 196),  # T5
    ],
)
def test_t3_t4_t5_convolutions(lhs, rhs, options, flops):
    conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)
    assert total(conv, f32(*lhs), f32(*rhs)) == flops


def test_t6_dilated_convolution():
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (4,), [(0, 0)], lhs_dilation=(5,), dimension_numbers=("NWC", "WIO", "NWC")
        )

    assert jax.eval_shape(conv, f32(7, 5, 9), f32(5, 9, 11)).shape == (7, 5, 11)
    assert total(conv, f32(7, 5, 9), f32(5, 9, 11)) == 6930


@pytest.mark.parametrize(("features", "batches"), [(1, 1), (2, 1), (4, 1), (1, 2)])
@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "HWNC")])
def test_convolution_against_brute_force(features, batches, layout):
    """Grouped, strided, padded and dilated on both sides, in three layouts."""
    sizes = {"N": 4, "H": 6, "W": 5, "C": 4}
    kernel = {"H": 3, "W": 2, "I": 4 // features, "O": 8}
    lhs, rhs = f32(*(sizes[d] for d in layout[0])), f32(*(kernel[d] for d in layout[1]))

    def conv(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (2, 1),
            [(1, 2), (-1, 3)],
            lhs_dilation=(1, 3),
            rhs_dilation=(2, 1),
            dimension_numbers=layout,
            feature_group_count=features,
            batch_group_count=batches,
        )

    out = dict(zip(layout[2], jax.eval_shape(conv, lhs, rhs).shape, strict=True))
    pairs = brute_force_pairs(6, 3, out["H"], 2, 1, 1, 2) * brute_force_pairs(5, 2, out["W"], 1, -1, 3, 1)
    # Each output element sees Cin / feature groups channels, and belongs to one batch group.
    assert total(conv, lhs, rhs) == 2 * out["N"] * out["C"] * (4 // features) * pairs


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 9), st.integers(1, 6), st.integers(1, 12), st.integers(1, 6), st.integers(-5, 8), st.integers(1, 6),
    st.integers(1, 4),
)  # fmt: skip
def test_valid_pairs_of_both_counters(inputs, taps, outputs, stride, pad, lhs_dilation, rhs_dilation):
    expected = brute_force_pairs(inputs, taps, outputs, stride, pad, lhs_dilation, rhs_dilation)
    options = {"stride": stride, "pad_low": pad, "lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    assert valid_pairs(inputs, taps, outputs=outputs, **options) == expected
    assert _pairs(inputs, taps, outputs, stride, pad, lhs_dilation, rhs_dilation) == expected


def test_fori_loop():
    x = f32(8, 8)
    assert total(lambda x: jax.lax.fori_loop(0, 12, lambda i, h: h @ h, x), x) == 12 * 1024


@pytest.mark.parametrize("swapped", [False, True])
def test_while_with_constant_bound(swapped):
    def loop(x):
        less = (lambda s: jax.lax.gt(20, s[0])) if swapped else (lambda s: s[0] < 20)
        return jax.lax.while_loop(less, lambda s: (s[0] + 3, s[1] @ s[1]), (2, x))[1]

    assert total(loop, f32(8, 8)) == 6 * 1024  # 2, 5, 8, 11, 14, 17


def test_while_with_carried_bound():
    def loop(x):
        body = lambda s: (s[0] + 1, s[1], s[2] @ s[2])  # noqa: E731
        return jax.lax.while_loop(lambda s: s[0] < s[1], body, (0, 7, x))[2]

    assert total(loop, f32(8, 8)) == 7 * 1024


@pytest.mark.parametrize(
    "loop",
    [
        lambda x, n: jax.lax.fori_loop(0, n, lambda i, h: h @ h, x),  # bound is an argument
        lambda x, n: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 1, s[1] @ s[1]), (n, x)),  # start is
        lambda x, n: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] * 2, s[1] @ s[1]), (1, x)),  # doubles
        lambda x, n: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + n, s[1] @ s[1]), (1, x)),
        lambda x, n: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + -1, s[1] @ s[1]), (1, x)),  # endless
        lambda x, n: jax.lax.while_loop(  # bound moves
            lambda s: s[0] < s[1], lambda s: (s[0] + 1, s[1] - 1, s[2] @ s[2]), (0, 9, x)
        ),
        lambda x, n: jax.lax.while_loop(
            lambda s: (s[0] < 9) & (s[1].sum() > 0), lambda s: (s[0] + 1, s[1] @ s[1]), (0, x)
        ),
        lambda x, n: jax.lax.while_loop(lambda h: (h @ h).sum() < 0, lambda h: h + 1, x),  # work in the condition
    ],
)
def test_unbounded_while_is_an_error(loop):
    with pytest.raises(UncountedWork, match="while loop without a static trip count at the top level"):
        count(loop, f32(8, 8), jax.ShapeDtypeStruct((), jnp.int32))


def test_unbounded_while_without_work_is_free():
    def fn(x):
        return x @ x, jax.lax.while_loop(lambda h: h.sum() < 0, lambda h: h + 1, x)

    assert total(fn, f32(8, 8)) == 1024


def test_cond_costs_its_most_expensive_branch():
    def fn(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x @ x, lambda x: x @ x, x)

    assert total(fn, jax.ShapeDtypeStruct((), bool), f32(8, 8)) == 3 * 1024


def test_dead_products_vanish():
    """At the top level, inside jit, scan, cond and remat, and inside while, whose own rule keeps everything."""
    x = f32(8, 8)
    assert total(lambda x: (x @ x, x)[1], x) == 0
    assert total(lambda x: jax.jit(lambda x: (x @ x, x @ x.T))(x)[1], x) == 1024
    assert total(lambda x: jax.lax.scan(lambda h, _: (h, h @ x), x, None, length=4)[0], x) == 0
    assert total(lambda x: jax.lax.scan(lambda h, _: (h @ h, h @ x), x, None, length=4)[0], x) == 4096
    assert total(lambda x: jax.lax.cond(x.sum() > 0, lambda x: (x @ x, x), lambda x: (x, x), x)[1], x) == 0
    assert total(lambda x: jax.checkpoint(lambda x: (x @ x, x + 1))(x)[1], x) == 0

    def loop(x):
        def body(state):
            i, h = state
            jnp.matmul(h, h)
            return i + 1, h + 1

        return jax.lax.while_loop(lambda s: s[0] < x.sum(), body, (0, x))

    assert total(loop, x) == 0


def test_remat_counts_recomputation():
    w, x = f32(8, 8), f32(8, 8)

    def loss(w, x, block):
        h, _ = jax.lax.scan(lambda h, _: (block(w, h), None), x, None, length=5)
        return h.sum()

    def block(w, h):
        return jnp.tanh(h @ w)

    step = jax.value_and_grad(loss)
    plain = count(functools.partial(step, block=block), w, x)
    remat = count(functools.partial(step, block=jax.checkpoint(block)), w, x)
    assert plain.total == 3 * 5 * 1024
    assert plain.rematted == 0
    assert remat.total == 4 * 5 * 1024
    assert remat.rematted == 5 * 1024


def test_custom_derivatives():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda res, g: (g @ res[1].T, res[0].T @ g))
    x = f32(8, 8)
    assert total(product, x, x) == 1024

    def loss(a, b):
        with jax.named_scope("forward"):
            return product(a, b).sum()

    assert count(jax.value_and_grad(loss, (0, 1)), x, x).phases == {"forward": 1024, "backward": 2048}

    @jax.custom_jvp
    def square(a):
        return a @ a

    square.defjvp(lambda p, t: (p[0] @ p[0], t[0] @ p[0] + p[0] @ t[0]))
    assert total(lambda a: jax.jit(square)(a), x) == 1024


def test_linear_solve_costs_its_solve_only():
    def fn(a, b):
        return jax.lax.custom_linear_solve(
            lambda v: a @ v, b, lambda matvec, b: a @ (a @ b), transpose_solve=lambda vecmat, b: a @ b
        )

    assert total(fn, f32(8, 8), f32(8)) == 2 * 2 * 64


def test_pallas_call_is_multiplied_by_its_grid():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def product(x, y):
        block = pl.BlockSpec((8, 16), lambda i, j: (i, 0))
        return pl.pallas_call(
            kernel,
            grid=(4, 2),
            in_specs=[block, pl.BlockSpec((16, 8), lambda i, j: (0, j))],
            out_specs=pl.BlockSpec((8, 8), lambda i, j: (i, j)),
            out_shape=f32(32, 16),
            interpret=True,
        )(x, y)

    assert total(product, f32(32, 16), f32(16, 16)) == 2 * 32 * 16 * 16


def test_pallas_call_with_a_dynamic_grid_is_an_error():
    def product(n, x):
        def kernel(x, out):
            out[...] = x[...] @ x[...]

        return pl.pallas_call(kernel, grid=(n,), out_shape=f32(8, 8), interpret=True)(x)

    with pytest.raises(UncountedWork, match="dynamic grid"):
        count(product, jax.ShapeDtypeStruct((), jnp.int32), f32(8, 8))


def test_opaque_calls_are_an_error():
    def fn(x):
        with jax.named_scope("forward"):
            return jax.ffi.ffi_call("their_gemm", f32(8, 8))(x) + x @ x

    with pytest.raises(UncountedWork, match="opaque operation ffi_call at forward"):
        count(fn, f32(8, 8))


def test_dead_opaque_calls_are_free():
    def fn(x):
        jax.ffi.ffi_call("their_gemm", f32(8, 8))(x)
        return x @ x

    assert total(fn, f32(8, 8)) == 1024


def test_sparse_products_are_an_error():
    from jax.experimental import sparse

    matrix = sparse.BCOO.fromdense(np.eye(4, dtype=np.float32))
    with pytest.raises(UncountedWork, match="bcoo_dot_general"):
        count(lambda x: matrix @ x, f32(4, 4))


def step_with_phases(params, batch):
    with jax.named_scope("augment"):
        batch = batch @ params["augment"]
    with jax.named_scope("targets"):
        targets = batch @ params["w"] @ params["w"]

    def loss(w):
        with jax.named_scope("forward"):
            # A scope of the model's own that happens to bear the name of a phase.
            with jax.named_scope("predict"):
                h = jax.jit(lambda x: x @ w)(batch)
            h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), h, None, length=3)
            return ((h - targets) ** 2).sum()

    value, grad = jax.value_and_grad(loss)(params["w"])
    with jax.named_scope("update"):
        new = params["w"] - grad @ grad
    return value, new, new @ new


PHASES_OF_STEP = {
    "augment": 1024,
    "targets": 2048,
    "forward": 4 * 1024,
    "backward": 7 * 1024,  # nobody needs the gradient of the batch
    "update": 1024,
    "other": 1024,
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_phases(wrap):
    params = {"augment": f32(8, 8), "w": f32(8, 8)}
    assert count(wrap(step_with_phases), params, f32(8, 8)).phases == PHASES_OF_STEP


def test_phase_of_accumulated_microbatches():
    """The scope stands inside a scan body, whose name stack is relative; and transposition outside of the scan."""

    def loss(w, x):
        with jax.named_scope("forward"):
            return (x @ w).sum()

    def inside(w, xs):
        def body(total, x):
            return total + jax.value_and_grad(loss)(w, x)[1], None

        return jax.lax.scan(body, w, xs)[0]

    def outside(w, xs):
        return jax.value_and_grad(lambda w: jax.lax.map(lambda x: loss(w, x), xs).sum())(w)

    assert count(inside, f32(8, 8), f32(3, 8, 8)).phases == {"backward": 3 * 1024}
    assert count(outside, f32(8, 8), f32(3, 8, 8)).phases == {"forward": 3 * 1024, "backward": 3 * 1024}


def test_outermost_phase_wins():
    def fn(x):
        with jax.named_scope("predict"), jax.named_scope("forward"):
            return x @ x

    assert count(fn, f32(8, 8)).phases == {"predict": 1024}


def test_gradient_inside_a_phase_belongs_to_it():
    def fn(x):
        with jax.named_scope("forward"):
            return jax.grad(lambda x: jnp.sin(x @ x).sum())(x)

    assert count(fn, f32(8, 8)).phases == {"forward": 3 * 1024}


def test_function_names_are_not_phases():
    def forward(x):
        return x @ x

    assert count(jax.jit(forward), f32(8, 8)).phases == {"other": 1024}
