"""Small programs of ours, compiled for TPUs: `python tests/accounts/flops/tpuprograms.py` writes their HLO to `tpu/`.

It needs the extra `tpu-plan`; the tests read what it wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

FOLDER = Path(__file__).with_name("tpu")


def layers(weights, x, *, remat=False):
    """A loop over 12 layers: its length is nowhere but in its condition."""

    def layer(h, w):
        return jnp.tanh(h @ w), None

    with jax.named_scope("forward"):
        x, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)
        return (x.astype(jnp.float32) ** 2).sum()


def rematted(weights, x):
    return layers(weights, x, remat=True)


def attention(w, x):
    """Batched products: dilated convolutions on a TPU."""
    batch, tokens, width = x.shape
    with jax.named_scope("forward"):
        q, k, v = jnp.split((x @ w).reshape(batch, tokens, 4, 3 * width // 4), 3, axis=-1)
        logits = jnp.einsum("bnhd,bmhd->bhnm", q, k)
        return (jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), v) ** 2).sum()


def convolutions(params, images):
    """Patches, then 3 x 3 with a stride; the gradients are dilated."""
    with jax.named_scope("forward"):
        labels = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(jax.lax.conv_general_dilated(images, params[0], (4, 4), "VALID", dimension_numbers=labels))
        x = jax.lax.conv_general_dilated(x, params[1], (2, 2), "SAME", dimension_numbers=labels)
        return (x**2).sum()


def gradient(loss, *, dtype=jnp.float32):
    """A step: the loss, its gradient and a change of the parameters."""

    def step(params, x):
        value, grads = jax.value_and_grad(loss)(params, x.astype(dtype))
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    return step


# name -> (target, devices, step, shapes of the parameters, shape of the batch, their dtype)
PROGRAMS = {
    "rematted_v3": ("v3:2x2x1", 1, gradient(rematted), (12, 64, 64), (32, 64), jnp.float32),
    "layers_v3_8_devices": ("v3:2x2x1", 8, gradient(layers), (12, 64, 64), (64, 64), jnp.float32),
    "layers_v5e_bfloat16": ("v5e:2x2", 1, gradient(layers, dtype=jnp.bfloat16), (12, 64, 64), (32, 64), jnp.bfloat16),
    "attention_v5e": ("v5e:2x2", 1, gradient(attention), (32, 96), (3, 10, 32), jnp.float32),
    "convolutions_v3": (
        *("v3:2x2x1", 1, gradient(convolutions)),
        *(((4, 4, 3, 32), (3, 3, 32, 64)), (2, 32, 32, 3), jnp.float32),
    ),
}


def arguments(params, batch, dtype):
    """Shapes: a list of parameters, or one."""
    many = isinstance(params[0], tuple)
    made = [jax.ShapeDtypeStruct(shape, dtype) for shape in (params if many else (params,))]
    return (made if many else made[0]), jax.ShapeDtypeStruct(batch, dtype)


def shortened(text):
    """Without tables of source lines, and without what the compiler notes for its later stages."""
    header, _, rest = text.partition("\n")
    lines = rest[re.search(r"^%?[\w.\-]+ .*\{$", rest, re.MULTILINE).start() :].splitlines()
    kept = (line if "custom-call" in line else re.sub(r", backend_config=.*$", "", line) for line in lines)
    return "\n".join([header, "", *(re.sub(r" stack_frame_id=\d+", "", line) for line in kept)]) + "\n"


def main():
    from jax.sharding import Mesh

    from spendflops.accounts.flops import hlo_text
    from spendflops.engine import target

    FOLDER.mkdir(exist_ok=True)
    for name, (topology, devices, step, *shapes) in PROGRAMS.items():
        found = target.named(topology)
        mesh = Mesh(found.mesh.devices[:devices], ("data",), axis_types=found.mesh.axis_types)
        places = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        text = hlo_text(jax.jit(step, in_shardings=places).lower(*arguments(*shapes)).compile())
        assert "known_trip_count" not in text, name
        versions = ", ".join(f"{k} {v}" for k, v in found.to_json()["versions"].items())
        (FOLDER / f"{name}.txt").write_text(
            f"// {topology}, {devices} devices, {versions}\n{shortened(text)}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
