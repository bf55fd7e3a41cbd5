"""Accuracy with several labels an image, and on other classes than the model's, against loops."""

import dataclasses

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.mapped_accuracy import MappedAccuracy

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import ArrayImage

CLASSES = 4


def kit_predictions(batch, quality):
    """Logits of a model that knows the first right class, errs for some images, or always says a wrong one."""
    right = (batch["verdicts"] == 1).argmax(axis=1)
    shift = {"perfect": 0, "worst": 2, "noisy": 2 * (batch["image"].sum(axis=(1, 2, 3), dtype=int) % 2)}[quality]
    return {"logits": 10 * np.eye(CLASSES, dtype=np.float32)[(right + shift) % CLASSES]}


test_kit = spendflops.testing.evaluator_tests(MappedAccuracy, predict=kit_predictions, resize="crop")
test_kit_several_labels = spendflops.testing.evaluator_tests(MappedAccuracy, predict=kit_predictions, labels="labels")

ABOUT = dataclasses.replace(drive.info(6, features=("image", "label", "labels")), class_names=("a", "a", *"bcde"))
MODEL = dataclasses.replace(drive.SPEC, classes=tuple(f"m{i}" for i in range(8)))
MAP = (("m0", "c1"), ("m3", 1), (5, "c2", "c4"), ("m6", "c"))  # words: "c" is c3


def run(logits, given, about=ABOUT, spec=MODEL, *, batch_size=4, order=None, **options):
    evaluator = MappedAccuracy(**options)
    preprocess = evaluator.preprocess(role="eval", info=about, spec=spec)
    image = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    name = options.get("labels", "label")
    verdicts = np.stack([preprocess({"image": image, name: each})["verdicts"] for each in given])
    data = {"eval": ({"logits": np.asarray(logits, np.float32)}, {"verdicts": verdicts})}
    return drive.score(evaluator, data, about=about, batch_size=batch_size, order=order)


def slow(logits, labels, stands_for, unmapped):
    """(correct, in the first five, counted, left out), image by image."""
    totals = np.zeros(4, int)
    reached = set().union(*stands_for.values())
    for row, own in zip(logits, labels, strict=True):
        own = {int(x) for x in np.atleast_1d(own) if x != -1} & reached
        if not own:
            totals[3] += 1
            continue
        allowed = [c for c in range(len(row)) if c in stands_for or unmapped == "wrong"]
        ranked = sorted(allowed, key=lambda c: (-row[c], c))
        hits = [bool(set(stands_for.get(c, ())) & own) for c in ranked]
        totals += [hits[0], any(hits[:5]), 1, 0]
    return totals


def expected(totals):
    correct, top5, count, left = (int(n) for n in totals)
    p = correct / count
    return {
        "accuracy": p,
        "accuracy_sd": pytest.approx((p * (1 - p) * 10 / count) ** 0.5),
        "accuracy_n": 10,
        "accuracy_top5": top5 / count,
        "examples": count,
        "left_out": left,
    }


STANDS = {0: {1}, 3: {1}, 5: {2, 4}, 6: {3}}
RNG = np.random.default_rng(0)
LOGITS = RNG.integers(-2, 3, (41, 8))  # whole numbers, so that many tie
SINGLE = RNG.integers(0, 6, 41)
SEVERAL = [RNG.permutation(6)[: RNG.integers(0, 4)] for _ in range(41)]
PADDED = [np.pad(row, (0, 5 - len(row)), constant_values=-1) for row in SEVERAL]


@pytest.mark.parametrize("unmapped", ["excluded", "wrong"])
@pytest.mark.parametrize("labels, given", [("label", SINGLE), ("labels", SEVERAL), ("labels", PADDED)])
def test_other_classes_against_a_loop(labels, given, unmapped):
    want = expected(slow(LOGITS, given, STANDS, unmapped))
    assert want["left_out"] > 0 and 0 < want["accuracy"] < want["accuracy_top5"]
    options = {"labels": labels, "class_map": MAP, "unmapped": unmapped}
    for batch_size in (7, 64):
        assert run(LOGITS, given, batch_size=batch_size, **options) == want
    assert run(LOGITS, given, order=np.random.default_rng(1).permutation(41), **options) == want


@pytest.mark.parametrize("labels, given", [("label", SINGLE), ("labels", PADDED)])
def test_the_same_classes_against_a_loop(labels, given):
    """ImageNet-V2 and ReaL."""
    logits = LOGITS[:, :6]
    want = expected(slow(logits, given, {c: {c} for c in range(6)}, "excluded"))
    assert run(logits, given, labels=labels) == want
    assert (want["left_out"] > 0) == (labels == "labels")


def test_restricted_logits_are_another_score():
    # The largest logit is of a class that stands for nothing.
    logits = [[1, 9, 0, 0, 0, 0, 0, 0]]
    assert run(logits, [1], class_map=MAP)["accuracy"] == 1
    assert run(logits, [1], class_map=MAP, unmapped="wrong")["accuracy"] == 0
    # Five of nothing before it: not among the first five.
    logits = [[1, 9, 9, 0, 9, 0, 0, 9]]
    assert run(logits, [1], class_map=MAP, unmapped="wrong")["accuracy_top5"] == 1
    assert run([[1, 9, 9, 2, 9, 2, 2, 9]], [2], class_map=MAP, unmapped="wrong")["accuracy_top5"] == 0


def test_first_of_equal_logits_and_nan():
    assert run(np.zeros((2, 6)), [0, 1], labels="label")["accuracy"] == 0.5
    assert run(np.zeros((1, 6)), [5])["accuracy_top5"] == 0
    wild = np.eye(6)[[2, 3]]
    wild[0, 5] = np.nan
    assert run(wild, [2, 3])["accuracy"] == 0.5 and run(wild, [2, 3])["accuracy_top5"] == 0.5


def test_named_labels_of_the_feature_labels():
    about = dataclasses.replace(ABOUT, label_names=(*ABOUT.classes, "group"))
    assert run(np.eye(7)[[6, 6]], [[1, 6], [2]], about, labels="labels")["accuracy"] == 0.5
    mapped = run(np.eye(8)[[0]], [[6]], about, labels="labels", class_map=(("m0", "group"),))
    assert mapped["accuracy"] == 1


def test_the_core_is_told_whether_classes_may_differ():
    assert MappedAccuracy(class_map=MAP).maps_classes and not MappedAccuracy().maps_classes


def test_protocol_says_what_changes_the_score():
    default = MappedAccuracy().protocol
    assert default == "mapped_accuracy/1:label:map=same:resize=squash"
    variants = [
        {"labels": "labels"},
        {"class_map": MAP},
        {"class_map": MAP[:3]},
        {"class_map": MAP, "unmapped": "wrong"},
        {"resize": "crop"},
    ]
    assert len({default, *(MappedAccuracy(**v).protocol for v in variants)}) == 6
    assert MappedAccuracy(class_map=MAP).protocol == MappedAccuracy(class_map=list(reversed(MAP))).protocol


def test_labels_that_are_no_classes():
    for options, label in (({}, 6), ({}, -1), ({"labels": "labels"}, [1, 6]), ({"labels": "labels"}, [-2])):
        with pytest.raises(DataError, match="none of the 6 classes"):
            run(np.zeros((1, 6)), [label], **options)
    with pytest.raises(DataError, match="none of 2 examples"):
        run(np.zeros((2, 8)), [0, 0], class_map=MAP)
    with pytest.raises(DataError, match="none of 2 examples"):
        run(np.zeros((2, 6)), [[], [-1, -1]], labels="labels")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"labels": "targets"}, "unknown labels"),
        ({"unmapped": "kept"}, "unknown unmapped"),
        ({"class_map": ()}, "no row"),
        ({"class_map": (("m0",),)}, "without a class of the test"),
        ({"resize": "none"}, "unknown resize"),
        ({"class_map": (("m0", "c1"), (0, "c2"))}, "two rows"),
        ({"class_map": (("m9", "c1"),)}, "'m9' is no class of the model"),
        ({"class_map": (("m0", "c9"),)}, "'c9' is no class of toy"),
        ({"class_map": (("m0", "a"),)}, "'a' is several classes of toy"),
        ({"class_map": ((8, "c1"),)}, "the model has 8 classes"),
        ({"class_map": (("m0", -1),)}, "toy has 6 classes"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        MappedAccuracy(**options).preprocess(role="eval", info=ABOUT, spec=MODEL)


def test_lists_of_classes_are_needed():
    with pytest.raises(ConfigError, match="no list of classes"):
        MappedAccuracy().preprocess(role="eval", info=drive.info(), spec=MODEL)
    with pytest.raises(ConfigError, match="trained on data without"):
        MappedAccuracy(class_map=MAP).preprocess(role="eval", info=ABOUT, spec=drive.SPEC)
    with pytest.raises(ConfigError, match="8 logits for 6 classes"):
        run(LOGITS, SINGLE)
    with pytest.raises(ConfigError, match="mapped_accuracy needs labels"):
        MappedAccuracy(labels="labels").preprocess(role="eval", info=drive.info(4), spec=MODEL)
