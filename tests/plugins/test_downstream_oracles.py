"""Scores of the library against oracles that share nothing with it, on random data; T1, T11 and T12 of the oracles."""

import dataclasses
import itertools
from fractions import Fraction

import drive_evaluator as drive
import numpy as np
import oracles_downstream as oracle
import pytest
from spendflops_plugins.accuracy import Accuracy
from spendflops_plugins.knn import KNN
from spendflops_plugins.mapped_accuracy import MappedAccuracy
from spendflops_plugins.segmentation_miou import SegmentationMIoU

from spendflops.parts import metrics
from spendflops.parts.images import ArrayImage
from spendflops.parts.ridge import fit_ridge

GT = [[[0, 0, 1, 1], [0, 255, 1, 2]], [[0, 0, 0, 0], [0, 0, 1, 255]]]
PR = [[[0, 1, 1, 1], [0, 0, 1, 2]], [[0, 0, 0, 0], [0, 1, 1, 0]]]


def test_t1_the_oracle_and_its_variants():
    miou, pixels, mean, averaged, ious = oracle.segmentation(GT, PR, 4)
    assert (miou, pixels, mean, averaged) == (Fraction(22, 27), Fraction(12, 14), Fraction(25, 27), 3)
    assert ious == [Fraction(7, 9), Fraction(2, 3), 1, None]
    variants = {("zero", False): 0.611111, ("skipped", True): 0.736111, ("zero", True): 0.468750}
    for (absent, per_image), want in variants.items():
        value = oracle.segmentation(GT, PR, 4, per_image=per_image, absent=absent)[0]
        assert float(value) == pytest.approx(want, abs=5e-7)


def maps(seed, classes, shape=(3, 7, 6)):
    """Label maps and predictions that agree in part; ignored pixels, and a class that only one of them has."""
    rng = np.random.default_rng(seed)
    labels, guesses = rng.integers(0, max(1, classes - 1), (2, *shape))
    guesses = np.where(rng.random(shape) < 0.5, labels, guesses)
    if seed % 2:
        guesses[rng.random(shape) < 0.1] = classes - 1
    labels[rng.random(shape) < 0.3] = oracle.IGNORE
    labels[:, 0, 0] = 0
    return labels, guesses


@pytest.mark.parametrize("seed, classes", itertools.product(range(4), (2, 5, 12)))
def test_segmentation(seed, classes):
    labels, guesses = maps(seed, classes)
    confusion = metrics.confusion_matrix(labels, guesses, classes)
    for absent in ("skipped", "zero"):
        miou, pixels, mean, averaged, ious = oracle.segmentation(labels, guesses, classes, absent=absent)
        scores = metrics.segmentation_scores(confusion, absent=absent)
        for name, value in {"miou": miou, "pixel_accuracy": pixels, "mean_accuracy": mean}.items():
            assert scores[name] == pytest.approx(float(value), abs=1e-12)
        assert scores["classes"] == averaged
    values = [np.nan if value is None else float(value) for value in ious]
    np.testing.assert_allclose(metrics.iou(confusion), values, atol=1e-12)


@pytest.mark.parametrize("average, absent", itertools.product(("dataset", "image"), ("skipped", "zero")))
@pytest.mark.parametrize("seed", [0, 1])
def test_segmentation_miou(seed, average, absent):
    labels, guesses = maps(seed, 5)
    want = oracle.segmentation(labels, guesses, 5, per_image=average == "image", absent=absent)
    data = {"eval": ({"seg_logits": np.eye(5, dtype=np.float32)[guesses]}, {"mask": labels.astype(np.uint8)})}
    evaluator = SegmentationMIoU(average=average, absent=absent)
    result = drive.score(evaluator, data, about=drive.info(mask_classes=5), batch_size=2)
    found = [result[name] for name in ("miou", "pixel_accuracy", "mean_accuracy", "classes")]
    assert found == pytest.approx([float(value) for value in want[:4]], abs=1e-12)
    by_class = {f"iou/m{c}": float(value) for c, value in enumerate(want[4]) if value is not None}
    assert {name: result[name] for name in result if name.startswith("iou/")} == pytest.approx(by_class, abs=1e-12)


def blobs(count, seed, classes=4, width=5):
    centres = np.random.default_rng(9).standard_normal((classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + rng.standard_normal((count, width))).astype(np.float32), labels.astype(np.int32)


def test_t11_the_oracle():
    # Rows whose cosines with (1, 0) are 0.9, 0.8 and 0.7.
    bank = [[c, (1 - c * c) ** 0.5] for c in (0.9, 0.8, 0.7)]
    for temperature, answer in ((0.07, 0), (1.0, 1)):
        assert oracle.knn(bank, [0, 1, 1], [[1.0, 0.0]], k=3, temperature=temperature) == [answer]


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (7, 0.07), (7, 1.0), (30, 0.3)])
def test_weighted_neighbours(k, temperature):
    bank, query = blobs(30, 0), blobs(25, 1)
    answers = oracle.knn(*bank, query[0], k=k, temperature=temperature)
    data = {
        role: ({"features": drive.features_of(x)}, {"label": y})
        for role, (x, y) in {"bank": bank, "query": query}.items()
    }
    result = drive.score(KNN(k=k, temperature=temperature), data, about=drive.info(4), batch_size=8)
    right = sum(answer == label for answer, label in zip(answers, query[1], strict=True))
    assert 0 < right < 25 and result["accuracy"] == pytest.approx(right / 25, abs=1e-12)


def test_t12_the_oracle():
    for dual in (False, True):
        found = oracle.few_shot([[0.0], [2.0]], [0, 1], [[2.0]], 2, dual=dual)
        # Standardised by 1 + 1e-5, which the rounded numbers of the case do not show.
        assert found == [pytest.approx([-0.0019493, 0.0019493], abs=5e-8)]


@pytest.mark.parametrize("count, width, penalty", [(12, 3, 1024), (4, 6, 1024), (9, 4, 2)])
def test_few_shot_ridge(count, width, penalty):
    shots, query = blobs(count, 2, 3, width), blobs(5, 3, 3, width)
    want = oracle.few_shot(*shots, query[0], 3, penalty=penalty)
    np.testing.assert_allclose(oracle.few_shot(*shots, query[0], 3, penalty=penalty, dual=True), want, atol=1e-12)
    targets = np.where(np.arange(3) == shots[1][:, None], 1.0, -1.0)
    for dual in (False, True):
        ridge = fit_ridge(shots[0], targets, penalty=penalty, intercept="constant_100", dual=dual)
        np.testing.assert_allclose(ridge(query[0]), want, atol=1e-10)


def test_top_one():
    rng = np.random.default_rng(4)
    logits, labels = rng.integers(0, 4, (40, 6)).astype(np.float32), rng.integers(0, 6, 40).astype(np.int32)
    right, counted = oracle.top_k(logits, [[label] for label in labels])
    result = drive.score(Accuracy(), {"eval": ({"logits": logits}, {"label": labels})}, about=drive.info(6))
    assert counted == 40 and 0 < right < 40 and result["accuracy"] == pytest.approx(right / 40, abs=1e-12)


STANDS_FOR = {0: {1}, 3: {1, 2}, 4: {0}, 7: {3, 5}, 8: {5}, 9: {2}, 10: {0}}
"""Eleven classes of a model, seven of which stand for classes of a test of six; for class 4 none does."""


@pytest.mark.parametrize("unmapped", ["excluded", "wrong"])
@pytest.mark.parametrize("several", [False, True])
def test_top_k_with_a_map_of_classes(several, unmapped):
    rng = np.random.default_rng(5)
    logits = rng.integers(0, 9, (60, 11)).astype(np.float32)  # with ties
    labels = [rng.choice(6, size=rng.integers(0, 4) if several else 1, replace=False) for _ in range(60)]
    name = "labels" if several else "label"
    evaluator = MappedAccuracy(
        labels=name, class_map=tuple((c, *sorted(to)) for c, to in STANDS_FOR.items()), unmapped=unmapped
    )
    about = drive.info(6, features=("image", "label", "labels"))
    spec = dataclasses.replace(drive.SPEC, classes=tuple(f"m{i}" for i in range(11)))
    preprocess = evaluator.preprocess(role="eval", info=about, spec=spec)
    image = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    given = [own.astype(np.int32) if several else int(own[0]) for own in labels]
    verdicts = np.stack([preprocess({"image": image, name: each})["verdicts"] for each in given])
    result = drive.score(evaluator, {"eval": ({"logits": logits}, {"verdicts": verdicts})}, about=about, batch_size=7)
    for key, k in (("accuracy", 1), ("accuracy_top5", 5)):
        right, counted = oracle.top_k(logits, labels, stands_for=STANDS_FOR, k=k, excluded=unmapped == "excluded")
        assert 0 < right < counted < 60
        assert result[key] == pytest.approx(right / counted, abs=1e-12) and result["examples"] == counted
