"""Ours, through the importer, against what public implementations computed (golden.json); without these installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))

import fill
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layoutlib import CASES, GOLDEN, LEARNED, Case, Supervised
from spendflops_plugins.mae import pixel_loss

from spendflops.contracts.types import Context
from spendflops.engine.state import unflatten
from spendflops.parts.nn.patches import patchify

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), steps=jnp.int32(1), train=False)


def imported(case, name):
    """The model of a case in float64, with the golden weights of the file ``name``."""
    file = case.file()
    fixed = {key for key in file if "pos" in key and not case.backbone.get("positions", "").startswith("learned")}
    golden = fill.filled(GOLDEN["keys"][name])
    values = case.read({key: file[key] if key in fixed else golden[key] for key in file}, using=case.layout)[1]
    wide = unflatten({path: jnp.asarray(value, jnp.float64) for path, value in values.items()})
    return case.definition.merge(wide, {})


def check(found, name, part):
    wanted = GOLDEN["runs"][name][part]
    got = fill.summary(np.asarray(found))
    assert got["shape"] == wanted["shape"]
    for key in ("mean", "std", "wave", "first"):
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-7, atol=1e-9, err_msg=f"{name} {part} {key}")


def all_tokens(model, pixels):
    found = model.backbone(jnp.asarray(pixels, jnp.float64), CONTEXT)
    return jnp.concatenate([found.prefix, found.tokens], axis=1)


@pytest.mark.parametrize(
    "name, keys, layout, rule",
    [("timm", "timm", "timm", "jax_cubic"), ("hf vit", "hf vit 5", "hf_vit_v5", "torch_bicubic")],
)
def test_vit_at_its_size_and_at_another(name, keys, layout, rule):
    heads = {"timm": None, "hf vit": Supervised}
    shapes = {k: tuple(s) for k, s in GOLDEN["keys"][keys].items() if heads[name] or not k.startswith("head")}
    options = LEARNED | {"position_resize": rule}
    with jax.enable_x64(True):
        model = imported(Case(layout=layout, keys=shapes, backbone=options, objective=heads[name]), keys)

        @jax.jit
        def run(small, large):
            tokens = [all_tokens(model, x) for x in (small, large)]
            return tokens, model.head(tokens[0][:, 0]) if heads[name] else None

        tokens, logits = run(fill.images(32), fill.images(48))
    for size, found in zip(("32", "48"), tokens, strict=True):
        check(found, name, size)
    if logits is not None:
        check(logits, name, "logits")


def test_mae_with_given_noise():
    with jax.enable_x64(True):
        model = imported(CASES["hf vit mae 5"], "hf vit mae 5")
        pixels = jnp.asarray(fill.images(32), jnp.float64)

        @jax.jit
        def run(pixels, noise):
            predicted, hidden, _ = model.reconstruct(pixels, noise, CONTEXT)
            order = jnp.argsort(noise, axis=1)[:, 4:, None]
            pick = [jnp.take_along_axis(x, order, axis=1) for x in (predicted, patchify(pixels, 8))]
            return predicted, pixel_loss(*pick, norm_pix=True), hidden

        predicted, loss, hidden = run(pixels, fill.noise())
    assert float(hidden.sum()) == 24
    check(predicted, "hf vit mae", "pixels")
    check(loss, "hf vit mae", "loss")


def test_clip_embeddings_and_logits():
    with jax.enable_x64(True):
        model = imported(CASES["hf clip"], "hf clip")

        @jax.jit
        def run(pixels, tokens):
            image = model.embed_images(model.backbone(pixels, CONTEXT).summary)
            text = model.embed_texts(tokens, CONTEXT)
            return image, text, jnp.exp(model.logit_scale[...]) * image @ text.T

        image, text, logits = run(jnp.asarray(fill.images(32), jnp.float64), jnp.asarray(fill.texts()))
    check(image, "hf clip", "image")
    check(text, "hf clip", "text")
    check(logits, "hf clip", "logits")
