"""Modules as pure functions of dicts, and data sets and images for the methods' tests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from spendflops_plugins.vit import ViT

from spendflops.contracts.types import Context, DatasetInfo, Stat
from spendflops.parts.images import ArrayImage

INFO = DatasetInfo(name="toy", features={}, classes=tuple("abcdef"), mask_classes=tuple("abcde"))
TINY = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4}


def context(*, train=True, seed=0):
    return Context(key=jax.random.key(seed), step=jnp.int32(0), steps=jnp.int32(10), train=train)


def made(factory):
    """The module of a factory with values from numpy: nothing is compiled to draw them."""
    graph, params, stats = split(nnx.eval_shape(factory))
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = str(path[-1].key)
        width = np.prod(leaf.shape[:-1]) if name == "kernel" else 100
        return jnp.asarray(rng.normal(size=leaf.shape) * width**-0.5 + (name == "scale"), leaf.dtype)

    def statistic(path, leaf):
        return jnp.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype)

    fill = jax.tree_util.tree_map_with_path
    return nnx.merge(graph, fill(value, params), fill(statistic, stats))


def tiny(**options):
    return made(lambda: ViT(rngs=nnx.Rngs(0), **(TINY | options)))


def objective(cls, *, backbone=None, info=INFO, **options):
    """An objective on a tiny backbone of one block, made in the same way."""
    trunk = TINY | {"depth": 1} | (backbone or {})
    return made(lambda: cls(ViT(rngs=nnx.Rngs(0), **trunk), info=info, rngs=nnx.Rngs(1), **options))


def split(module):
    """(graph, parameters, statistics) as nested dicts of arrays."""
    graph, params, stats = nnx.split(module, nnx.Param, ...)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def apply(module, function, *args):
    """``function(module, *args)``, compiled, with the module's values as arguments; the module keeps its own."""
    graph, params, stats = split(module)
    return jax.jit(lambda p, s, *a: function(nnx.merge(graph, p, s), *a))(params, stats, *args)


def loss_of(module, batch, also):
    """(loss, metrics, statistics after it, ``also(module)`` before it), in one compilation."""
    graph, params, stats = split(module)

    @jax.jit
    def run(params, stats):
        extra = also(nnx.merge(graph, params, stats))
        used = nnx.merge(graph, params, stats)
        result = used.loss(batch, None, context())
        return result.value, result.metrics, nnx.to_pure_dict(nnx.state(used, Stat)), extra

    return run(params, stats)


def gradient_program(cls, *, depth, backbone=None, **options):
    """The jaxpr of an objective's loss, gradient and statistics, as text; nothing is computed."""
    trunk = TINY | {"depth": depth} | (backbone or {})
    module = nnx.eval_shape(lambda: cls(ViT(rngs=nnx.Rngs(0), **trunk), info=INFO, rngs=nnx.Rngs(1), **options))
    graph, params, stats = split(module)

    def loss(params, stats, batch):
        module = nnx.merge(graph, params, stats)
        return module.loss(batch, None, context()).value, nnx.to_pure_dict(nnx.state(module, Stat))

    batch = batch_of(cls.views(), module.backbone.spec)
    return str(jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(params, stats, batch))


def flatten(tree):
    return {
        "/".join(str(getattr(k, "key", k)) for k in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def count(factory):
    """Parameters of what a factory would make; nothing is allocated."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(factory), nnx.Param)))


def sample(seed=0, size=(40, 52)):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    return {
        "image": ArrayImage(np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)),
        "label": seed % 6,
        "labels": np.array([1, 3], np.int32),
        "mask": rng.integers(0, 5, size, dtype=np.uint8),
    }


def batch_of(views, spec, *, size=4):
    rows = [views(sample(i), np.random.default_rng(i), spec) for i in range(size)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
