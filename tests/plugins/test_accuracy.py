"""Top-1 accuracy: bounds, padding, order, labels that do not fit."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.accuracy import Accuracy

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import ArrayImage

test_kit = spendflops.testing.evaluator_tests(Accuracy, resize="crop")


def run(logits, labels, **options):
    data = {"eval": ({"logits": np.asarray(logits, np.float32)}, {"label": np.asarray(labels, np.int32)})}
    return drive.score(Accuracy(), data, about=drive.info(classes=5), **options)


def test_against_a_loop_for_any_batch_size_and_order():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((23, 5)), rng.integers(0, 5, 23)
    correct = sum(max(range(5), key=lambda c: logits[i, c]) == labels[i] for i in range(23))
    for batch_size in (1, 4, 23, 32):
        result = run(logits, labels, batch_size=batch_size)
        p = correct / 23
        assert result == {"accuracy": p, "accuracy_sd": pytest.approx((p * (1 - p) / 2.3) ** 0.5), "accuracy_n": 10,
                          "examples": 23}  # fmt: skip
    assert run(logits, labels, order=rng.permutation(23)) == result


def test_bounds():
    labels = np.arange(10) % 5
    assert run(np.eye(5)[labels], labels)["accuracy"] == 1
    assert run(-np.eye(5)[labels], labels)["accuracy"] == 0


def test_labels_outside_the_classes():
    with pytest.raises(DataError, match="2 of 4 labels"):
        run(np.zeros((4, 5)), [0, 5, -1, 1])
    with pytest.raises(DataError, match="no example"):
        Accuracy().result({"eval": {"correct": 0, "count": 0, "invalid": 0}}, {}, info=drive.info(5))


def test_preprocess_resizes_and_needs_labels():
    preprocess = Accuracy().preprocess(role="eval", info=drive.info(5), spec=drive.SPEC)
    assert preprocess.features == ("image", "label")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    entries = preprocess({"image": ArrayImage(pixels), "label": 3})
    assert set(entries) == {"image", "label"} and (entries["image"] == pixels).all()
    assert entries["label"] == 3 and entries["label"].dtype == np.int32
    squashed = preprocess({"image": ArrayImage(pixels[:4]), "label": 3})["image"]
    assert squashed.shape == (8, 8, 3) and squashed.dtype == np.uint8
    assert hash(preprocess) == hash(Accuracy().preprocess(role="eval", info=drive.info(5), spec=drive.SPEC))
    with pytest.raises(ConfigError, match="accuracy needs label"):
        Accuracy().preprocess(role="eval", info=drive.info(features=("image",)), spec=drive.SPEC)


def test_crops_and_the_protocol():
    ids = [Accuracy(**o).protocol for o in ({}, {"resize": "crop"}, {"resize": "crop", "crop_fraction": 1.0})]
    assert ids == ["accuracy/1:top1:resize=squash", "accuracy/1:top1:resize=crop0.875", "accuracy/1:top1:resize=crop1"]
    preprocess = Accuracy(resize="crop").preprocess(role="eval", info=drive.info(5), spec=drive.SPEC)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert (preprocess({"image": ArrayImage(pixels), "label": 0})["image"] == pixels[:8, :8]).all()
    with pytest.raises(ConfigError, match="unknown resize"):
        Accuracy(resize="center")
