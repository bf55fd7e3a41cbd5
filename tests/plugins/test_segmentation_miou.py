"""Segmentation mIoU through compiled steps: T1, padding, order, upsampling, wrong classes."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.segmentation_miou import SegmentationMIoU

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import ArrayImage

GT = np.array([[[0, 0, 1, 1], [0, 255, 1, 2]], [[0, 0, 0, 0], [0, 0, 1, 255]]], np.uint8)
PR = np.array([[[0, 1, 1, 1], [0, 0, 1, 2]], [[0, 0, 0, 0], [0, 1, 1, 0]]])


def run(logits, masks, classes=4, evaluator=None, **options):
    data = {"eval": ({"seg_logits": np.asarray(logits, np.float32)}, {"mask": masks})}
    return drive.score(evaluator or SegmentationMIoU(), data, about=drive.info(mask_classes=classes), **options)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_t1_for_any_batch_size_and_order(batch_size):
    for order in ([0, 1], [1, 0]):
        result = run(np.eye(4)[PR], GT, batch_size=batch_size, order=np.array(order))
        assert result["miou"] == pytest.approx(22 / 27) and result["pixel_accuracy"] == 12 / 14
        assert result["mean_accuracy"] == pytest.approx(25 / 27) and result["classes"] == 3
        assert result["iou/m0"] == 7 / 9 and "iou/m3" not in result


def test_bounds():
    masks = np.random.default_rng(0).integers(0, 3, (5, 6, 6)).astype(np.uint8)
    assert run(np.eye(3)[masks], masks, 3)["miou"] == 1
    worst = run(np.eye(3)[(masks + 1) % 3], masks, 3)
    assert worst["miou"] == 0 and worst["pixel_accuracy"] == 0


def test_logits_are_upsampled_before_the_argmax():
    logits = np.zeros((1, 1, 4, 2))
    logits[0, 0, :, 1] = [-3, -1, 2, 4]  # changes sign a third of the way from the second centre to the third
    mask = np.array([[[0, 0, 0, 0, 1, 1, 1, 1]]], np.uint8).repeat(2, axis=1)
    # Centres of 8 pixels lie at (-.25, .25, .75, 1.25, 1.75, ...); the sign changes at 4/3.
    assert run(logits, mask, 2)["miou"] == 1


def test_what_is_refused():
    with pytest.raises(DataError, match="2 pixels"):
        run(np.eye(2)[np.zeros((1, 2, 2), int)], np.array([[[0, 2], [3, 255]]], np.uint8), 2)
    with pytest.raises(DataError, match="no pixel"):
        run(np.eye(2)[np.zeros((1, 2, 2), int)], np.full((1, 2, 2), 255, np.uint8), 2)
    with pytest.raises(ConfigError, match="segments 2 classes, toy has 4"):
        run(np.eye(2)[np.zeros((1, 2, 2), int)], np.zeros((1, 2, 2), np.uint8), 4)


def test_preprocess_keeps_labels_exact():
    preprocess = SegmentationMIoU().preprocess(role="eval", info=drive.info(mask_classes=3), spec=drive.SPEC)
    assert preprocess.features == ("image", "mask")
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8), rng.choice([0, 2, 255], (16, 24)).astype(np.uint8)
    entries = preprocess({"image": ArrayImage(pixels), "mask": mask})
    assert entries["image"].shape == (8, 8, 3) and entries["mask"].dtype == np.uint8
    assert (entries["mask"] == mask[1::2, 1::3]).all()


VINY = {"average": "image", "absent": "zero"}


def test_t11_a_class_that_is_absent_counts_as_zero_in_viny():
    masks = np.zeros((2, 4, 4), np.uint8)
    assert run(np.eye(3)[masks], masks, 3, SegmentationMIoU(**VINY))["miou"] == pytest.approx(1 / 3)
    assert run(np.eye(3)[masks], masks, 3)["miou"] == 1


@pytest.mark.parametrize("absent", ["zero", "skipped"])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_scores_of_single_images_are_averaged(absent, batch_size):
    rng = np.random.default_rng(1)
    masks, predicted = (rng.integers(0, 3, (5, 4, 4)).astype(np.uint8) for _ in range(2))
    masks[0], predicted[0] = 1, 1
    masks[3, :2] = 255
    found = run(np.eye(4)[predicted], masks, 4, SegmentationMIoU(average="image", absent=absent), batch_size=batch_size)
    ious, right = [], []
    for mask, guess in zip(masks, predicted, strict=True):
        seen = mask != 255
        per = []
        for c in range(4):
            union = ((mask == c) | (guess == c)) & seen
            if union.any() or absent == "zero":
                per.append(((mask == c) & (guess == c) & seen).sum() / max(union.sum(), 1))
        ious.append(np.mean(per))
        right.append((mask == guess)[seen].mean())
    assert found["miou"] == pytest.approx(np.mean(ious)) and found["pixel_accuracy"] == pytest.approx(np.mean(right))


def test_words_that_are_none():
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        SegmentationMIoU(average="images")
    with pytest.raises(ConfigError, match="unknown absent"):
        SegmentationMIoU(absent="nan")
    assert SegmentationMIoU(**VINY).protocol != SegmentationMIoU().protocol
