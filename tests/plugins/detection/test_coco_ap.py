"""COCO AP through compiled steps: T3 row by row, random scenes against the definition and pycocotools, masks."""

import dataclasses
import functools
import io
import json
import sys

import numpy as np
import oracles_detection_coco as oracle
import PIL.Image
import pytest
import scorelib as lib
from random_scenes import CANVAS, as_read, named, scenes
from spendflops_plugins.coco import CATEGORIES, COCO
from spendflops_plugins.detection.average_precision import Detected
from spendflops_plugins.detection.coco_ap import CocoAP
from spendflops_plugins.detection.evaluation import DRAWN, _best, _true
from spendflops_plugins.detection.ground_truth import Fit, Truth
from spendflops_plugins.detection.masks import paste

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.types import DatasetInfo, InputSpec

A, B, C, FAR = [0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50], [300, 300, 350, 350]


def one(true, found, scores, *, labels=None, crowd=None, found_labels=None, classes=2, **how):
    """All figures of one image."""
    more = {"crowd": np.array(crowd if crowd is not None else [False] * len(true))}
    data = lib.Scenes([lib.scene(CANVAS, true, labels, **more)], classes=classes)
    return lib.score(CocoAP(), data, [lib.guesses(found, scores, found_labels)], canvas=CANVAS, **how)


def tall(height):
    return [0, 0, 100, height]


GRID = [[20 * i, 20 * j, 20 * i + 15, 20 * j + 15] for i in range(12) for j in range(10)]
T3 = {
    "a perfect box": (([A], [A], [0.9]), 1),
    "right, then wrong": (([A], [A, FAR], [0.9, 0.8]), 1),
    "wrong, then right": (([A], [FAR, A], [0.9, 0.8]), 0.5),
    "one of two": (([A, B], [A], [0.9]), 51 / 101),
    "one of three": (([A, B, C], [A], [0.9]), 34 / 101),
    "right, wrong, right": (([A, B], [A, FAR, B], [0.9, 0.8, 0.7]), (51 + 50 * 2 / 3) / 101),
    "IoU 0.72": (([tall(100)], [tall(72)], [0.9]), 0.5),
    "IoU 0.75": (([tall(100)], [tall(75)], [0.9]), 0.6),
    "IoU 0.80": (([tall(100)], [tall(80)], [0.9]), 0.7),
    "IoU 0.50": (([tall(100)], [tall(50)], [0.9]), 0.1),
    "IoU 0.49": (([tall(100)], [tall(49)], [0.9]), 0),
    "a duplicate": (([A], [A, A], [0.9, 0.8]), 1),
    "120 of one class": ((GRID, GRID, np.linspace(0.99, 0.5, 120)), 84 / 101),
    "equal scores, wrong first": (([A], [FAR, A], [0.5, 0.5]), 0.5),
    "equal scores, right first": (([A], [A, FAR], [0.5, 0.5]), 1),
    # Annotations that are counted from 0 give 0.252475 here.
    "two perfect boxes": (([A, B], [A, B], [0.9, 0.8]), 1),
    "the better fit is taken": (
        ([tall(100), tall(80)], [tall(90), tall(100)], [0.9, 0.8]),
        (7 + 2 * 51 / 101 + 0.5 * 51 / 101) / 10,
    ),
}


@pytest.mark.parametrize(("given", "expected"), T3.values(), ids=T3)
def test_t3(given, expected):
    assert one(*given)["box_ap"] == pytest.approx(expected, abs=1e-12)


def test_t3_of_120_boxes_100_count():
    assert one(GRID, GRID, np.linspace(0.99, 0.5, 120))["box_ar100"] == pytest.approx(100 / 120)


def test_t3_classes():
    alone = one([A], [A], [0.9])
    # Found, but never there: the class does not count.
    assert one([A], [A, B], [0.9, 0.8], found_labels=[0, 1]) == alone
    # There, but never found: it counts 0.
    assert one([A, B], [A], [0.9], labels=[0, 1])["box_ap"] == pytest.approx(0.5)


def test_t3_crowds():
    region = [100, 100, 200, 200]
    inside = one([A, region], [[110, 110, 150, 150], A], [0.9, 0.8], crowd=[False, True])
    assert inside["box_ap"] == 1
    # Half of the detection lies in the crowd: enough at 0.5, a wrong one beyond. Many may lie in it.
    half = [[90, 100, 110, 120], [90, 130, 110, 150], A]
    mixed = one([A, region], half, [0.9, 0.85, 0.8], crowd=[False, True])
    assert mixed["box_ap50"] == 1 and mixed["box_ap75"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="no object of scenes counts"):
        one([region], [A], [0.9], crowd=[True])
    # A class with crowds alone is one without objects.
    assert one([A, region], [A], [0.9], labels=[0, 1], crowd=[False, True])["box_ap"] == 1


@pytest.mark.parametrize(("area", "sizes"), [(1023, "s"), (1024, "sm"), (9216, "ml"), (9217, "l")])
def test_t3_an_area_on_a_bound_is_in_both_ranges(area, sizes):
    data = lib.Scenes([lib.scene(CANVAS, [A], area=np.array([area], np.float32))])
    found = lib.score(CocoAP(), data, [lib.guesses([A], [0.9])], canvas=CANVAS)
    assert {name[7] for name in found if name.startswith("box_ap_")} == set(sizes)
    assert all(value == 1 for name, value in found.items() if name != "box_ar1") and "box_ap" in found


def test_the_area_is_the_annotations_else_the_masks_else_the_boxes():
    mask = lib.rectangles(CANVAS, [[0, 0, 10, 10]])
    for more, size in (({}, "medium"), ({"instance_masks": mask}, "small"),
                       ({"instance_masks": mask, "area": np.array([9999.0])}, "large")):  # fmt: skip
        data = lib.Scenes([lib.scene(CANVAS, [A], **more)])
        found = lib.score(CocoAP(), data, [lib.guesses([A], [0.9])], canvas=CANVAS)
        assert [name for name in found if name.startswith("box_ap_")] == [f"box_ap_{size}"]


@pytest.mark.parametrize("seed", [0, 2])
def test_figures_are_those_of_the_definition(seed):
    data, predictions, images = scenes(seed)
    found = lib.score(CocoAP(masks=True), data, predictions, canvas=CANVAS)
    wanted = {}
    for kind in ("box", "mask"):
        wanted |= named(oracle.figures(*as_read(images, kind), shape=kind), kind)
    assert found == pytest.approx(wanted, abs=1e-10) and list(found) == list(wanted)
    assert len(wanted) >= 20 and all(0.05 < wanted[f"{kind}_ap"] < 0.95 for kind in ("box", "mask"))


def test_batches_order_and_room_change_nothing():
    data, predictions, _ = scenes(5)
    evaluator = CocoAP(masks=True)
    found = lib.score(evaluator, data, predictions, canvas=CANVAS)
    files = lib.kept(evaluator, data, predictions, canvas=CANVAS)
    order = np.random.default_rng(0).permutation(12).tolist()
    for how in ({"batch_size": 5}, {"batch_size": 16}, {"order": order}, {"order": order, "batch_size": 1}):
        assert lib.score(evaluator, data, predictions, canvas=CANVAS, **how) == found
        assert lib.kept(evaluator, data, predictions, canvas=CANVAS, **how) == files


def test_equal_scores_count_in_the_order_of_the_image_ids():
    boxes = [[0, 0, 40, 40], [200, 200, 240, 240]]
    for ids, ap in (((5, 9), 51 / 101), ((9, 5), 0.5 * 51 / 101)):
        data = lib.Scenes([lib.scene(CANVAS, [boxes[0]], image_id=i) for i in ids])
        predictions = [lib.guesses([boxes[0]], [0.5]), lib.guesses([boxes[1]], [0.5])]
        for order in ((0, 1), (1, 0)):
            found = lib.score(CocoAP(), data, predictions, canvas=CANVAS, order=order)
            assert found["box_ap"] == pytest.approx(ap)


def test_the_results_file_gives_pycocotools_the_same_score(tmp_path):
    from pycocotools.coco import COCO as Api
    from pycocotools.cocoeval import COCOeval

    ids = (2, 7, 90)
    data, predictions, images = scenes(2, box_class_ids=ids)
    evaluator = CocoAP(masks=True)
    found = lib.score(evaluator, data, predictions, canvas=CANVAS)
    results = json.loads(lib.kept(evaluator, data, predictions, canvas=CANVAS)["detections.json"])
    assert {line["category_id"] for line in results} == set(ids)
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}

    from pycocotools import mask as runs

    known = Api()
    known.dataset = {"images": [], "annotations": [], "categories": [{"id": i} for i in ids], "info": {}}
    for image, sample in zip(images, data.samples, strict=True):
        place = sample["image_id"]
        known.dataset["images"].append({"id": place, "height": image["size"][0], "width": image["size"][1]})
        for (left, top, right, bottom), label, crowd, area, mask in zip(*image["true"], strict=True):
            known.dataset["annotations"].append({
                "id": len(known.dataset["annotations"]) + 1, "image_id": place, "category_id": ids[label],
                "bbox": [left, top, right - left, bottom - top], "area": float(area), "iscrowd": int(crowd),
                "segmentation": runs.encode(np.asfortranarray(mask, np.uint8)),
            })  # fmt: skip
    known.createIndex()
    order = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    order += ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
    for kind, name, left_out in (("box", "bbox", ()), ("mask", "segm", ("bbox",))):
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps([{k: v for k, v in line.items() if k not in left_out} for line in results]))
        metric = COCOeval(known, known.loadRes(str(path)), name)
        metric.evaluate(), metric.accumulate(), metric.summarize()
        assert [found.get(f"{kind}_{figure}", -1) for figure in order] == pytest.approx(
            metric.stats.tolist(), abs=1e-12
        )


# Stored pixels.


def test_boxes_come_back_in_stored_pixels_clipped_to_the_image():
    # 300 x 200 pixels on a canvas of 160 x 120: 0.5333 would be too wide, 0.5333 * 200 rounds to 107 rows of 160.
    data = lib.Scenes([lib.scene((200, 300), [A])])
    spec = InputSpec(size=(120, 160), stride=(4, 4), mean=(0.1, 0.5, 0.9), std=(0.25,) * 3)
    fit = CocoAP().preprocess(role="eval", info=data.info, spec=spec)
    entries = fit(data.samples[0])
    assert entries["extent"].tolist() == [107, 160] and entries["truth"].fitted == (107, 160)
    assert entries["image"].shape == (120, 160, 3) and (entries["image"][107:] == [26, 128, 230]).all()
    stored = PIL.Image.fromarray(data.samples[0]["image"].array).resize((160, 107), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(entries["image"][:107], np.asarray(stored))
    assert entries["truth"].boxes.tolist() == [A] and entries["truth"].size == (200, 300)

    boxes = [[16, 10.7, 80, 53.5], [-8, -5, 168, 130], [150, 90, 170, 120], [165, 20, 170, 30], [30, 40, 30, 50]]
    lines = results(CocoAP(), data, [lib.guesses(boxes, [0.9, 0.8, 0.7, 0.6, 0.5])], canvas=(120, 160))
    # The fourth lies outside, the last has no area.
    wanted = [[30, 20, 120, 80], [0, 0, 300, 200], [281.25, 90 / 107 * 200, 18.75, 200 - 90 / 107 * 200]]
    np.testing.assert_allclose([line["bbox"] for line in lines], wanted, rtol=1e-6)


def results(*given, **how):
    return json.loads(lib.kept(*given, **how)["detections.json"])


def test_a_tall_and_a_large_image_fit_as_well():
    data = lib.Scenes([lib.scene((7, 3), [[0, 0, 2, 2]])])
    for canvas, extent in (((14, 14), [14, 6]), ((7, 7), [7, 3]), ((3, 3), [3, 1])):
        spec = InputSpec(size=canvas, stride=(1, 1), mean=(0.5,) * 3, std=(0.25,) * 3)
        assert CocoAP().preprocess(role="eval", info=data.info, spec=spec)(data.samples[0])["extent"].tolist() == extent


def test_only_scores_above_the_threshold_count_and_100_of_an_image():
    data = lib.Scenes([lib.scene(CANVAS, [A])])
    guess = lib.guesses([FAR, A], [0.5, 0.4])
    assert len(results(CocoAP(), data, [guess], canvas=CANVAS)) == 2
    assert results(CocoAP(threshold=0.5), data, [guess], canvas=CANVAS) == []
    assert lib.score(CocoAP(threshold=0.5), data, [guess], canvas=CANVAS)["box_ap"] == 0
    assert len(results(CocoAP(threshold=0.45), data, [guess], canvas=CANVAS)) == 1
    # A right one is the 101st, whatever the class of the others.
    many = lib.guesses([FAR] * 100 + [A], [*np.linspace(0.9, 0.5, 100), 0.4], [1] * 100 + [0])
    assert lib.score(CocoAP(), data, [many], canvas=CANVAS)["box_ap"] == 0
    assert len(results(CocoAP(), data, [many], canvas=CANVAS)) == 100
    protocols = {CocoAP(threshold=t).protocol for t in (0, 0.05)}
    assert protocols == {"coco_ap/1:longest_side:score>0:max=100", "coco_ap/1:longest_side:score>0.05:max=100"}


def test_images_without_objects_count():
    data = lib.Scenes([lib.scene(CANVAS, [A]), lib.scene(CANVAS)])
    empty, right, wrong = lib.guesses(room=3), lib.guesses([A], [0.5]), lib.guesses([A], [0.9])
    assert lib.score(CocoAP(), data, [right, empty], canvas=CANVAS)["box_ap"] == 1
    assert lib.score(CocoAP(), data, [right, wrong], canvas=CANVAS)["box_ap"] == 0.5
    assert lib.score(CocoAP(), data, [empty, empty], canvas=CANVAS)["box_ap"] == 0


def test_ids_of_images_and_classes():
    data = lib.Scenes([lib.scene(CANVAS, [A]), lib.scene(CANVAS, [A])])
    guess = lib.guesses([A], [0.9], [1])
    lines = results(CocoAP(), data, [guess, guess], canvas=CANVAS, order=(1, 0))
    assert [(line["image_id"], line["category_id"]) for line in lines] == [(0, 2), (1, 2)]
    info = COCO().info
    assert info.box_class_ids == CATEGORIES.ids and len(info.box_classes) == 80


# Masks.


def test_a_mask_is_pasted_where_its_probabilities_are_a_half():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cells, size = rng.random((5, 7)).astype(np.float32), (int(rng.integers(8, 30)), int(rng.integers(8, 30)))
        left, top = rng.uniform(-6, 20, 2)
        box = np.array([left, top, left + rng.uniform(2, 30), top + rng.uniform(2, 30)])
        np.testing.assert_array_equal(paste(cells, box, size), slowly(cells, box, size))
    full = paste(np.ones((28, 28), np.float32), np.array([3, 4, 10, 9.0]), (12, 12))
    np.testing.assert_array_equal(full, lib.rectangles((12, 12), [[3, 4, 10, 9]])[0])


def slowly(cells, box, size):
    """Pixel by pixel."""
    pasted = np.zeros(size, bool)
    for y, x in np.ndindex(*size):
        if not (box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]):
            continue
        u = (x + 0.5 - box[0]) / (box[2] - box[0]) * cells.shape[1] - 0.5
        v = (y + 0.5 - box[1]) / (box[3] - box[1]) * cells.shape[0] - 0.5
        value = 0.0
        for i in (int(np.floor(v)), int(np.floor(v)) + 1):
            for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                if 0 <= i < cells.shape[0] and 0 <= j < cells.shape[1]:
                    value += (1 - abs(v - i)) * (1 - abs(u - j)) * float(cells[i, j])
        pasted[y, x] = value >= 0.5
    return pasted


def test_a_mask_is_pasted_within_the_box_as_predicted_not_as_clipped():
    data = lib.Scenes(
        [lib.scene((40, 40), [[0, 0, 10, 20]], instance_masks=lib.rectangles((40, 40), [[0, 0, 10, 20]]))]
    )
    half = np.zeros((1, 28, 28), np.float32)
    half[:, :, 14:] = 1  # of a box of which one half lies outside: the other half is seen
    guess = lib.guesses([[-10, 0, 10, 20]], [0.9], masks=half)
    assert lib.score(CocoAP(masks=True), data, [guess], canvas=(40, 40))["mask_ap"] == 1


# What is refused.


def test_options():
    with pytest.raises(ConfigError, match="primary is 'mask'"):
        CocoAP(primary="mask")
    with pytest.raises(ConfigError, match="threshold is 1"):
        CocoAP(threshold=1.0)
    assert CocoAP(masks=True, primary="mask").primary == "mask_ap" and CocoAP(masks=True).primary == "box_ap"
    assert CocoAP().requires == ("boxes", "box_scores", "box_labels")
    assert CocoAP(masks=True).requires == (*CocoAP().requires, "box_masks")


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (lib.guesses([A], [np.nan]), DivergedError, "not finite"),
        (lib.guesses([[0, 0, np.inf, 1]], [0.5]), DivergedError, "not finite"),
        (lib.guesses([A], [0.5], [2]), DataError, "predictions say class 2"),
    ],
)
def test_predictions_that_cannot_be_scored(given, kind, words):
    data = lib.Scenes([lib.scene(CANVAS, [A])])
    with pytest.raises(kind, match=words):
        lib.score(CocoAP(), data, [given], canvas=CANVAS)
    # Rows that are not used may hold anything.
    free = lib.guesses([A], [0.5])
    free["boxes"][1], free["box_labels"][1] = np.nan, 99
    assert lib.score(CocoAP(), data, [free], canvas=CANVAS)["box_ap"] == 1


def test_data_that_cannot_be_scored():
    def check(*samples):
        data = lib.Scenes(samples)
        opened = lambda role, features: data.source("test", features=features)  # noqa: E731
        return CocoAP().check({"eval": (data, "test")}, opened)

    crowd = lib.scene(CANVAS, [A], crowd=np.array([True]))
    with pytest.raises(DataError, match="no object of scenes:test counts"):
        check(crowd, lib.scene(CANVAS, crowd=np.zeros(0, bool)))
    check(crowd, lib.scene(CANVAS, [A, B], crowd=np.array([True, False])))
    check(lib.scene(CANVAS), lib.scene(CANVAS, [A]))
    data = lib.Scenes([lib.scene(CANVAS, [A], [7])])
    with pytest.raises(DataError, match="boxes of scenes say class 7"):
        lib.score(CocoAP(), data, [lib.guesses(room=3)], canvas=CANVAS)
    spec = InputSpec(size=CANVAS, stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
    bare = DatasetInfo(name="bare", features={"image": "", "boxes": ""})
    with pytest.raises(ConfigError, match="coco_ap needs box_labels"):
        CocoAP().preprocess(role="eval", info=bare, spec=spec)
    with pytest.raises(ConfigError, match="coco_ap needs instance_masks"):
        CocoAP(masks=True).preprocess(role="eval", info=data.info, spec=spec)


def test_without_the_library_nothing_is_planned(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    data = lib.Scenes([lib.scene(CANVAS, [A])])
    spec = InputSpec(size=CANVAS, stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ConfigError, match=r"(?s)need faster-coco-eval.*spendflops\[detection\]"):
        CocoAP().preprocess(role="eval", info=data.info, spec=spec)


# Files and the kit.


def test_pictures_show_the_first_images_with_objects():
    samples = [lib.scene((30, 60)), *(lib.scene((30, 60), [[5, 5, 25, 25]]) for _ in range(4))]
    data, guess = lib.Scenes(samples), lib.guesses([[5, 5, 25, 25]], [0.9])
    files = lib.kept(CocoAP(pictures=2), data, [guess] * 5, canvas=CANVAS)
    assert sorted(files) == ["detections.json", "example_0.jpg", "example_1.jpg"]
    with PIL.Image.open(io.BytesIO(files["example_0.jpg"])) as picture:
        assert picture.size == (380, 2 * (190 + 24))
    assert sorted(lib.kept(CocoAP(pictures=0), data, [guess] * 5, canvas=CANVAS)) == ["detections.json"]
    # Another model, other detections, the same images.
    other = lib.kept(CocoAP(pictures=4), data, [lib.guesses(room=3)] * 5, canvas=CANVAS)
    assert len(other) == 5


def test_pictures_draw_the_largest_and_count_the_others():
    boxes = np.array([[0, 0, 4 + i, 4 + i] for i in range(DRAWN + 2)], float)
    count = len(boxes)
    area, crowd = np.prod(boxes[:, 2:], axis=-1), np.zeros(count, bool)
    truth = Truth(size=(60, 60), fitted=(60, 60), boxes=boxes, labels=np.arange(count), area=area, crowd=crowd)
    found = Detected(boxes=boxes, scores=np.linspace(0.9, 0.6, count, dtype=np.float32), labels=np.arange(count))
    for drawn in (_best(found, truth), _true(truth)):
        assert drawn.labels.tolist() == list(range(2, count)) and drawn.left_out == 2
    unsure = dataclasses.replace(found, scores=np.full(count, 0.1, np.float32))
    few = dataclasses.replace(truth, boxes=boxes[:3], labels=np.arange(3), area=area[:3], crowd=crowd[:3])
    assert _best(unsure, few).labels.tolist() == [0, 1, 2] and _best(unsure, few).left_out == 0


def kit_scenes(count=24):
    rng, samples = np.random.default_rng(2), []
    for index in range(count):
        size = tuple(int(n) for n in rng.integers(20, 40, 2))
        boxes = [[1, 2, 9, 12], [10, 4, 19, 17]][: index % 3]
        labels = rng.integers(0, 3, len(boxes))
        samples.append(lib.scene(size, boxes, labels, instance_masks=lib.rectangles(size, boxes)))
    return lib.Scenes(samples, classes=3)


def predicted(batch, quality, masks=False):
    """The true objects; for some of the images, or for all, under the name of another class."""
    made = []
    for place, truth in enumerate(batch["truth"]):
        wrong = {"perfect": False, "noisy": int(batch["_index"][place]) % 2 == 0, "worst": True}[quality]
        boxes = truth.boxes * np.tile(np.divide(truth.fitted, truth.size)[::-1], 2)
        ones = np.ones((len(boxes), 4, 4)) if masks else None
        scores = np.linspace(0.9, 0.8, len(boxes)) - 0.001 * batch["_index"][place]
        made.append(lib.guesses(boxes, scores, (truth.labels + wrong) % 3, room=4, masks=ones))
    return {name: np.stack([row[name] for row in made]) for name in made[0]}


test_kit_boxes = spendflops.testing.evaluator_tests("coco_ap", dataset=kit_scenes(), predict=predicted)
test_kit_masks = spendflops.testing.evaluator_tests(
    "coco_ap", dataset=kit_scenes(), predict=functools.partial(predicted, masks=True), masks=True, primary="mask"
)


def test_what_is_read():
    read = Fit.of(info=COCO().info, spec=InputSpec(size=CANVAS, stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3),
                  masks=False, federated=False, asker="coco_ap").features  # fmt: skip
    # Outlines of COCO are not drawn for boxes: the file has areas.
    assert read == ("image", "boxes", "box_labels", "crowd", "area", "image_id")
