"""Text towers: parameter counts of BERT's sizes, a slow numpy tower, pooling, dropout, zero-shot weights (T11)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn.initialisers import SCHEMES
from spendflops.parts.nn.text import STARTS, TextTower, _Start, class_embeddings, dropout, text_lengths

BERT = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512)}
CLIP = {"norm": "pre", "causal": True, "pooling": "last", "gelu": "quick", "eps": 1e-5, "init": "clip"}
TOKENS = np.array([[2, 7, 5, 9, 3, 0], [2, 4, 3, 0, 0, 0], [2, 8, 8, 1, 6, 3]], np.int32)
LENGTHS = np.array([5, 3, 6], np.int32)


def context(train=False, key=0):
    return Context(key=jax.random.key(key), step=jnp.int32(0), steps=jnp.int32(10), train=train)


def count(**options):
    params = nnx.state(nnx.eval_shape(lambda: TextTower(rngs=nnx.Rngs(0), **options)), nnx.Param)
    return [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, params.get("pooler", {}))]


@pytest.mark.parametrize(
    "name, whole, unpooled, ours",
    [
        ("tiny", 4_385_920, 4_369_408, 4_310_656),
        ("mini", 11_170_560, 11_104_768, 10_987_264),
        ("small", 28_763_648, 28_500_992, 28_265_984),
        ("medium", 41_373_184, 41_110_528, 40_875_520),
    ],
)
def test_bert_counts(name, whole, unpooled, ours):
    """512 positions, segments and pooler; the same without a pooler; 55 positions alone, our default."""
    depth, dim = BERT[name]
    size = {"vocabulary": 30_522, "depth": depth, "dim": dim, "heads": dim // 64}
    full = size | {"positions": 512, "token_types": 2}
    made, pooler = count(**full, pooling="pooler")
    assert (made, made - pooler, count(**size)[0]) == (whole, unpooled, ours)


def test_openai_count():
    """63,428,096 with the projection to 512."""
    tower = {"vocabulary": 49_408, "dim": 512, "depth": 12, "heads": 8, "positions": 77}
    assert count(**tower, **CLIP)[0] + 512 * 512 == 63_428_096


def test_flops():
    tower = nnx.eval_shape(lambda: TextTower(8, rngs=nnx.Rngs(0), dim=512, depth=12, heads=8))
    assert tower.flops(77) == pytest.approx(5.96e9, rel=2e-3)  # open_clip's table, two FLOPs a multiply-add
    assert tower.flops(77, train=True) == 3 * tower.flops(77)
    mini = nnx.eval_shape(lambda: TextTower(8, rngs=nnx.Rngs(0), pooling="pooler"))
    assert mini.flops(55) == closed_form.transformer(55, 256, 4) + 2 * 256**2


def small(seed=0, **options):
    """A tower with values from numpy."""
    options = {"vocabulary": 10, "dim": 8, "depth": 2, "heads": 2, "positions": 7} | options
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: TextTower(rngs=nnx.Rngs(0), **options)), nnx.Param, ...)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5), params)
    return nnx.merge(graph, params, rest)


def apply(module, function, *args):
    """``function(module, *args)``, compiled, for each of the tuples in ``args``."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    compiled = jax.jit(lambda p, *a: function(nnx.merge(graph, p, rest), *a))
    return [np.asarray(compiled(params, *each)) for each in args]


def numbers(module):
    return {
        "/".join(str(k.key) for k in path): np.asarray(x, np.float64)
        for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    }


def oracle(p, tokens, length, *, heads, norm, causal, pooling, gelu, eps):
    """One text, token by token, without its padding."""

    def normed(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * p[f"{name}/scale"] + p[f"{name}/bias"]

    def linear(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def active(x):
        if gelu == "quick":
            return x / (1 + np.exp(-1.702 * x))
        if gelu == "tanh":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    def attended(x, name):
        q, k, v = np.split(linear(x, f"{name}/qkv"), 3, axis=-1)
        width, rows = x.shape[1] // heads, []
        for i in range(length):
            seen, row = (i + 1 if causal else length), []
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                weights = np.exp([q[i, part] @ k[j, part] / np.sqrt(width) for j in range(seen)])
                row.append(sum(w * v[j, part] for j, w in enumerate(weights / weights.sum())))
            rows.append(np.concatenate(row))
        return linear(np.stack(rows), f"{name}/proj")

    def mlp(x, name):
        return linear(active(linear(x, f"{name}/fc1")), f"{name}/fc2")

    x = np.stack([p["embedding"][t] + p["pos_embed"][i] for i, t in enumerate(tokens[:length])])
    x = x + p["type_embedding"][0] if "type_embedding" in p else x
    x = normed(x, "embed_norm") if norm == "post" else x
    for b in (f"blocks/{i}" for i in range(2)):
        if norm == "post":
            x = normed(x + attended(x, f"{b}/attn"), f"{b}/norm1")
            x = normed(x + mlp(x, f"{b}/mlp"), f"{b}/norm2")
        else:
            x = x + attended(normed(x, f"{b}/norm1"), f"{b}/attn")
            x = x + mlp(normed(x, f"{b}/norm2"), f"{b}/mlp")
    x = normed(x, "final_norm") if norm == "pre" else x
    if pooling == "mean":
        return x.mean(0)
    if pooling == "last":
        return x[-1]
    return np.tanh(linear(x[0], "pooler")) if pooling == "pooler" else x[0]


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "post", "causal": False, "pooling": "mean", "gelu": "erf", "eps": 1e-12},
        {"norm": "post", "causal": False, "pooling": "pooler", "gelu": "tanh", "eps": 1e-12, "token_types": 2},
        {"norm": "pre", "causal": False, "pooling": "cls", "gelu": "erf", "eps": 1e-6},
        {k: v for k, v in CLIP.items() if k != "init"},
    ],
    ids=["bert", "bert-tf", "pre", "clip"],
)
def test_tower_equals_the_oracle(options):
    with jax.enable_x64(True):
        tower = small(**options)
        noise = np.where(np.arange(6) < LENGTHS[:, None], TOKENS, 7)
        both = np.concatenate([TOKENS, noise]), np.concatenate([LENGTHS, LENGTHS])
        given, other = np.split(apply(tower, lambda m, t, n: m(t, n, context()), both)[0], 2)
    assert given.dtype == np.float64
    p, wanted = numbers(tower), {k: v for k, v in options.items() if k != "token_types"}
    expected = [oracle(p, t, n, heads=2, **wanted) for t, n in zip(TOKENS, LENGTHS, strict=True)]
    np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(other, given)  # padding changes nothing, whatever it holds


def test_initial_distributions():
    clip, bert, branch = STARTS["clip"], STARTS["bert"], 64**-0.5 * 6**-0.5
    blocks, key, shape = clip.blocks(64, 3), jax.random.key(0), (64, 64)
    for init, std in (
        (clip.table, 0.02),
        (clip.positions, 0.01),
        (blocks.qkv, 64**-0.5),
        (blocks.kernel, 128**-0.5),
        (blocks.output(1), branch),
        (blocks.output(3), branch),
    ):
        assert np.std(init(key, shape)) == pytest.approx(std, rel=0.05)
    for init in (bert.table, bert.positions, bert.blocks(64, 3).kernel):
        x = np.asarray(init(key, shape))
        assert np.std(x) == pytest.approx(0.0176, rel=0.05) and np.abs(x).max() <= 0.04


def test_every_parameter_starts_as_its_initialiser_says(monkeypatch):
    def filled(number):
        return lambda key, shape, dtype: jnp.full(shape, number, dtype)

    scheme = dataclasses.replace(
        SCHEMES["clip"],
        qkv=filled(3),
        kernel=filled(4),
        scaled=lambda number: filled(10 * number),
        mlp_bias=lambda fan_in: filled(-fan_in),
        proj_bias=lambda fan_in: filled(-2),
    )
    monkeypatch.setitem(STARTS, "clip", _Start(table=filled(1), positions=filled(2), blocks=lambda dim, depth: scheme))
    tower = TextTower(5, rngs=nnx.Rngs(0), dim=8, depth=2, heads=2, token_types=2, pooling="pooler", init="clip")
    found = {name: set(x.flat) for name, x in numbers(tower).items() if "norm" not in name}
    expected = {"embedding": 1, "pos_embed": 2, "type_embedding": 1, "pooler/kernel": 4, "pooler/bias": 0}
    for block, last in (("blocks/0", 10), ("blocks/1", 20)):
        expected |= {f"{block}/attn/qkv/kernel": 3, f"{block}/attn/qkv/bias": 0}
        expected |= {f"{block}/attn/proj/kernel": last, f"{block}/attn/proj/bias": -2}
        expected |= {f"{block}/mlp/fc1/kernel": 4, f"{block}/mlp/fc1/bias": -8}
        expected |= {f"{block}/mlp/fc2/kernel": last, f"{block}/mlp/fc2/bias": -32}
    assert found == {name: {float(number)} for name, number in expected.items()}


def test_dropout():
    x = jnp.ones((400, 100))
    y = np.asarray(dropout(x, 0.25, context(train=True), "a"))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)} and y.mean() == pytest.approx(1, abs=0.02)
    assert np.any(y != np.asarray(dropout(x, 0.25, context(train=True), "b")))
    for same in (dropout(x, 0.25, context(), "a"), dropout(x, 0.0, context(train=True), "a")):
        assert same is x


def test_dropout_of_the_tower_is_for_training_alone():
    tower = small(dropout=0.5, depth=1)

    def run(module, key):
        def value(train):
            return module(TOKENS, LENGTHS, Context(key=key, step=jnp.int32(0), steps=jnp.int32(9), train=train))

        module.dropout, block = 0.0, module.blocks[0]
        inside = value(True)
        module.dropout, block.dropout = 0.5, 0.0
        return jnp.stack([value(False), inside, value(True)])

    one, two = apply(tower, run, (jax.random.key(0),), (jax.random.key(1),))
    np.testing.assert_array_equal(one[0], two[0])
    assert np.any(one[1] != one[0]) and np.any(one[2] != one[0])  # in the blocks, and on the embeddings
    assert np.any(one[1] != two[1]) and np.any(one[2] != two[2])


def test_lengths_end_at_the_last_token():
    tokens = np.array([[5, 0, 9, 0, 0], [5, 1, 2, 3, 9], [0, 0, 0, 0, 0], [5, 9, 0, 0, 0]], np.int32)
    assert text_lengths(jnp.asarray(tokens), 0).tolist() == [3, 5, 1, 2]
    assert text_lengths(jnp.asarray(tokens), 9).tolist() == [5, 4, 5, 5]


def test_t11_template_mean():
    weights = jax.jit(class_embeddings)
    raw = jnp.array([[[1.0, 0], [0, 1], [0, 3]]])
    np.testing.assert_allclose(weights(raw), [[0.4472135955, 0.8944271910]], rtol=1e-6)
    with jax.enable_x64(True):
        exact = weights(jnp.array([[[1.0, 0], [0, 1], [0, 3]]]))
    np.testing.assert_allclose(exact, [[0.4472135955, 0.8944271910]], atol=1e-10)
    some = weights(jnp.concatenate([raw, 9 * raw]), jnp.array([[True, True, False], [False, True, True]]))
    np.testing.assert_allclose(some, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


def test_refusals():
    for options, said in (
        ({"norm": "poste"}, "post"),
        ({"pooling": "average"}, "mean"),
        ({"init": "berd"}, "bert"),
        ({"gelu": "fast"}, "quick"),
        ({"dim": 10, "heads": 4}, "4 heads"),
    ):
        with pytest.raises(ConfigError, match=said):
            count(vocabulary=4, **options)
    with pytest.raises(ConfigError, match=r"(?s)8 tokens.*7 positions.*max_length of 7"):
        small()(jnp.zeros((2, 8), jnp.int32), jnp.ones(2, jnp.int32), context())
