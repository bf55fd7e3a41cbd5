"""The vision transformer on large images: windows, memory, and starting from the weights of a plain one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import TINY, context, flatten, split, tiny

import spendflops.parts.nn.attention
import spendflops.testing
from spendflops.accounts.flops import count_hlo, count_jaxpr, hlo_text
from spendflops.contracts.errors import ConfigError
from spendflops.engine.state import transplant, unflatten
from spendflops.parts.nn.positions import resize_table

WINDOWED = {
    "class_token": False,
    "pooling": "mean",
    "positions": "learned_sincos",
    "position_size": 16,
    "relative_positions": "decomposed",
    "relative_resize": "torch_bilinear",
    "window": 3,
    "global_blocks": (1,),
}

test_kit = spendflops.testing.backbone_tests("vit", **(TINY | WINDOWED))


def images(size=(32, 32), batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)


def test_a_window_sees_nothing_of_another_and_a_global_block_all():
    """A grid of 4 x 4, windows of 2 x 2: pixels of the upper left window change its four tokens alone."""
    one, other = images(batch=1), images(batch=1)
    other[:, :16, :16] = 255 - other[:, :16, :16]
    inside = np.array([0, 1, 4, 5])
    for blocks, changed in (((), inside), ((0,), np.arange(16))):
        model = tiny(window=2, global_blocks=blocks, class_token=False, pooling="mean")
        run = jax.jit(lambda x, model=model: model(x, context()).tokens)
        np.testing.assert_array_equal(np.flatnonzero(np.any(run(one) != run(other), axis=(0, 2))), changed)


def test_one_window_that_is_the_grid_is_the_plain_model():
    options = {"class_token": False, "pooling": "mean", "relative_positions": "decomposed"}
    plain, windowed = (
        jax.jit(lambda x, model=model: model(x, context()).tokens)(images())
        for model in (tiny(**options), tiny(**options, window=4))
    )
    np.testing.assert_allclose(windowed, plain, atol=1e-5)


@pytest.mark.parametrize("options", [{"window": 2}, {"relative_positions": "decomposed"}])
def test_what_has_no_place_on_the_grid_is_refused(options):
    model = tiny(class_token=False, pooling="mean", depth=1, **options)
    tokens = jax.eval_shape(model.embed, images())
    packed = dataclasses.replace(tokens, segments=jax.ShapeDtypeStruct((2, 16), jnp.int32))
    beside = dataclasses.replace(tokens, prefix=jax.ShapeDtypeStruct((2, 1, 32), jnp.float32))
    for given in (dataclasses.replace(tokens, grid=None), packed, beside):
        with pytest.raises(ConfigError, match="all tokens of the grid, and no others"):
            jax.eval_shape(lambda t: model.encode(t, context()), given)
    with pytest.raises(ConfigError, match="all tokens of the grid"):
        model.flops(kept=4)


def step(**options):
    """(traced program, parameters) of a loss of all tokens and its gradient, in training, with dropped paths."""
    graph, params, stats = split(tiny(**(WINDOWED | {"drop_path": 0.5} | options)))
    params = jax.tree.map(lambda v: jnp.asarray(v, float), params)
    weight = np.random.default_rng(1).normal(size=(2, 16, 32))

    def loss(params):
        with jax.named_scope("forward"):
            return jnp.sum(weight * nnx.merge(graph, params, stats)(images(), context()).tokens)

    return jax.jit(jax.value_and_grad(loss)).trace(params), params


def test_saving_memory_changes_neither_values_nor_the_price(monkeypatch):
    """Remat, alone and with chunks: loss and gradients, model FLOPs and those of the compiled program."""
    monkeypatch.setattr(spendflops.parts.nn.attention, "QUERIES", 5)
    with jax.enable_x64(True):
        plain, params = step()
        cost, expected = count_jaxpr(plain.jaxpr), plain.lower().compile()(params)
        assert cost.rematted == 0 and set(cost.phases) == {"forward", "backward"}
        for options in ({"remat": "blocks"}, {"remat": "blocks", "attention": "chunked"}):
            traced, params = step(**options)
            compiled = traced.lower().compile()
            for path, value in flatten(compiled(params)).items():
                wanted = flatten(expected)[path]
                assert np.linalg.norm(value - wanted) <= 1e-12 * np.linalg.norm(wanted), (options, path)
            model, hardware = count_jaxpr(traced.jaxpr), count_hlo(hlo_text(compiled))
            assert model.without_recomputation().phases == cost.phases
            assert model.rematted == hardware.rematted > 0
            assert hardware.total == cost.total + hardware.rematted


def test_what_a_block_computes_again():
    """All but what nobody asks for, its second MLP product: 2 B (8 N D^2 + 2 N^2 D) (flops_carbon 1.3)."""
    options = {"window": None, "global_blocks": (), "relative_positions": "none", "relative_resize": None}
    traced, _ = step(**options, remat="blocks")
    assert count_jaxpr(traced.jaxpr).rematted == 2 * 2 * 2 * (8 * 16 * 32**2 + 2 * 16**2 * 32)


def started(target, source, allow=()):
    """What ``target`` has after a start from ``source``, and the lines that say so."""
    given, taken = (({"backbone": unflatten(flatten(split(model)[1]))}, {}) for model in (target, source))
    return transplant(given, taken, select="backbone/.*", allow=allow, resample=target.resampled)


RELATIVE = (r"backbone/blocks/\d+/attn/relative/(rows|cols)",)


@pytest.mark.parametrize("position_size", [32, None])
def test_a_detector_starts_from_a_plain_model_without_its_class_token(position_size):
    """The table is stored for the size of pre-training (ViTDet), or resampled to the new one; its class row is left."""
    source = tiny(positions="learned")
    options = WINDOWED | {"image_size": 64, "position_size": position_size, "final_norm": False}
    target = tiny(**options)
    new, lines = started(target, source, RELATIVE)
    table = np.asarray(source.pos_embed[...])[0, 1:]
    expected = table if position_size else resize_table(table, (4, 4), (8, 8), rule="torch_bicubic")
    np.testing.assert_allclose(new["backbone/pos_embed"][0], expected, atol=1e-6)
    kernel = source.blocks[1].attn.qkv.kernel[...]
    np.testing.assert_array_equal(new["backbone/blocks/1/attn/qkv/kernel"], kernel)
    assert any(line.startswith("resampled backbone/pos_embed (1, 17, 32)") for line in lines)
    unused = {line.split()[2] for line in lines if line.startswith("not used")}
    assert unused == {"backbone/cls_token", "backbone/norm/scale", "backbone/norm/bias"}


def test_a_detector_starts_from_the_fixed_table_of_mae():
    """It is not in the weights: the detector has made it itself, for the size of pre-training."""
    source, target = tiny(), tiny(**(WINDOWED | {"image_size": 64, "position_size": 32}))
    _, lines = started(target, source, (*RELATIVE, "backbone/pos_embed"))
    assert any(line.startswith("left new  backbone/pos_embed (1, 16, 32)") for line in lines)
    with pytest.raises(ConfigError, match="pos_embed"):
        started(target, source, RELATIVE)


def test_relative_tables_of_another_grid_are_resampled():
    source, target = tiny(**WINDOWED), tiny(**(WINDOWED | {"image_size": 48, "window": 2}))
    new, lines = started(target, source)
    resampled = {line.split()[1] for line in lines if line.startswith("resampled")}
    names = ("rows", "cols")
    assert resampled == {f"backbone/blocks/{b}/attn/relative/{name}" for b in (0, 1) for name in names}
    # Block 0 has windows of 2 instead of 3, block 1 maps of 6 instead of 4.
    assert {new[f"backbone/blocks/{b}/attn/relative/rows"].shape for b in (0, 1)} == {(3, 8), (11, 8)}


def test_a_plain_model_cannot_take_a_table_without_a_class_row():
    assert tiny(positions="learned").resampled("pos_embed", np.zeros((1, 9, 32))) is None
    assert tiny(**WINDOWED).resampled("pos_embed", np.zeros((1, 9, 32))).shape == (1, 4, 32)
