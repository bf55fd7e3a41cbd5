"""Counters B and C on the same programs: a traced step and what the compiler made of it."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from spendflops.accounts.flops import count_hlo, count_jaxpr, hlo_text
from spendflops.parts.closed_form import vit_forward, vit_train


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def model_flops(fn, *args):
    return count_jaxpr(jax.make_jaxpr(fn)(*args))


def hardware_flops(fn, *args):
    compiled = jax.jit(fn).lower(*args).compile()
    cost = count_hlo(hlo_text(compiled))
    assert cost == count_hlo(compiled.as_text())  # both prints say the same
    return cost


def mlp(weights, x, *, scan, remat=False):
    def layer(h, w):
        return jnp.tanh(h @ w), None

    layer = jax.checkpoint(layer) if remat else layer
    with jax.named_scope("forward"):
        if scan:
            x, _ = jax.lax.scan(layer, x, weights)
        else:
            for index in range(weights.shape[0]):
                x, _ = layer(x, weights[index])
        return (x**2).sum()


def convolutions(params, x, *, groups=1):
    with jax.named_scope("forward"):
        conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(conv(x, params[0], (2, 2), "SAME"))
        x = jax.nn.relu(conv(x, params[1], (1, 1), [(1, 2), (0, 1)], rhs_dilation=(1, 2), feature_group_count=groups))
        return (x**2).sum()


def attention(w, x):
    with jax.named_scope("forward"):
        q, k, v = jnp.split((x @ w).reshape(2, 7, 3, 24), 3, axis=-1)
        logits = jnp.einsum("bnhd,bmhd->bhnm", q, k)
        return (jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), v) ** 2).sum()


def nested_loops(x):
    def body(h, _):
        return jax.lax.fori_loop(0, 3, lambda i, h: h @ h, h), None

    return jax.lax.scan(body, x, length=4)[0]


MLP = (f32(5, 16, 16), f32(4, 16))
PROGRAMS = {
    "product": (jnp.matmul, f32(128, 256), f32(256, 512)),
    "bfloat16": (jnp.matmul, jax.ShapeDtypeStruct((16, 24), jnp.bfloat16), jax.ShapeDtypeStruct((24, 8), jnp.bfloat16)),
    "batched": (functools.partial(jnp.einsum, "bij,bjk->bik"), f32(3, 4, 5), f32(3, 5, 6)),
    "fori": (lambda x: jax.lax.fori_loop(0, 12, lambda i, h: jnp.tanh(h @ h), x), f32(8, 8)),
    "while": (lambda x: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 2, s[1] @ s[1]), (1, x)), f32(8, 8)),
    "cond": (lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x + 1, x), f32(8, 8)),
    "nested": (nested_loops, f32(8, 8)),
    "scanned": (jax.value_and_grad(functools.partial(mlp, scan=True)), *MLP),
    "unrolled": (jax.value_and_grad(functools.partial(mlp, scan=False)), *MLP),
    "remat": (jax.value_and_grad(functools.partial(mlp, scan=True, remat=True)), *MLP),
    "convolutions": (
        jax.value_and_grad(convolutions, (0, 1)), [f32(3, 3, 3, 8), f32(2, 3, 8, 4)], f32(2, 9, 10, 3)
    ),
    "grouped": (
        jax.value_and_grad(functools.partial(convolutions, groups=2)),
        [f32(3, 3, 3, 8), f32(2, 3, 4, 6)],
        f32(2, 9, 10, 3),
    ),
    "attention": (jax.value_and_grad(attention), f32(10, 72), f32(2, 7, 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_counters_agree(name):
    fn, *args = PROGRAMS[name]
    model, hardware = model_flops(fn, *args), hardware_flops(fn, *args)
    assert model.total > 0
    assert model.total == hardware.total
    assert model.phases == hardware.phases
    assert model.rematted == hardware.rematted


def test_remat_shows_in_both_counters():
    fn, *args = PROGRAMS["remat"]
    product = 2 * 4 * 16 * 16
    for cost in (model_flops(fn, *args), hardware_flops(fn, *args)):
        assert cost.rematted == 5 * product
        assert cost.total - cost.rematted == model_flops(*PROGRAMS["scanned"]).total


def test_removed_remat_is_not_hardware_work():
    """Outside of loops jaxlib 0.10 merges recomputed products with the first ones, 0.12 keeps and counts them."""
    fn = jax.value_and_grad(functools.partial(mlp, scan=False, remat=True))
    model, hardware = model_flops(fn, *MLP), hardware_flops(fn, *MLP)
    assert model.rematted == 5 * 2 * 4 * 16 * 16
    assert hardware.rematted == (0 if jax.__version_info__ < (0, 11) else model.rematted)
    assert hardware.total == model.total - model.rematted + hardware.rematted


def test_t2_compiled():
    def scanned(weights, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, weights)[0].sum()

    weights, x = f32(12, 64, 64), f32(32, 64)
    assert hardware_flops(scanned, weights, x).total == 3145728
    assert hardware_flops(jax.grad(scanned), weights, x).total == 9437184


def test_whole_step_phases_agree():
    def step(w, x):
        with jax.named_scope("augment"):
            x = jnp.tanh(x @ x)
        with jax.named_scope("targets"):
            targets = jnp.tanh(x @ w.T) @ w

        def loss(w):
            with jax.named_scope("forward"):
                return ((jax.jit(lambda h: jnp.sin(h @ w))(x) - targets) ** 2).sum()

        value, grad = jax.value_and_grad(loss)(w)
        with jax.named_scope("update"):
            w = w - jnp.tanh(grad @ grad)
        with jax.named_scope("predict"):
            return value, w, w @ x

    cost = model_flops(step, f32(8, 8), f32(8, 8))
    assert set(cost.phases) == {"augment", "targets", "forward", "backward", "update", "predict"}
    assert cost.phases == hardware_flops(step, f32(8, 8), f32(8, 8)).phases


def test_hlo_text_falls_back_to_the_public_print():
    class Compiled:
        def runtime_executable(self):
            raise NotImplementedError

        def as_text(self):
            return "HloModule m"

    assert hlo_text(Compiled()) == "HloModule m"


# A plain ViT in functional form: patches as a convolution, blocks under scan, class token, linear head.
def vit_shapes(width, layers):
    return {
        "embed": f32(16, 16, 3, width),
        "head": f32(width, 1000),
        "blocks": {
            "qkv": f32(layers, width, 3 * width),
            "out": f32(layers, width, width),
            "up": f32(layers, width, 4 * width),
            "down": f32(layers, 4 * width, width),
        },
    }


def vit_logits(params, images, *, remat=False):
    tokens = jax.lax.conv_general_dilated(
        images, params["embed"], (16, 16), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batch, _, _, width = tokens.shape
    tokens = jnp.pad(tokens.reshape(batch, -1, width), ((0, 0), (1, 0), (0, 0)))

    def block(x, p):
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(*x.shape[:2], 3, -1, 64), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k))
        x = x + jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape) @ p["out"]
        return x + jax.nn.gelu(x @ p["up"]) @ p["down"], None

    tokens, _ = jax.lax.scan(jax.checkpoint(block) if remat else block, tokens, params["blocks"])
    return tokens[:, 0] @ params["head"]


def vit_step(params, images, *, remat=False):
    def loss(params):
        with jax.named_scope("forward"):
            return (vit_logits(params, images, remat=remat) ** 2).mean()

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    ("width", "forward", "step"), [(192, 2507366400, 7464296448), (768, 35127656448, 105151758336)]
)
def test_t7_vit(width, forward, step):
    params, images = vit_shapes(width, 12), f32(2, 224, 224, 3)
    options = {"image": 224, "patch": 16, "width": width, "layers": 12, "classes": 1000}
    assert model_flops(vit_logits, params, images).total == 2 * forward == 2 * vit_forward(**options)
    cost = model_flops(vit_step, params, images)
    assert cost.total == 2 * step == 2 * vit_train(**options)
    assert cost.phases == {"forward": 2 * forward, "backward": 2 * (step - forward)}


def test_t9_vit_with_remat():
    args = vit_shapes(192, 12), f32(2, 224, 224, 3)
    step = functools.partial(vit_step, remat=True)
    model, hardware = model_flops(step, *args), hardware_flops(step, *args)
    assert model.total == hardware.total == 18432608256
    assert model.rematted == hardware.rematted == 18432608256 - 2 * 7464296448
    assert model.phases == hardware.phases


SHARDED = """
import json, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from spendflops.accounts.flops import count_hlo, count_jaxpr, hlo_text

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh, P("data")))
w = jax.ShapeDtypeStruct((128, 256), jnp.float32, sharding=NamedSharding(mesh, P()))
manual = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
replicated = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)

result = {}
for name, fn in {"auto": jnp.matmul, "manual": manual, "replicated": replicated}.items():
    text = hlo_text(jax.jit(fn).lower(x, w).compile())
    result[name] = [count_jaxpr(jax.make_jaxpr(fn)(x, w)).total, count_hlo(text, devices=2).total]
    try:
        count_hlo(text)
    except ValueError as error:
        result[name].append(str(error))

# Manual along an axis of one device: the other axis stays with the compiler, shapes along it are global.
grid = jax.make_mesh((1, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
one = jax.shard_map(jnp.matmul, mesh=grid, in_specs=(P("a"), P()), out_specs=P("a"), axis_names={"a"}, check_vma=False)
shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 256))]
result["other axis"] = count_jaxpr(jax.make_jaxpr(jax.jit(one))(*shapes)).total
print(json.dumps(result))
"""


def test_t10_sharding():
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    run = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    error = "the module was compiled for 2 devices, the caller says 1"
    assert result["auto"] == [4194304, 4194304, error]
    assert result["manual"] == [4194304, 4194304, error]
    # Both devices do the whole product.
    assert result["replicated"] == [2 * 4194304, 2 * 4194304, error]
    assert result["other axis"] == 4194304
