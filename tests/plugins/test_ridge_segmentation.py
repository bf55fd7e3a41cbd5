"""Ridge segmentation: patch targets, and the score against loops over pixels."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.ridge_segmentation import RidgeSegmentation, patch_targets

from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts.splits import label_subsets
from spendflops.testing.samples import KitData

GRID = (2, 2)


def scenes(count, seed, classes=3, noise=0.3, width=4):
    """Masks of 8 x 8 in blocks of 4 with some noise, and tokens that know the commonest class of their block."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (count, *GRID))
    masks = blocks.repeat(4, axis=1).repeat(4, axis=2)
    masks = np.where(rng.random(masks.shape) < 0.1, rng.integers(0, classes, masks.shape), masks)
    masks = np.where(rng.random(masks.shape) < 0.1, 255, masks).astype(np.uint8)
    codes = np.random.default_rng(99).standard_normal((classes, width))
    tokens = codes[blocks].reshape(count, 4, width) + noise * rng.standard_normal((count, 4, width))
    return tokens.astype(np.float32), masks


def role(tokens, masks, grid=GRID):
    return {"features": drive.features_of(tokens.mean(axis=1), tokens, grid)}, {"mask": masks}


def run(bank, query, mask_classes=3, grid=GRID, batch_size=4, order=None, **options):
    data = {"bank": role(*bank, grid), "query": role(*query, grid)}
    about = drive.info(mask_classes=mask_classes)
    return drive.score(RidgeSegmentation(**options), data, about=about, batch_size=batch_size, order=order)


def slow_targets(masks, classes, majority):
    out = np.zeros((len(masks), 2, 2, classes))
    for b, i, j in np.ndindex(len(masks), 2, 2):
        pixels = [p for p in masks[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel() if p != 255]
        counts = [pixels.count(c) for c in range(classes)]
        if pixels and majority:
            out[b, i, j, counts.index(max(counts))] = 1
        elif pixels:
            out[b, i, j] = np.array(counts) / len(pixels)
    return out


def slow_up(scores, y, x):
    """Bilinear value of a 2 x 2 grid at pixel (y, x) of 8 x 8."""
    v, u = (min(max((p + 0.5) / 4 - 0.5, 0), 1) for p in (y, x))
    return (
        (1 - v) * (1 - u) * scores[0, 0]
        + (1 - v) * u * scores[0, 1]
        + v * (1 - u) * scores[1, 0]
        + v * u * scores[1, 1]
    )


def slow(bank, query, penalty, classes=3, majority=False, power=0.0):
    targets = slow_targets(bank[1], classes, majority).reshape(-1, classes)
    x = bank[0].reshape(-1, bank[0].shape[-1]).astype(float)
    known = targets.sum(axis=1) > 0
    x, targets = x[known], targets[known]
    prior = [sum(row[c] for row in targets) / len(targets) for c in range(classes)]
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    weights = np.linalg.solve(x.T @ x + np.diag([penalty] * (x.shape[1] - 1) + [0]), x.T @ targets)
    hits, either = np.zeros(classes), np.zeros(classes)
    for tokens, mask in zip(*query, strict=True):
        scores = (np.column_stack([(tokens - mean) / scale, np.ones(4)]) @ weights).reshape(2, 2, classes)
        scores = np.array([[[v / prior[c] ** power for c, v in enumerate(cell)] for cell in row] for row in scores])
        for y, x_ in np.ndindex(8, 8):
            label, answer = mask[y, x_], int(np.argmax(slow_up(scores, y, x_)))
            if label != 255:
                hits[label] += label == answer
                for c in {int(label), answer}:
                    either[c] += 1
    return float(np.mean(hits[either > 0] / either[either > 0]))


@pytest.mark.parametrize("majority", [False, True])
def test_patch_targets(majority):
    _, masks = scenes(6, 0)
    masks[0, :4, :4] = 255
    got = patch_targets(masks, GRID, 3, majority=majority)
    np.testing.assert_allclose(got, slow_targets(masks, 3, majority), rtol=1e-15)
    assert not got[0, 0, 0].any()
    with pytest.raises(ConfigError, match="3 x 3 tokens"):
        patch_targets(masks, (3, 3), 3)


@pytest.mark.parametrize("target", ["soft", "majority"])
def test_against_loops_over_pixels(target):
    bank, query = scenes(12, 0), scenes(10, 1)
    bank[1][0, :4, :4] = 255
    result = run(bank, query, regularisation=2.0, target=target)
    assert result["miou"] == pytest.approx(slow(bank, query, 2.0, majority=target == "majority"), rel=1e-12)
    assert 0.3 < result["miou"] < 0.95 and result["classes"] == 3 and "miou_sd" not in result


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_classes_are_divided_by_their_prior(power):
    # One class is four times as common: without the division it answers for the others, too.
    rng = np.random.default_rng(5)
    bank, query = scenes(12, 0, noise=2.0), scenes(10, 1, noise=2.0)
    for masks in (bank[1], query[1]):
        masks[rng.random(masks.shape) < 0.6] = 0
    plain, result = (run(bank, query, regularisation=2.0, prior_power=p) for p in (0.0, power))
    assert result["miou"] == pytest.approx(slow(bank, query, 2.0, power=power), rel=1e-12)
    assert plain["miou"] != result["miou"]


def test_subsets_of_images():
    bank, query = scenes(20, 0), scenes(10, 1)
    result = run(bank, query, labels=5, subsets=3, regularisation=2.0)
    draws = label_subsets(20, labels=5, subsets=3)
    want = [slow((bank[0][d], bank[1][d]), query, 2.0) for d in draws]
    assert [result[f"miou/{i}"] for i in range(3)] == pytest.approx(want)
    assert result["miou"] == pytest.approx(np.mean(want)) and result["miou_sd"] == pytest.approx(np.std(want, ddof=1))
    assert RidgeSegmentation(labels=5).spread == "3 label subsets"


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_and_order_change_nothing(batch_size):
    bank, query = scenes(8, 0), scenes(9, 1)
    order = np.random.default_rng(0).permutation(9)
    assert run(bank, query, labels=4, batch_size=batch_size, order=order) == run(bank, query, labels=4)


def test_bounds():
    def flat(seed):
        """One class an image, without noise: every pixel can be right."""
        labels = np.random.default_rng(seed).permutation(np.arange(12) % 3)
        masks = np.broadcast_to(labels[:, None, None], (12, 8, 8)).astype(np.uint8)
        return np.eye(3)[labels][:, None].repeat(4, axis=1).astype(np.float32), masks

    bank, query = flat(0), flat(1)
    result = run(bank, query)
    assert result["miou"] == 1 and result["pixel_accuracy"] == 1
    assert run(bank, (query[0], ((query[1] + 1) % 3).astype(np.uint8)))["miou"] == 0
    # A class that no mask has is left out, and the number says so.
    assert run(bank, query, mask_classes=5)["classes"] == 3


def test_what_is_refused():
    bank, query = scenes(4, 0), scenes(4, 1)
    with pytest.raises(DataError, match="has label 2"):
        run(bank, query, mask_classes=2)
    drive.check(RidgeSegmentation(labels=48), bank=(KitData(), "train"), query=(KitData(), "test"))
    with pytest.raises(DataError, match="49 labelled"):
        drive.check(RidgeSegmentation(labels=49), bank=(KitData(), "train"), query=(KitData(), "test"))
    with pytest.raises(DataError, match="5 labelled"):
        run(bank, query, labels=5)
    with pytest.raises(DataError, match="ignored"):
        run((bank[0], np.full_like(bank[1], 255)), query)
    with pytest.raises(DivergedError):
        run((bank[0] * np.nan, bank[1]), query)
    with pytest.raises(ConfigError, match="grid"):
        run(bank, query, grid=None)
    for options in (
        {"target": "hard"},
        {"regularisation": "gcv"},
        {"labels": 0},
        {"subsets": 0},
        {"seed": -1},
        {"prior_power": 2.0},
    ):
        with pytest.raises(ConfigError):
            RidgeSegmentation(**options)
    with pytest.raises(ConfigError, match="needs mask"):
        RidgeSegmentation().preprocess(role="bank", info=drive.info(features=("image", "label")), spec=drive.SPEC)


def test_protocol_says_what_changes_the_score():
    default = RidgeSegmentation().protocol
    assert default == "ridge_segmentation/1:tokens:soft:labels=all:lambda=loo:prior=0:masks=input_size"
    variants = [{"labels": 8}, {"labels": 8, "subsets": 5}, {"labels": 8, "seed": 1}, {"target": "majority"}]
    assert (
        len(
            {
                default,
                *(RidgeSegmentation(**v).protocol for v in [*variants, {"regularisation": 3.0}, {"prior_power": 1.0}]),
            }
        )
        == 7
    )
