"""Golden runs of official code: our parameters by the names and layouts of PyTorch files, and the runs' fill rule."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from purelib import split

LEAVES = {"kernel": "weight", "scale": "weight"}

MAE_KEYS = (
    (r"^backbone\.", ""),
    (r"^decoder\.blocks", "decoder_blocks"),
    (r"^decoder\.mask_token", "mask_token"),
    (r"^decoder\.", "decoder_"),
    (r"^patch_embed\.", "patch_embed.proj."),
)
SIMMIM_KEYS = (
    (r"^backbone\.relative\.table", "encoder.rel_pos_bias.relative_position_bias_table"),
    (r"^backbone\.patch_embed\.", "encoder.patch_embed.proj."),
    (r"^(backbone\.|(?=mask_token))", "encoder."),
    (r"^head\.", "decoder.0."),
)
VINY_KEYS = (
    (r"^backbone\.patch_embed\.norm_in", "to_patch_embedding.1"),
    (r"^backbone\.patch_embed\.norm_out", "to_patch_embedding.3"),
    (r"^backbone\.patch_embed", "to_patch_embedding.2"),
    (r"^backbone\.pos_embed", "pos_embedding"),
    (r"^backbone\.norm\.", "transformer.norm."),
    (r"^backbone\.blocks\.(\d+)\.norm1", r"transformer.layers.\1.0.layernorm"),
    (r"^backbone\.blocks\.(\d+)\.attn\.qkv", r"transformer.layers.\1.0.to_qkv"),
    (r"^backbone\.blocks\.(\d+)\.attn\.proj", r"transformer.layers.\1.0.fc_out.0"),
    (r"^backbone\.blocks\.(\d+)\.norm2", r"transformer.layers.\1.1.network.0"),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc1", r"transformer.layers.\1.1.network.1"),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc2", r"transformer.layers.\1.1.network.4"),
    (r"^backbone\.", ""),
    (r"^head\.", "decoder."),
)
"""Substitutions that make a dotted path of ours an official key, in order. ViNy's are relative to its encoder."""


def torch_key(path, renames):
    """``backbone/blocks/0/norm1/scale`` -> ``blocks.0.norm1.weight``."""
    *modules, leaf = path.split("/")
    key = ".".join([*modules, LEAVES.get(leaf, leaf)])
    for pattern, new in renames:
        key = re.sub(pattern, new, key)
    return key


def torch_axes(path, shape, *, patches="convolution"):
    """The order in which our axes stand in the official tensor.

    Kernels have their outputs last here and first there. A patch embedding [p, p, C, D] is a convolution [D, C, p, p],
    or a matrix of D rows over patches in the order (row, column, channel): ``patches`` says which.
    """
    if not path.endswith("kernel"):
        return tuple(range(len(shape)))
    if len(shape) == 2:
        return (1, 0)
    return {"convolution": (3, 2, 0, 1), "matrix": (3, 0, 1, 2)}[patches]


def fill(shape, key, *, vector):
    """The golden runs' rule, in PyTorch's layout; ``vector``: whether the official tensor has one axis."""
    values = 0.05 * np.sin(0.1 * (np.arange(np.prod(shape)) + 1) + 0.7 * len(key))
    return (values + float(vector and key.endswith("weight"))).reshape(shape)


def filled(module, renames, *, patches="convolution"):
    """The module with the golden values, and how many there are by official key."""
    graph, params, stats = split(module)
    sizes = {}

    def value(path, leaf):
        path = "/".join(str(k.key) for k in path)
        key, axes = torch_key(path, renames), torch_axes(path, leaf.shape, patches=patches)
        sizes[key] = leaf.size
        stored = fill([leaf.shape[axis] for axis in axes], key, vector=leaf.ndim == 1)
        return jnp.asarray(stored.transpose(np.argsort(axes)))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, params), stats), sizes


def images():
    """[2 32 32 3]."""
    n, row, col, ch = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), np.arange(3), indexing="ij")
    return np.sin(0.3 * row + 0.2 * col + ch + n)


def noise():
    """[2 16]."""
    i = np.arange(16)
    return np.stack([(7 * i % 16) / 16, ((5 * i + 3) % 16) / 16])
