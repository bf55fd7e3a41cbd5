"""LVIS AP through compiled steps: random scenes against the definition, classes not looked for, groups of them."""

import functools

import numpy as np
import oracles_detection_coco as oracle
import pytest
import scorelib as lib
from random_scenes import CANVAS, as_read, named, scenes
from spendflops_plugins.detection.coco_ap import CocoAP
from spendflops_plugins.detection.lvis_ap import LvisAP
from test_coco_ap import FAR, A, B, predicted, results

import spendflops.testing
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import InputSpec

GROUPS = ("rare", "common", "frequent")


def one(true, found, scores, *, labels, found_labels, negative=(), incomplete=(), classes=3, **info):
    """All figures of one image."""
    federated = {"neg_labels": np.array(negative, np.int32), "open_labels": np.array(incomplete, np.int32)}
    data = lib.Scenes([lib.scene(CANVAS, true, labels, **federated)], classes=classes, **info)
    return lib.score(LvisAP(), data, [lib.guesses(found, scores, found_labels)], canvas=CANVAS)


@pytest.mark.parametrize("seed", [1, 3])
def test_figures_are_those_of_the_definition(seed):
    data, predictions, images = scenes(seed, count=16, federated=True, box_counts=(10, 11, 101))
    found = lib.score(LvisAP(masks=True), data, predictions, canvas=CANVAS)
    wanted = {}
    for kind in ("box", "mask"):
        truths, detections = as_read(images, kind)
        wanted |= named(oracle.figures(truths, detections, shape=kind), kind)
        for label, group in enumerate(GROUPS):
            own = [one for one in truths if one["category"] == label]
            wanted[f"{kind}_ap_{group}"] = oracle.figures(own, detections, shape=kind)["AP"]
    wanted = {name: value for name, value in wanted.items() if "_ar" not in name}
    assert found == pytest.approx(wanted, abs=1e-10)
    assert len(wanted) >= 16 and all(0.05 < wanted[f"{kind}_ap"] < 0.95 for kind in ("box", "mask"))


def test_what_is_neither_there_nor_known_to_be_absent_does_not_count():
    given = {"labels": [0], "found_labels": [1, 0], "classes": 3}
    unknown = one([A], [FAR, A], [0.9, 0.8], **given)
    assert unknown == one([A], [A], [0.8], labels=[0], found_labels=[0]) and unknown["box_ap"] == 1
    # A class that is known to be absent has no object here: it counts where another image has one.
    federated = {"neg_labels": np.array([], np.int32), "open_labels": np.array([], np.int32)}
    for negative, ap in (([1], 0.5), ([], 1.0)):
        first = lib.scene(CANVAS, [A], [0], **{**federated, "neg_labels": np.array(negative, np.int32)})
        data = lib.Scenes([first, lib.scene(CANVAS, [B], [1], **federated)])
        predictions = [lib.guesses([A, FAR], [0.9, 0.9], [0, 1]), lib.guesses([B], [0.5], [1], room=4)]
        found = lib.score(LvisAP(), data, predictions, canvas=CANVAS)
        assert found["box_ap"] == pytest.approx((1 + ap) / 2)


def test_unmatched_detections_of_classes_that_are_not_exhausted_are_ignored():
    given = {"labels": [0], "found_labels": [0, 0]}
    assert one([A], [FAR, A], [0.9, 0.8], **given)["box_ap"] == 0.5
    assert one([A], [FAR, A], [0.9, 0.8], incomplete=[0], **given)["box_ap"] == 1
    assert one([A], [FAR, A], [0.9, 0.8], incomplete=[1, 2], **given)["box_ap"] == 0.5


def test_300_of_an_image_count_before_classes_are_looked_at():
    federated = {"neg_labels": np.array([], np.int32), "open_labels": np.array([], np.int32)}
    data = lib.Scenes([lib.scene(CANVAS, [A], [0], **federated)])
    for strays, ap in ((299, 1), (300, 0)):
        scores = [*np.linspace(0.9, 0.5, strays), 0.4]
        many = lib.guesses([FAR] * strays + [A], scores, [1] * strays + [0])
        assert lib.score(LvisAP(), data, [many], canvas=CANVAS)["box_ap"] == ap
        assert len(results(LvisAP(), data, [many], canvas=CANVAS)) == 300


def test_groups_of_classes():
    boxes, labels = [A, B, FAR, [200, 200, 260, 260]], [0, 1, 2, 3]
    given = {"labels": labels, "classes": 4, "box_counts": (10, 11, 100, 101)}
    found = one(boxes, boxes[:2], [0.9, 0.8], found_labels=[0, 1], **given)
    wanted = {"box_ap_rare": 1, "box_ap_common": 0.5, "box_ap_frequent": 0, "box_ap": 0.5}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    # A group without an object, and data that do not say how often classes are seen.
    assert "box_ap_rare" not in one([B], [B], [0.9], **{**given, "labels": [1], "found_labels": [1]})
    assert not [n for n in one([A], [A], [0.9], labels=[0], found_labels=[0]) if n.removeprefix("box_ap_") in GROUPS]


def test_data_without_the_classes_that_were_looked_for():
    data = lib.Scenes([lib.scene(CANVAS, [A])])
    spec = InputSpec(size=CANVAS, stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ConfigError, match="lvis_ap needs neg_labels and open_labels"):
        LvisAP().preprocess(role="eval", info=data.info, spec=spec)
    assert LvisAP().protocol == "lvis_ap/1:longest_side:score>0:max=300" != CocoAP().protocol


def kit_scenes(count=24):
    samples = []
    for index in range(count):
        boxes = [[1, 2, 9, 12], [10, 4, 19, 17]][: index % 3]
        labels = [index % 3, (index + 1) % 3][: len(boxes)]
        federated = {"neg_labels": np.arange(3, dtype=np.int32), "open_labels": np.zeros(0, np.int32)}
        masks = lib.rectangles((24, 30), boxes)
        samples.append(lib.scene((24, 30), boxes, labels, instance_masks=masks, **federated))
    return lib.Scenes(samples, classes=3, box_counts=(5, 50, 500))


test_kit_lvis = spendflops.testing.evaluator_tests(
    "lvis_ap", dataset=kit_scenes(), predict=functools.partial(predicted, masks=True), masks=True
)
