"""Reconstructions of hidden patches: the score against a loop, what MAE and SimMIM give, and the pictures."""

import cv2
import drive_evaluator as drive
import numpy as np
import pytest
from purelib import context, objective
from spendflops_plugins.mae import MAE
from spendflops_plugins.reconstruction import FLAT, HIDDEN, Reconstruction
from spendflops_plugins.simmim import SimMIM

import spendflops.testing
from spendflops.contracts.errors import DataError, DivergedError
from spendflops.parts import pictures
from spendflops.parts.images import ArrayImage


def patches_of(images, side):
    """[B N PPC], row after row, by loops."""
    return np.stack([
        [image[y : y + side, x : x + side].reshape(-1) for y in range(0, image.shape[0], side)
         for x in range(0, image.shape[1], side)] for image in images
    ])  # fmt: skip


def known(batch, quality):
    """Predictions of a model that sees everything, half of the images, or the negative."""
    true = patches_of(batch["image"].astype(np.float32), 8)
    odd = batch["image"].sum(axis=(1, 2, 3), dtype=int) % 2 == 1
    wrong = {"perfect": np.zeros(len(true), bool), "noisy": odd, "worst": np.ones(len(true), bool)}[quality]
    hidden = np.broadcast_to(np.arange(true.shape[1]) % 4 > 0, true.shape[:2])
    return {"reconstruction": np.where(wrong[:, None, None], 255 - true, true), "hidden": hidden}


test_kit = spendflops.testing.evaluator_tests("reconstruction", predict=known)


def run(images, predicted, hidden, *, batch_size=2, **options):
    data = {"eval": ({"reconstruction": predicted, "hidden": hidden}, {"image": images})}
    return drive.score(Reconstruction(**options), data, about=drive.info(), batch_size=batch_size)


def test_the_score_is_the_mean_correlation_of_hidden_patches_that_are_not_flat():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 12, 3), np.uint8)
    images[1, :4, :4] = 77  # flat
    predicted = rng.normal(100, 50, (5, 6, 48)).astype(np.float32)
    predicted[2, 3] = 5.0  # says nothing of its patch: 0
    hidden = rng.random((5, 6)) < 0.6
    hidden[1, 0] = hidden[2, 3] = True
    expected = []
    for i, image in enumerate(images):
        for n, true in enumerate(patches_of(image[None].astype(float), 4)[0]):
            if hidden[i, n] and true.std() >= FLAT:
                expected.append(0.0 if (i, n) == (2, 3) else np.corrcoef(true, predicted[i, n])[0, 1])
    found = run(images, predicted, hidden)
    assert found["patches"] == len(expected) < hidden.sum()
    assert found["correlation"] == pytest.approx(np.mean(expected), abs=1e-5)
    # Neither the mean nor the scale of what is predicted counts.
    assert run(images, 0.1 * predicted - 9, hidden)["correlation"] == pytest.approx(found["correlation"], abs=1e-4)
    assert run(images, predicted, hidden, pictures=0) == pytest.approx(found)


def test_nothing_to_predict_and_no_numbers_are_refused():
    flat, rng = np.full((1, 8, 8, 3), 9, np.uint8), np.random.default_rng(0)
    with pytest.raises(DataError, match="no hidden patch of toy counts"):
        run(flat, np.zeros((1, 4, 48), np.float32), np.ones((1, 4), bool), batch_size=1)
    images = rng.integers(0, 256, (1, 8, 8, 3), np.uint8)
    with pytest.raises(DivergedError, match="not finite"):
        run(images, np.full((1, 4, 48), np.nan, np.float32), np.ones((1, 4), bool), batch_size=1)


def test_pictures_show_masked_predicted_true_and_difference():
    image = np.full((16, 16, 3), 200, np.uint8)
    seen = image.copy()
    seen[:8, 8:] = 150
    rows = {
        "eval": {"seen": seen[None], "hidden": np.array([[False, True, False, False]]), "seen_index": np.array([0])}
    }
    files = Reconstruction().files(rows, info=drive.info(), opened=lambda *_: [{"image": ArrayImage(image)}])
    picture = cv2.imdecode(np.frombuffer(files["example_0.jpg"], np.uint8), cv2.IMREAD_COLOR).astype(int)
    cell = 140 + pictures.GAP
    shades = []
    for place in range(4):
        y, x = place // 2 * (cell + pictures.BAR) + pictures.BAR, place % 2 * cell
        shades.append((picture[y + 35, x + 105, 0], picture[y + 105, x + 35, 0]))
    assert np.abs(np.array(shades) - [(HIDDEN, 200), (150, 200), (200, 200), (50, 0)]).max() <= 4


@pytest.mark.parametrize("method", ["mae", "mae norm_pix", "simmim"])
def test_what_the_methods_give(method):
    name, _, option = method.partition(" ")
    options = {"norm_pix": True} if option else {}
    if name == "mae":
        options |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    module = objective({"mae": MAE, "simmim": SimMIM}[name], **options)
    size, patch = module.backbone.spec.size, module.patch
    images = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    want = ("reconstruction", "hidden")
    given = module.predict({"image": images}, context(train=False), want=want)
    assert set(given) == set(want)
    predicted, hidden = (np.asarray(given[key]) for key in want)
    true = patches_of(images.astype(np.float64), patch)
    assert predicted.shape == true.shape and hidden.dtype == bool
    # One mask, whatever the image, its place and the key; the ratio is the method's.
    alone = module.predict({"image": images[1:2]}, context(train=False), want=want)
    assert (hidden == hidden[0]).all() and (np.asarray(alone["hidden"])[0] == hidden[0]).all()
    np.testing.assert_allclose(alone["reconstruction"][0], predicted[1], rtol=1e-3, atol=1e-2)
    assert 0.4 < hidden[0].mean() < 0.9
    if name == "mae":
        noise = np.zeros((3, hidden.shape[1]), np.float32)
        noise[:] = (np.random.default_rng(0).permutation(hidden.shape[1]) + 0.5) / hidden.shape[1]
        assert (hidden[0] == (noise[0] >= np.sort(noise[0])[int((~hidden[0]).sum())])).all()
        raw = np.asarray(module.reconstruct(module.backbone.normalise(images), noise, context(train=False))[0], float)
        mean, std = (np.array(x)[None, None, None] for x in (module.backbone.mean, module.backbone.std))
        if option:
            scaled = (images / 255.0 - mean) / std
            blocks = patches_of(scaled, patch)
            raw = raw * np.sqrt(blocks.var(-1, ddof=1, keepdims=True) + 1e-6) + blocks.mean(-1, keepdims=True)
        colours = 255 * (raw.reshape(*raw.shape[:2], -1, 3) * std + mean)
        np.testing.assert_allclose(predicted, colours.reshape(raw.shape), rtol=1e-4, atol=1e-2)
