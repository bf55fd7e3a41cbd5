"""Ours against installed public implementations with random weights, through a file of theirs: 1e-5 relative."""

from __future__ import annotations

import functools
import math

import fill
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.clip import CLIP
from spendflops_plugins.dino import DINO
from spendflops_plugins.mae import MAE, pixel_loss
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

from spendflops.contracts.types import Context, DatasetInfo
from spendflops.engine.convert import export, import_file
from spendflops.engine.load import load
from spendflops.parts.nn.patches import patchify
from spendflops.parts.nn.positions import resize_table

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
models = pytest.importorskip("models")

INFO = DatasetInfo(name="toy", features={}, classes=tuple("abcdefg"))
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), steps=jnp.int32(1), train=False)
SIZE = {"size": 224, "patch": 16, "dim": 192, "depth": 12, "heads": 3}
TRUNK = {"image_size": 224, "patch_size": 16, "dim": 192, "depth": 12, "heads": 3}
HF = {**SIZE, "hidden": 768}


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def randomised(model):
    """Random values everywhere, so that no norm is the identity and no bias zero; fixed tables stay."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * scale + float(parameter.ndim == 1))
    return model.eval()


def ours(folder, state, *, backbone, objective=None, **options):
    """The model that the importer makes of a real file of PyTorch."""
    torch.save(state, folder / "file.pth")
    trunk = functools.partial(ViT, **(TRUNK | backbone))
    lines = import_file(
        folder / "file.pth", backbone=trunk, objective=objective, info=INFO, out=folder / "out", **options
    )
    return load(folder / "out").module(), lines


def pixels(size):
    value = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    return jnp.asarray(value), torch.from_numpy(value.transpose(0, 3, 1, 2).copy())


def close(mine, theirs):
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs.double())
    assert mine.shape == theirs.shape
    error = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
    assert error < 1e-5, error
    return error


def tokens(model, images):
    @jax.jit
    def run(images):
        found = model.backbone(images, CONTEXT)
        return jnp.concatenate([found.prefix, found.tokens], axis=1)

    return run(images)


@pytest.mark.parametrize("size", [224, 288, 160])
def test_timm_vit(tmp_path, size):
    theirs = randomised(models.timm_vit(**SIZE, classes=7))
    options = {"positions": "learned", "position_resize": "jax_cubic"}
    model, lines = ours(tmp_path, theirs.state_dict(), backbone=options, objective=Supervised)
    mine, images = pixels(size)
    assert "layout timm" in lines[0]
    close(tokens(model, mine), theirs.forward_features(images))
    if size == 224:
        close(model.head(model.backbone(mine, CONTEXT).summary), theirs(images))


def test_positions_resized_at_import(tmp_path):
    # The importer's own resizing is the one at run time: timm's `resample_abs_pos_embed`.
    theirs = randomised(models.timm_vit(**SIZE))
    model, lines = ours(
        tmp_path, theirs.state_dict(), backbone={"positions": "learned", "image_size": 288}, resize="jax_cubic"
    )
    mine, images = pixels(288)
    assert any(line.startswith("resized") for line in lines)
    close(tokens(model, mine), theirs.forward_features(images))


@pytest.mark.parametrize("size", [224, 160])
def test_hf_vit(tmp_path, size):
    theirs = randomised(models.hf_vit(labels=7, **HF))
    model, _ = ours(tmp_path, theirs.state_dict(), backbone={"positions": "learned"}, objective=Supervised)
    mine, images = pixels(size)
    close(tokens(model, mine), theirs.vit(images, interpolate_pos_encoding=size != 224).last_hidden_state)


def test_hf_folders_in_and_out(tmp_path):
    # What Hugging Face saved is read, with its config.json; what is exported here, Hugging Face loads, nothing missing.
    theirs = randomised(models.hf_vit(labels=7, **HF))
    theirs.save_pretrained(tmp_path / "theirs")
    trunk = functools.partial(ViT, **TRUNK, positions="learned")
    import_file(tmp_path / "theirs", backbone=trunk, objective=Supervised, info=INFO, out=tmp_path / "ours")
    export(load(tmp_path / "ours"), using="hf_vit", out=tmp_path / "back")
    again, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in again.state_dict().items())
    assert again.config.layer_norm_eps == theirs.config.layer_norm_eps == 1e-6


def test_hf_vit_mae_with_given_noise(tmp_path):
    theirs = randomised(models.hf_vit_mae(**HF, decoder=128, decoder_depth=2, decoder_heads=4))
    objective = functools.partial(MAE, decoder_dim=128, decoder_depth=2, decoder_heads=4, norm_pix=True)
    model, lines = ours(tmp_path, theirs.state_dict(), backbone={}, objective=objective)
    mine, images = pixels(224)
    noise = np.random.default_rng(1).random((2, 196)).astype(np.float32)
    out = theirs(images, noise=torch.from_numpy(noise))

    @jax.jit
    def run(x, noise):
        predicted, hidden, _ = model.reconstruct(x, noise, CONTEXT)
        order = jnp.argsort(noise, axis=1)[:, 49:, None]
        pick = [jnp.take_along_axis(y, order, axis=1) for y in (predicted, patchify(x, 16))]
        return predicted, hidden, pixel_loss(*pick, norm_pix=True)

    predicted, hidden, loss = run(mine, noise)
    assert sum(line.startswith("compared") for line in lines) == 2
    close(predicted, out.logits)
    close(hidden, out.mask)
    close(loss, out.loss)


def clip_options(**more):
    backbone = {
        "patch_bias": False, "pre_norm": True, "gelu": "quick", "norm_eps": 1e-5, "positions": "learned", "dim": 64,
        "heads": 1, "mlp_ratio": 2.0, "depth": 4, "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
    }  # fmt: skip
    objective = functools.partial(
        CLIP, embedding_dim=24, text_dim=64, text_depth=3, text_heads=1, text_positions=20, text_norm="pre",
        text_causal=True, text_pooling="last", text_gelu="quick", text_eps=1e-5,
    )  # fmt: skip
    return {"backbone": backbone | more, "objective": objective}


def test_hf_clip(tmp_path):
    theirs = randomised(models.hf_clip(length=20, text_depth=3, size=224, patch=16, depth=4))
    theirs.logit_scale.copy_(torch.tensor(2.5))
    model, _ = ours(tmp_path, theirs.state_dict(), **clip_options())
    mine, images = pixels(224)
    words = fill.texts(20)
    out = theirs(input_ids=torch.from_numpy(words), pixel_values=images)

    @jax.jit
    def run(x, words):
        image = model.embed_images(model.backbone(x, CONTEXT).summary)
        text = model.embed_texts(words, CONTEXT)
        return image, text, jnp.exp(model.logit_scale[...]) * image @ text.T

    for a, b in zip(run(mine, words), (out.image_embeds, out.text_embeds, out.logits_per_image), strict=True):
        close(a, b)


def test_torchscript_archive_of_clip_in_half_precision(tmp_path):
    # The official archives: a scripted module whose attributes are the state dict, float16.
    theirs = models.hf_clip(length=20, text_depth=3, size=224, patch=16, depth=4)
    source, _ = ours(tmp_path, randomised(theirs).state_dict(), **clip_options())
    del source
    export(load(tmp_path / "out"), using="openai_clip", out=tmp_path / "openai.safetensors", dtype="float16")
    from safetensors.torch import load_file

    state = load_file(tmp_path / "openai.safetensors")
    archive = torch.jit.script(models.nested(state | {"input_resolution": torch.tensor(224)}))
    archive.save(tmp_path / "clip.pt")
    trunk = functools.partial(ViT, **(TRUNK | clip_options()["backbone"]))
    lines = import_file(
        tmp_path / "clip.pt", backbone=trunk, objective=clip_options()["objective"], info=INFO, out=tmp_path / "jit"
    )
    assert lines[0].startswith("clip.pt: TorchScript, layout openai_clip") and "float16 made float32" in lines[1]
    export(load(tmp_path / "jit"), using="openai_clip", out=tmp_path / "again.safetensors", dtype="float16")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys() and all(torch.equal(again[k], state[k]) for k in state)


@pytest.mark.parametrize("new", [False, True])
def test_dino_head_with_weight_norm(tmp_path, new):
    trunk = randomised(models.timm_vit(**SIZE, classes=0))
    head = randomised(models.dino_head(192, 96, hidden=64, bottleneck=32, new=new))
    state = {f"backbone.{k}": v for k, v in trunk.state_dict().items()}
    state |= {f"head.{k}": v for k, v in head.state_dict().items()}
    objective = functools.partial(DINO, out_dim=96, hidden=64, bottleneck=32, norm_last_layer=False)
    file = {"teacher": state, "student": {f"module.{k}": v + 1 for k, v in state.items()}, "epoch": 3}
    file["dino_loss"] = {"center": torch.randn(1, 96)}
    model, _ = ours(tmp_path, file, backbone={"positions": "learned"}, objective=objective)
    mine, images = pixels(224)
    run = jax.jit(lambda x: model.head(model.backbone(x, CONTEXT).summary, CONTEXT))
    close(run(mine), head(trunk.forward_features(images)[:, 0]))
    close(model.center[...], file["dino_loss"]["center"][0])


@pytest.mark.parametrize("side", [6, 20])
def test_dino_resizes_positions_by_a_scale(side):
    # The official code gives a factor, not a size: (n + 0.1) / 14.
    table = np.random.default_rng(0).normal(size=(196, 8))
    grid = torch.from_numpy(table).reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(grid, scale_factor=((side + 0.1) / 14,) * 2, mode="bicubic")
    mine = resize_table(table, (14, 14), (side, side), rule="dino_bicubic").reshape(side, side, 8)
    close(mine, theirs[0].permute(1, 2, 0))
