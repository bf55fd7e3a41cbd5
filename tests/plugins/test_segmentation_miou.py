"""Segmentation mIoU through compiled steps: T1, padding, order, upsampling, wrong classes, and every view."""

import cv2
import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.segmentation_miou import SEEN, SegmentationMIoU

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts import images, pictures
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


def scene(size, seed):
    """A smooth image, and a map of three classes with some ignored pixels."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    mask = images.resize(rng.choice([0, 1, 2, 255], (5, 5)).astype(np.uint8), size, "nearest")
    return {"image": ArrayImage(images.resize(small, size, "bicubic")), "mask": mask}


def model(windows):
    """Logits [... 4 4 3] of windows [... 8 8 3]: sums of the colours of every second pixel."""
    weights = np.random.default_rng(5).normal(size=(3, 3))
    return (windows[..., ::2, ::2, :].astype(np.float64) - 100) @ weights


def enlarge(logits, size):
    """Bilinear, half-pixel centres, edges held, by two matrices of weights."""

    def matrix(new, old):
        weights = np.zeros((new, old))
        for i in range(new):
            place = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = int(place)
            weights[i, low] += 1 - (place - low)
            weights[i, min(low + 1, old - 1)] += place - low
        return weights

    return np.einsum("yi,ijc,xj->yxc", matrix(size[0], logits.shape[0]), logits, matrix(size[1], logits.shape[1]))


def slow_slide(sample, stride, stored):
    """(labels, classes) of one image, as mmsegmentation slides."""
    pixels, mask = sample["image"].decode(), sample["mask"]
    factor = min(8 / min(mask.shape), 4 * 8 / max(mask.shape))
    height, width = (int(side * factor + 0.5) for side in mask.shape)
    pixels = images.resize(pixels, (height, width), "bilinear")
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for row in range(max(height - 8 + stride - 1, 0) // stride + 1):
        for column in range(max(width - 8 + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + 8, height), min(column * stride + 8, width)
            place = slice(max(bottom - 8, 0), bottom), slice(max(right - 8, 0), right)
            total[place] += enlarge(model(pixels[place]), (8, 8))
            count[place] += 1
    merged = total / count
    if stored:
        return mask, enlarge(merged, mask.shape).argmax(-1)
    return images.resize(mask, (height, width), "nearest"), merged.argmax(-1)


def slow_squash(sample):
    pixels = images.resize(sample["image"].decode(), (8, 8), "bicubic")
    return sample["mask"], enlarge(enlarge(model(pixels), (8, 8)), sample["mask"].shape).argmax(-1)


def slow_crop(sample):
    mask, pixels = sample["mask"], sample["image"].decode()
    top, left = ((side - 8) // 2 for side in mask.shape)
    part = slice(top, top + 8), slice(left, left + 8)
    return mask[part], enlarge(model(pixels[part]), (8, 8)).argmax(-1)


def slow_miou(pairs):
    """Independent of the library: loops over classes and images."""
    ious = []
    for c in range(3):
        hits = sum(((labels == c) & (classes == c)).sum() for labels, classes in pairs)
        union = sum((((labels == c) | (classes == c)) & (labels != 255)).sum() for labels, classes in pairs)
        ious += [hits / union] if union else []
    return float(np.mean(ious))


PROTOCOLS = {
    "slide": ({"view": "slide"}, lambda s: slow_slide(s, 5, False)),
    "slide_stored": ({"view": "slide", "labels": "stored", "pixels": 1000}, lambda s: slow_slide(s, 5, True)),
    "slide_stride": ({"view": "slide", "stride": 3, "windows": 8}, lambda s: slow_slide(s, 3, False)),
    "squash_stored": ({"labels": "stored", "pixels": 1000}, slow_squash),
    "center_crop": ({"view": "center_crop"}, slow_crop),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_views_equal_the_loop_for_any_batch_size_and_order(name):
    options, slow = PROTOCOLS[name]
    samples = [scene(size, i) for i, size in enumerate([(12, 12), (10, 26), (30, 12), (9, 16), (24, 23)])]
    evaluator = SegmentationMIoU(**options)
    about = drive.info(mask_classes=3)
    pre = evaluator.preprocess(role="eval", info=about, spec=drive.SPEC)
    rows = [pre(s) for s in samples]
    assert {n: (str(v.dtype), v.shape) for n, v in rows[0].items()} == pre.entries
    batch = {n: np.stack([r[n] for r in rows]) for n in rows[0]}
    data = {"eval": ({"seg_logits": model(batch["image"]).astype(np.float32)}, batch)}
    expected = slow_miou([slow(s) for s in samples])
    assert 0 < expected < 1
    for size, order in ((1, None), (3, np.array([4, 1, 0, 3, 2])), (8, None)):
        found = drive.score(evaluator, data, about=about, batch_size=size, order=order)
        assert found["miou"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_miou_equals_an_independent_one_with_ignored_and_absent_classes(seed):
    rng = np.random.default_rng(seed)
    masks, guess = rng.choice([0, 2, 255], (7, 9, 9)).astype(np.uint8), rng.choice([0, 2], (7, 9, 9))
    guess[rng.random(guess.shape) < 0.1] = seed
    expected = slow_miou(list(zip(masks, guess, strict=True)))
    for size in (1, 4, 7):
        found = run(np.eye(3)[guess], masks, 3, batch_size=size, order=rng.permutation(7))
        assert found["miou"] == pytest.approx(expected, abs=1e-12)


def windowed(batch, quality):
    """What a model says of windows over images of one class each but for the border."""
    count = batch["image"].shape[1]
    label = np.array([np.bincount(mask[mask != 255]).argmax() for mask in batch["mask"]])
    shift = {"perfect": 0, "worst": 1, "noisy": batch["image"].sum(axis=(1, 2, 3, 4), dtype=int) % 2}[quality]
    return {"seg_logits": np.eye(4, dtype=np.float32)[(label + shift) % 4][:, None, None, None].repeat(count, axis=1)}


test_kit = spendflops.testing.evaluator_tests("segmentation_miou")
test_kit_crop = spendflops.testing.evaluator_tests("segmentation_miou", view="center_crop")
test_kit_slide = spendflops.testing.evaluator_tests("segmentation_miou", view="slide", predict=windowed)
test_kit_stored = spendflops.testing.evaluator_tests(
    "segmentation_miou", view="slide", labels="stored", pixels=1300, average="image", predict=windowed
)


def test_protocols_name_what_changes_a_score():
    given = [{}, VINY, *(options for options, _ in PROTOCOLS.values())]
    assert len({SegmentationMIoU(**options).protocol for options in given}) == len(given)
    # How much room there is changes nothing.
    one, other = (SegmentationMIoU(view="slide", windows=n).protocol for n in (2, 6))
    assert one == other == "segmentation_miou/1:dataset:absent=skipped:slide:stride=2/3:masks=input_size"
    assert SegmentationMIoU().protocol == "segmentation_miou/1:dataset:absent=skipped:masks=input_size"


def test_options_without_an_effect_are_refused():
    for option, given in (
        ("windows", {"windows": 3}),
        ("stride", {"view": "center_crop", "stride": 3}),
        ("pixels", {"view": "slide", "pixels": 100}),
        ("labels", {"view": "center_crop", "labels": "stored"}),
    ):
        with pytest.raises(ConfigError, match=f"{option} has no effect"):
            SegmentationMIoU(**given)
    with pytest.raises(ConfigError, match="did you mean 'slide'"):
        SegmentationMIoU(view="slid")
    with pytest.raises(ConfigError, match="stride"):
        SegmentationMIoU(view="slide", stride=9).preprocess(
            role="eval", info=drive.info(mask_classes=3), spec=drive.SPEC
        )
    with pytest.raises(ConfigError, match="needs mask"):
        about = drive.info(features=("image", "label"))
        SegmentationMIoU(view="slide").preprocess(role="eval", info=about, spec=drive.SPEC)


def test_predictions_to_look_at_are_those_that_are_scored():
    rng = np.random.default_rng(7)
    maps = rng.integers(0, 4, (3, 8, 12))
    _, rows = drive.run_role(SegmentationMIoU(), {"seg_logits": np.eye(4)[maps]}, {"mask": maps.astype(np.uint8)}, 2)
    assert rows["seen"].shape == (3, SEEN, SEEN) and (rows["seen_size"] == (8, 12)).all()
    for y, x in rng.integers(0, SEEN, (50, 2)):
        row, column = int((y + 0.5) * 8 / SEEN), int((x + 0.5) * 12 / SEEN)
        assert (rows["seen"][:, y, x] == maps[:, row, column]).all()
    # Maps of their own sizes, as lists of pixels that are filled up.
    sizes = np.array([[5, 9], [11, 3]])
    lists = np.stack([np.pad(rng.integers(0, 4, h * w), (0, 60 - h * w), constant_values=99) for h, w in sizes])
    seen = SegmentationMIoU(view="slide")._looked_at(lists, {"label_size": sizes})["seen"]
    for one, flat, (h, w) in zip(np.asarray(seen), lists, sizes, strict=True):
        for y, x in rng.integers(0, SEEN, (50, 2)):
            assert one[y, x] == flat[int((y + 0.5) * h / SEEN) * w + int((x + 0.5) * w / SEEN)]


def test_no_pictures_cost_no_rows():
    maps = np.zeros((2, 4, 4), int)
    data = {"seg_logits": np.eye(2)[maps]}, {"mask": maps.astype(np.uint8)}
    assert drive.run_role(SegmentationMIoU(pictures=0), *data, 2)[1] == {}
    first = SegmentationMIoU(pictures=1).compact("eval", {**drive.run_role(SegmentationMIoU(), *data, 2)[1],
                                                          "_index": np.array([1, 0])})  # fmt: skip
    assert first["seen_index"].tolist() == [0] and len(first["seen"]) == 1 and len(first["_index"]) == 2


@pytest.mark.parametrize("view", ["squash", "center_crop", "slide"])
def test_pictures_show_image_prediction_and_truth(view):
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 1
    image = np.full((20, 40, 3), 128, np.uint8)
    size = (20, 20) if view == "center_crop" else (20, 40)
    predicted = np.full((1, SEEN, SEEN), 2, np.uint8)
    rows = {"eval": {"seen": predicted, "seen_size": np.array([size]), "seen_index": np.array([0])}}
    files = SegmentationMIoU(view=view).files(
        rows, info=drive.info(mask_classes=3), opened=lambda role, names: [{"image": ArrayImage(image), "mask": mask}]
    )
    picture = cv2.imdecode(np.frombuffer(files["example_0.jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    height = 240 * size[0] // size[1]
    cell = height + pictures.BAR + pictures.GAP
    plain, guessed, true = (picture[pictures.BAR + cell * n : cell * n + cell - pictures.GAP] for n in range(3))
    assert np.abs(plain[height // 2, 120] - 128).max() < 4
    shade = lambda label: 0.45 * 128 + 0.55 * np.array(pictures.colour(label))  # noqa: E731
    assert np.abs(guessed[height // 2, 30] - shade(2)).max() < 12
    assert np.abs(true[height // 2, 30] - shade(0)).max() < 12
    assert np.abs(true[height // 2, 210] - shade(1)).max() < 12
