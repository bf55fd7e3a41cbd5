"""Seconds of a supervised training step beside bare JAX: ViT-Ti/16, ViT-S/16, 16 images of 224 pixels, AdamW, float32.

Bare JAX is a dictionary of arrays, a function of the forward pass in jax.numpy as one writes it down, and optax: no
library for models, no phases, no metrics. From the same parameters on the same batch both have the same loss to 1e-5,
or nothing is measured. Both are compiled before; steps are timed in turns in one process, so that a machine that slows
down slows both. Ours also computes the gradient's norm and the monitored spread of the features.
"""

from __future__ import annotations

import functools
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from stages import Nothing, begun

from spendflops.contracts import registry
from spendflops.engine import sharding
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Stage
from spendflops.engine.state import flatten

BATCH, PATCH = 16, 16
MODELS = {"ViT-Ti": {"dim": 192, "depth": 12, "heads": 3}, "ViT-S": {"dim": 384, "depth": 12, "heads": 6}}
RATE, DECAY = 1e-4, 0.05


class Bare:
    """The same step in bare JAX, from the same parameters."""

    def __init__(self, params: Any, module: Any, *, depth: int, heads: int):
        self.depth, self.heads = depth, heads
        self.mean, self.std = np.asarray(module.backbone.mean), np.asarray(module.backbone.std)
        self.params = {path: jnp.array(x) for path, x in flatten(params).items()}
        self.optimizer = optax.adamw(RATE, weight_decay=DECAY)
        self.state = self.optimizer.init(self.params)
        self._step = jax.jit(self._update, donate_argnums=(0, 1))

    def __call__(self, batch: dict[str, jax.Array]) -> jax.Array:
        """One step; its loss."""
        self.params, self.state, loss = self._step(self.params, self.state, batch)
        return jax.block_until_ready(loss)

    def _update(self, params, state, batch):
        loss, gradients = jax.value_and_grad(self._loss)(params, batch)
        updates, state = self.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    def _loss(self, p, batch):
        logits = self._forward(p, batch["image"])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"], axis=1))

    def _forward(self, p, images):
        x = (images / 255.0 - self.mean) / self.std
        count, side, _, channels = images.shape
        rows = side // PATCH
        x = x.reshape(count, rows, PATCH, rows, PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(count, rows * rows, -1) @ p["backbone/patch_embed/kernel"].reshape(PATCH * PATCH * channels, -1)
        x = x + p["backbone/patch_embed/bias"]
        first = jnp.broadcast_to(p["backbone/cls_token"], (count, 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + p["backbone/pos_embed"]
        for number in range(self.depth):
            x = self._block(p, f"backbone/blocks/{number}", x)
        x = _norm(p, "backbone/norm", x)[:, 0]
        return _linear(p, "head", x)

    def _block(self, p, name, x):
        qkv = _linear(p, f"{name}/attn/qkv", _norm(p, f"{name}/norm1", x))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        x = x + _linear(p, f"{name}/attn/proj", mixed)
        hidden = jax.nn.gelu(_linear(p, f"{name}/mlp/fc1", _norm(p, f"{name}/norm2", x)), approximate=False)
        return x + _linear(p, f"{name}/mlp/fc2", hidden)


def _linear(p, name, x):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def _norm(p, name, x):
    mean, variance = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


class Ours:
    """The step that ``spendflops train`` runs."""

    def __init__(self, **model: int):
        vit = functools.partial(registry.load("backbones", "vit"), positions="learned", pooling="class", **model)
        built = build_stage(
            Stage(
                objective=functools.partial(registry.load("objectives", "supervised"), label_smoothing=0.0),
                backbone=vit,
                dataset=Nothing(),
                optimizer=adamw(lr=RATE, weight_decay=DECAY),
                batch_size=BATCH,
            )
        )
        self.module = built.definition.example
        self.state, self._call = begun(built)
        self._step, self.batch = built.train.compile(), built.train.args[1]

    def __call__(self, batch: dict[str, jax.Array]) -> jax.Array:
        """One step; its loss."""
        self.state, metrics = self._step(self.state, batch, self._call)
        return jax.block_until_ready(metrics["loss"])


def measured(name: str, *, steps: int) -> list[harness.Case]:
    """Both sides of a model in turn, and their ratio."""
    ours = Ours(**MODELS[name])
    bare = Bare(ours.state["params"], ours.module, depth=MODELS[name]["depth"], heads=MODELS[name]["heads"])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    labels = rng.integers(0, 1000, (BATCH, 1), dtype=np.int32)
    batch = sharding.place({"image": images, "labels": labels}, ours.batch)
    first = [float(side(batch)) for side in (ours, bare)]
    if abs(first[0] - first[1]) > 1e-5 * abs(first[1]):
        raise SystemExit(f"{name}: not the same mathematics: losses {first}")
    for side in (ours, bare):
        side(batch)  # with arrays that are where the first step left them: compiled once more, perhaps
    samples: dict[str, list[float]] = {"ours": [], "bare JAX": []}
    for _ in range(steps):
        samples["ours"].append(harness.seconds(lambda: ours(batch)))
        samples["bare JAX"].append(harness.seconds(lambda: bare(batch)))
    cases = [harness.Case(name=f"{name}: {side}", unit="s", samples=s) for side, s in samples.items()]
    ratios = [a / b for a, b in zip(*samples.values(), strict=True)]
    return [*cases, harness.Case(name=f"{name}: ratio", unit="x", samples=ratios, goal="at most 1.05")]


def main() -> None:
    """Both models."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    cases = [c for name in list(MODELS)[: 1 if quick else None] for c in measured(name, steps=2 if quick else 15)]
    harness.finish("bare_step", cases, quick=quick, before=before)


if __name__ == "__main__":
    main()
