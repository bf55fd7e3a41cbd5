"""The oracle of COCO's figures on examples worked out by hand, and against pycocotools."""

import contextlib
import io

import numpy as np
import oracles_detection_coco as coco
import pytest
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def near(value):
    return pytest.approx(value, abs=1e-12)


def truth(*box, image=1, category=1, **own):
    return {"image": image, "category": category, "box": box, **own}


def guess(score, *box, image=1, category=1):
    return {"image": image, "category": category, "box": box, "score": score}


A, B, C = (0, 0, 100, 100), (200, 0, 300, 100), (400, 0, 500, 100)
FAR = (0, 500, 100, 600)
MANY = [(30 * i, 0, 30 * i + 20, 20) for i in range(120)]


@pytest.mark.parametrize(
    "truths, guesses, want",
    [
        ([A], [(0.9, *A)], 1),
        ([A], [(0.9, *A), (0.8, *FAR)], 1),
        ([A], [(0.9, *FAR), (0.8, *A)], 0.5),
        ([A, B], [(0.9, *A)], 51 / 101),
        ([A, B, C], [(0.9, *A)], 34 / 101),
        ([A, B], [(0.9, *A), (0.8, *FAR), (0.7, *B)], (51 + 50 * 2 / 3) / 101),
        ([A], [(0.9, 0, 0, 100, 72)], 0.5),
        ([A], [(0.9, 0, 0, 100, 75)], 0.6),
        ([A], [(0.9, 0, 0, 100, 80)], 0.7),
        ([A], [(0.9, 0, 0, 100, 50)], 0.1),
        ([A], [(0.9, 0, 0, 100, 49)], 0),
        ([A], [(0.9, *A), (0.8, *A)], 1),
        ([A], [(0.5, *FAR), (0.5, *A)], 0.5),
        ([A], [(0.5, *A), (0.5, *FAR)], 1),
        ([A], [], 0),
        ([], [(0.5, *A)], -1),
        (MANY, [(0.9, *box) for box in MANY], 84 / 101),
        ([A, (0, 0, 100, 80)], [(0.9, 0, 0, 100, 90), (0.8, *A)], (7 + 2 * 51 / 101 + 0.5 * 51 / 101) / 10),
    ],
)
def test_average_precision(truths, guesses, want):
    found = coco.figures([truth(*box) for box in truths], [guess(*one) for one in guesses])
    assert found["AP"] == near(want)


def test_crowds_classes_and_recalls():
    crowd = truth(200, 0, 400, 100, crowd=True)
    inside = [guess(0.9, 210, 0, 220, 50), guess(0.9, 230, 0, 250, 50)]
    assert coco.figures([truth(*A), crowd], [*inside, guess(0.8, *A)])["AP"] == 1
    assert set(coco.figures([crowd], inside).values()) == {-1}
    # Inside a crowd, a truth that counts comes first, however small its overlap.
    assert coco.figures([truth(0, 0, 300, 100, crowd=True), truth(*A)], [guess(0.9, 0, 0, 100, 72)])["AP"] == 0.5
    assert coco.overlap(guess(1, 5, 0, 15, 10), truth(0, 0, 10, 10), "box") == 1 / 3
    assert coco.overlap(guess(1, 5, 0, 15, 10), truth(0, 0, 10, 10, crowd=True), "box") == 0.5
    two = [truth(*A), truth(*A, category=2)]
    assert coco.figures(two, [guess(1, *A)])["AP"] == 0.5
    assert coco.figures(two[:1], [guess(1, *A), guess(1, *A, category=2)])["AP"] == 1
    found = coco.figures([truth(*box) for box in MANY], [guess(0.9, *box) for box in MANY])
    assert [found[name] for name in ("AR1", "AR10", "AR100")] == near([1 / 120, 10 / 120, 100 / 120])
    # 0.9 with both truths: the last is taken, and the first left for a box that fits it.
    both, first = guess(0.9, *A), guess(0.8, 0, 0, 100, 90)
    found = coco.figures([truth(0, 0, 100, 90), truth(0, 10, 100, 100)], [both, first])
    assert found["AP"] == near((9 + 0.5 * 51 / 101) / 10)
    found = coco.figures([truth(*A)], [guess(0.9, 0, 0, 100, 72)])
    assert [found[name] for name in ("AP50", "AP75", "AR100")] == [1, 0, 0.5]


def test_areas():
    def averages(*truths, guesses=()):
        found = coco.figures(list(truths), list(guesses))
        return [found[name] for name in ("APs", "APm", "APl")]

    assert averages(truth(0, 0, 32, 32)) == [0, 0, -1]  # both ends count
    assert averages(truth(0, 0, 96, 96)) == [-1, 0, 0]
    assert averages(truth(0, 0, 96, 96, area=1000)) == [0, -1, -1]  # the annotation's own area
    small, large = truth(0, 0, 20, 20), truth(*B)
    wrong = guess(0.9, 500, 500, 600, 600)  # a large miss is none of small truths
    assert averages(small, large, guesses=[wrong, guess(0.8, 0, 0, 20, 20), guess(0.7, *B)]) == [1, -1, 0.5]


def random_scenes(seed, shape):
    rng = np.random.default_rng(seed)
    truths, guesses = [], []
    for image in range(1, 13):
        for _ in range(rng.integers(0, 7)):
            left, top = rng.integers(0, 90, 2)
            wide, tall = rng.choice([12, 32, 50, 96, 120], 2)
            one = truth(left, top, left + wide, top + tall, image=image, category=int(rng.integers(1, 4)))
            truths.append({**one, "crowd": bool(rng.random() < 0.1), "area": float(wide * tall * rng.choice([1, 0.6]))})
        for _ in range(rng.integers(0, 9)):
            own = [one for one in truths if one["image"] == image] or [truth(5, 5, 50, 50)]
            chosen = own[rng.integers(len(own))]
            box = np.asarray(chosen["box"]) + rng.integers(-6, 7, 4)
            score = float(rng.integers(1, 8)) / 8
            guesses.append(guess(score, *box, image=image, category=chosen["category"]))
    if shape == "mask":
        for one in truths + guesses:
            canvas = rng.random((220, 220)) < 0.95
            left, top, right, bottom = np.maximum(one["box"], 0)
            one["mask"] = np.zeros((220, 220), bool)
            one["mask"][top:bottom, left:right] = canvas[top:bottom, left:right]
    return truths, guesses


def reference(truths, guesses, shape):
    """The twelve figures of pycocotools."""

    def row(one):
        left, top, right, bottom = (float(value) for value in one["box"])
        made = {
            "image_id": one["image"],
            "category_id": one["category"],
            "bbox": [left, top, right - left, bottom - top],
        }
        if shape == "mask":
            made["segmentation"] = run_lengths.encode(np.asfortranarray(one["mask"], np.uint8))
        return made

    data = COCO()
    data.dataset = {
        "images": [
            {"id": image, "height": 220, "width": 220} for image in sorted({one["image"] for one in truths + guesses})
        ],
        "categories": [{"id": category} for category in sorted({one["category"] for one in truths})],
        "annotations": [
            {**row(one), "id": i, "area": one["area"], "iscrowd": int(one["crowd"])} for i, one in enumerate(truths, 1)
        ],
    }
    rows = [{**row(one), "score": one["score"]} for one in guesses]
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        found = data.loadRes([{k: v for k, v in one.items() if shape == "box" or k != "bbox"} for one in rows])
        evaluation = COCOeval(data, found, "bbox" if shape == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("shape, seed", [("box", 0), ("box", 1), ("box", 2), ("box", 3), ("mask", 4)])
def test_figures_are_those_of_pycocotools(shape, seed):
    truths, guesses = random_scenes(seed, shape)
    found = list(coco.figures(truths, guesses, shape=shape).values())
    assert all(0 < value < 1 for value in found)
    np.testing.assert_allclose(found, reference(truths, guesses, shape), atol=1e-12)
