"""The procedural data set: what a scene depends on, and that everything said about it is true."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from spendflops_plugins.shapes import Shapes
from spendflops_plugins.shapes.cache import BLOCKS, BlockCache
from spendflops_plugins.shapes.vocabulary import FREQUENCIES, ORIENTATIONS, SILHOUETTES

from spendflops.contracts.errors import ConfigError, DataError

EVERYTHING = ("image", "label", "labels", "caption", "mask", "boxes", "box_labels", "instance_masks")
VARIANTS = [{"preset": p, "curated": c} for p in ("quick", "hard") for c in (True, False)]


def digests(source, indices):
    return [source[i]["image"].digest() for i in indices]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        x, y = (v.decode() if name == "image" else v for v in (a[name], b[name]))
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_scene_depends_on_nothing_but_seed_split_and_index(options):
    """Neither the order of access, nor the cache, nor the length (and with it the block) may change a byte."""
    whole = Shapes(**options, length=700).source("train", features=EVERYTHING)
    wanted = [699, 3, 256, 255, 512, 0]
    first = [whole[i] for i in wanted]
    BLOCKS.reset()
    again = Shapes(**options, length=700).source("train", features=EVERYTHING)
    huge = Shapes(**options, length=10**7).source("train", features=EVERYTHING)
    assert huge._block != whole._block
    for i, sample in sorted(zip(wanted, first, strict=True)):
        same(sample, again[i])
        same(sample, huge[i])


def test_bytes_are_pinned():
    """The same on every machine and in every version: a change of these is a change of the data set."""
    sample = Shapes().source("train", features=("image", "label", "caption"))[12345]
    picture = sample["image"].decode()
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert (sample["label"], sample["caption"]) == (3, "a picture of a heart with wide falling stripes")
    assert picture[::8, ::8].reshape(-1, 3).sum(axis=0).tolist() == [2775, 2627, 2327]


def test_splits_and_seeds_are_disjoint():
    data, other = Shapes(length=1000), Shapes(length=1000, seed=1)
    groups = [digests(data.source(split), range(len(data.source(split)))) for split in data.info.sizes]
    groups.append(digests(other.source("train"), range(1000)))
    total = sum(map(len, groups))
    assert total == 1000 + 3 * 2000 + 1000
    assert len(set().union(*groups)) == total


def test_lengths_are_those_asked_for_and_a_longer_split_begins_like_a_shorter_one():
    short, long = Shapes(length=5, probe=0), Shapes(length=600)
    assert [len(short.source(s)) for s in ("train", "probe")] == [5, 0]
    assert digests(short.source("train"), range(5)) == digests(long.source("train"), range(5))
    for index in (-1, 5):
        with pytest.raises(IndexError):
            short.source("train")[index]


@pytest.mark.parametrize("size", [16, 33, 64, 224])
@pytest.mark.parametrize("options", VARIANTS)
def test_any_resolution_shows_the_same_scene(options, size):
    small = Shapes(**options, size=32, length=4).source("train", features=EVERYTHING)
    large = Shapes(**options, size=size, length=4).source("train", features=EVERYTHING)
    for i in range(4):
        a, b = small[i], large[i]
        assert b["image"].size == b["mask"].shape == b["instance_masks"].shape[1:] == (size, size)
        assert (a["label"], a["caption"]) == (b["label"], b["caption"])
        covered = [np.mean(s["mask"] > 0) for s in (a, b)]
        assert abs(covered[0] - covered[1]) < 0.06
        means = [s["image"].decode().mean(axis=(0, 1)) for s in (a, b)]
        np.testing.assert_allclose(*means, atol=8)


@pytest.mark.parametrize("options", VARIANTS)
def test_what_is_said_is_what_is_there(options):
    data = Shapes(**options, size=96, length=40, label_noise=0, caption_noise=0)
    source = data.source("train", features=EVERYTHING)
    assert data.info.mask_classes == ("background", *data.info.classes)
    assert data.info.box_classes == data.info.classes
    for i in range(len(source)):
        s = source[i]
        masks, boxes, classes = s["instance_masks"], s["boxes"], s["box_labels"]
        assert len(masks) == len(boxes) == len(classes) >= 1
        assert masks.sum(axis=0).max() == 1
        # Masks of classes are the union of the masks of instances, painted with the class.
        np.testing.assert_array_equal(((classes[:, None, None] + 1) * masks).sum(axis=0), s["mask"])
        for (left, top, right, bottom), mask in zip(boxes.astype(int), masks, strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()
        assert s["label"] == classes[0]
        assert [n for n in s["labels"] if n < len(data.info.classes)] == sorted(set(classes.tolist()))
        names = {data.info.label_names[n] for n in s["labels"]}
        for label in classes:
            assert set(data.info.classes[label].split("-")) <= names
        for name in data.info.classes[s["label"]].split("-"):
            assert name in s["caption"]
        assert s["caption"].count("stripes") == len(masks)


def test_features_come_with_the_declared_types_and_only_when_asked_for():
    data = Shapes(curated=False)
    assert set(EVERYTHING) == set(data.info.features)
    sample = data.source("test", features=EVERYTHING)[0]
    dtypes = {name: str(np.asarray(sample[name]).dtype) for name in ("labels", "mask", "boxes", "instance_masks")}
    assert dtypes == {"labels": "int32", "mask": "uint8", "boxes": "float32", "instance_masks": "bool"}
    assert isinstance(sample["label"], int) and isinstance(sample["caption"], str)
    assert list(data.source("test", features=("caption",))[0]) == ["caption"]
    BLOCKS.reset()
    data.source("test", features=("label", "labels", "caption"))[0]
    assert BLOCKS.used < 100_000, "labels alone must not render anything"


def test_the_texture_is_the_class():
    """The strongest frequency of the object lies where the class says, by a Fourier transform written from scratch."""
    data = Shapes(size=64, length=80)
    source, good = data.source("train", features=("image", "mask", "label")), 0
    for i in range(80):
        s = source[i]
        picture, mask = s["image"].decode().astype(float), s["mask"] > 0
        grey = np.where(mask[..., None], picture - picture[mask].mean(axis=0), 0)
        power = sum(np.abs(np.fft.fft2(grey[..., c])) ** 2 for c in range(3))
        power[:2, :2] = power[:2, -1:] = power[-1:, :2] = power[-1:, -1:] = 0
        y, x = np.unravel_index(power.argmax(), power.shape)
        fy, fx = (k - 64 if k > 32 else k for k in (y, x))
        way = int(np.round(np.arctan2(fy, fx) / (np.pi / 4))) % 4
        found = (("fine" if np.hypot(fx, fy) > 6 else "wide"), ("vertical", "rising", "horizontal", "falling")[way])
        good += "-".join(found) == data.info.classes[s["label"]]
    assert good >= 76, f"{good} of 80"


def test_curated_is_balanced_centred_and_single():
    data = Shapes(length=1600, size=32)
    labels = [s["label"] for s in map(data.source("train", features=("label",)).__getitem__, range(1600))]
    assert np.bincount(labels).tolist() == [200] * 8
    assert len({tuple(labels[k : k + 8]) for k in range(0, 1600, 8)}) > 150, "the order within a run is random"
    source = data.source("test", features=("mask", "boxes"))
    for i in range(50):
        rows, columns = np.nonzero(source[i]["mask"])
        assert len(source[i]["boxes"]) == 1
        assert abs(rows.mean() - 15.5) < 6 and abs(columns.mean() - 15.5) < 6


@pytest.mark.parametrize("preset", ["quick", "hard"])
def test_uncurated_has_a_long_tail_many_objects_and_wrong_labels(preset):
    data = Shapes(preset=preset, curated=False, length=4000)
    clean = Shapes(preset=preset, curated=False, length=4000, label_noise=0, caption_noise=0)
    wanted = ("label", "labels", "caption")
    noisy, true = ([d.source("train", features=wanted)[i] for i in range(4000)] for d in (data, clean))
    counts = np.bincount([s["label"] for s in true], minlength=len(data.info.classes))
    share = 1 / np.arange(1, len(counts) + 1)
    share /= share.sum()
    assert np.abs(counts / 4000 - share).max() < 4 * np.sqrt(share[0] / 4000)
    objects = [s["caption"].count("stripes") for s in true]
    assert set(objects) == set(range(*{"quick": (1, 5), "hard": (2, 8)}[preset]))

    changed = np.mean([a["label"] != b["label"] for a, b in zip(noisy, true, strict=True)])
    expected = {"quick": 0.1, "hard": 0.2}[preset] * (1 - 1 / len(counts))
    assert abs(changed - expected) < 0.03
    changed = np.mean([a["caption"] != b["caption"] for a, b in zip(noisy, true, strict=True)])
    assert 0.5 * expected < changed < 1.5 * expected
    assert all(np.array_equal(a["labels"], b["labels"]) for a, b in zip(noisy, true, strict=True))
    # Noise stays in the training split: scores are measured against the truth.
    for i in range(200):
        same(data.source("test", features=wanted)[i], clean.source("test", features=wanted)[i])


def test_the_number_of_objects_can_be_fixed():
    source = Shapes(objects=(2, 2), length=1).source("test", features=("instance_masks", "box_labels"))
    assert {len(source[i]["instance_masks"]) for i in range(300)} == {2}


@pytest.mark.parametrize("options", VARIANTS)
def test_pickles_are_small_and_equal(options):
    source = Shapes(**options).source("train", features=EVERYTHING)
    before = source[77]
    text = pickle.dumps(source)
    assert len(text) < 10_000
    BLOCKS.reset()
    same(before, pickle.loads(text)[77])


def test_threads_see_the_same_scenes():
    source = Shapes(length=2048, curated=False).source("train", features=EVERYTHING)
    order = np.random.default_rng(0).permutation(2048)
    alone = {int(i): source[i] for i in order}
    BLOCKS.reset()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(source.__getitem__, order), strict=True):
            same(sample, alone[int(i)])


def test_samples_cannot_change_the_cache():
    source = Shapes(length=8).source("train", features=("image",))
    picture = source[0]["image"].decode()
    if picture.flags.writeable:
        picture[:] = 0
    assert source[0]["image"].decode().any()


def test_the_cache_is_bounded_and_forgets_the_oldest():
    cache = BlockCache(limit=1000)
    made = []
    for key in (0, 1, 0, 2, 0, 1, 3):
        cache.get(key, lambda k=key: made.append(k) or np.full(400, k, np.uint8))
        assert cache.used <= 1000
    assert made == [0, 1, 2, 1, 3]
    assert cache.get(9, lambda: np.zeros(5000, np.uint8)).nbytes == 5000 and cache.used <= 1000
    assert BLOCKS.limit < 512e6
    with pytest.raises(ValueError):
        cache.get(3, lambda: None)[0] = 1


def test_names_tell_what_is_seen():
    quick, hard = Shapes(), Shapes(preset="hard")
    orientations = tuple(name for name, _ in ORIENTATIONS)
    assert quick.info.classes == tuple(f"{f}-{o}" for f in FREQUENCIES for o in orientations)
    assert len(hard.info.classes) == len(set(hard.info.classes)) == 8 * len(SILHOUETTES)
    assert quick.info.label_names == quick.info.classes + orientations + FREQUENCIES
    assert hard.info.label_names[-len(SILHOUETTES) :] == SILHOUETTES


@pytest.mark.parametrize(
    "options",
    [{"preset": "quik"}, {"size": 8}, {"objects": (0, 1)}, {"objects": (3, 2)}, {"label_noise": 2.0}, {"length": -1}],
)
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ConfigError, match="shapes"):
        Shapes(**options)


def test_unknown_splits_and_features_are_refused_with_a_suggestion():
    with pytest.raises(DataError, match="did you mean 'train'"):
        Shapes().source("trian")
    with pytest.raises(ConfigError, match="did you mean 'caption'"):
        Shapes().source("train", features=("captions",))
