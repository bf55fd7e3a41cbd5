"""The batch is a pure function of (seed, step): any start, any number of threads, epoch by epoch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from enginelib import stage

from spendflops.contracts.errors import ConfigError, DataError, PluginError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.objective import Views
from spendflops.contracts.types import InputSpec
from spendflops.engine import data
from spendflops.engine.build import build_stage, length, open_source
from spendflops.engine.loop import run_recipe
from spendflops.testing.samples import KitData

SPEC = InputSpec(size=(4, 4), stride=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)


class Numbers:
    """Samples that know their place."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"index": index}


@dataclasses.dataclass(frozen=True)
class Drawn(Views):
    """The place of a sample and a random number."""

    def __call__(self, sample, rng, spec):
        return {"index": np.int32(sample["index"]), "noise": rng.random()}


@dataclasses.dataclass(frozen=True)
class Plain(Preprocess):
    def __call__(self, sample):
        return {"index": np.int32(sample["index"]), "pair": np.full((2, 1), sample["index"], np.float32)}


def batches(length=10, size=4, seed=3):
    return data.Batches(Numbers(length), Drawn(), spec=SPEC, batch_size=size, seed=seed)


def read(given, first, last):
    with given.read(first, last) as reader:
        return list(reader)


def same(a, b):
    return all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads_and_any_start_give_the_same_batches(threads, monkeypatch):
    monkeypatch.setenv("SPENDFLOPS_THREADS", str(threads))
    whole = read(batches(), 0, 12)
    assert len(whole) == 12
    for start in (0, 1, 5, 11):
        assert all(same(a, b) for a, b in zip(read(batches(), start, 12), whole[start:], strict=True))
    assert all(same(batches()[step], whole[step]) for step in (11, 0, 7))
    # One thread here and one in the reference run of another seed: the order is fixed, too.
    assert [int(i) for i in whole[0]["index"]] == [int(i) for i in batches()[0]["index"]]


def test_every_epoch_holds_every_example_once_in_an_order_of_its_own():
    epochs = np.concatenate([b["index"] for b in read(batches(), 0, 10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_augmentations_differ_between_epochs_seeds_and_examples():
    noise = [b["noise"] for b in read(batches(length=4), 0, 3)]
    assert len({float(x) for epoch in noise for x in epoch}) == 12
    assert not np.array_equal(batches(seed=3)[0]["noise"], batches(seed=4)[0]["noise"])
    assert not np.array_equal(batches(seed=3)[0]["index"], batches(seed=4)[0]["index"])


def test_neighbouring_seeds_and_stages_have_streams_of_their_own():
    assert len({data.stage_seed(seed, stage) for seed in range(30) for stage in range(5)}) == 150


def test_a_data_set_smaller_than_a_batch_is_repeated():
    assert sorted(batches(length=2, size=6)[0]["index"].tolist()) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_last_evaluation_batch_is_filled_up_and_masked(threads, monkeypatch):
    monkeypatch.setenv("SPENDFLOPS_THREADS", str(threads))
    found = list(data.padded(Numbers(7), Plain(), batch_size=3))
    assert [b["index"].tolist() for b in found] == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]
    assert [b["_mask"].tolist() for b in found] == [[True] * 3, [True] * 3, [True, False, False]]
    assert found[2]["pair"].shape == (3, 2, 1)


def test_no_data_is_an_error():
    with pytest.raises(DataError, match="training data are empty"):
        batches(length=0)
    with pytest.raises(DataError, match="evaluation data are empty"):
        next(data.padded(Numbers(0), Plain(), batch_size=2))


class Broken(Numbers):
    def __getitem__(self, index):
        raise DataError(f"image {index} cannot be read", fix="replace it")


def test_an_error_of_the_data_arrives_as_it_was_raised():
    given = data.Batches(Broken(9), Drawn(), spec=SPEC, batch_size=3, seed=0)
    with pytest.raises(DataError, match="cannot be read"), given.read(0, 3) as reader:
        next(reader)
    with pytest.raises(DataError, match="cannot be read"):
        list(data.padded(Broken(9), Plain(), batch_size=3))


@dataclasses.dataclass(frozen=True)
class Wrong(Views):
    """Gives what no objective asked for."""

    kind: str = "dtype"

    def __call__(self, sample, rng, spec):
        image = np.zeros((*spec.size, 3), np.float32 if self.kind == "dtype" else np.uint8)
        if self.kind == "shape":
            image = image[:-1]
        entries = {"image": image, "more": image}
        return {
            "extra": entries,
            "name": {"picture": image},
            "dtype": {"image": image},
            "shape": {"image": image},
        }[self.kind]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("dtype", r"input 'image' is float32\[1, 16, 16, 3\], declared uint8\[1, 16, 16, 3\]"),
        ("shape", r"input 'image' is uint8\[1, 15, 16, 3\], declared"),
        ("name", "needs the input 'image'"),
        ("extra", "the views give 'more'"),
    ],
)
def test_batches_that_are_not_as_declared_are_refused(kind, message, tmp_path):
    from enginelib import recipe

    with pytest.raises(ConfigError, match=message):
        run_recipe(recipe(stage(views=Wrong(kind))), tmp_path, quiet=True)


class Spec:
    def __init__(self, text):
        self.inputs = {"x": text}


@pytest.mark.parametrize(
    "text, shape", [("uint8 B V=2 H W C", (8, 2, 4, 4, 3)), ("float32 B 7", (8, 7)), ("int32 B", (8,))]
)
def test_declared_shapes(text, shape):
    found = data.train_structs(Spec(text), Drawn(), SPEC, 8)["x"]
    assert found.shape == shape and str(found.dtype) == text.split()[0]


@dataclasses.dataclass(frozen=True)
class WithBoxes(Drawn):
    @property
    def optional(self):
        return ("x",)


def test_optional_inputs_are_there_where_the_views_give_them():
    wanted = Spec("float32 B 7")
    wanted.inputs = {"x?": "float32 B 7", "image": "uint8 B H W C"}
    assert set(data.train_structs(wanted, Drawn(), SPEC, 8)) == {"image"}
    assert set(data.train_structs(wanted, WithBoxes(), SPEC, 8)) == {"image", "x"}


@pytest.mark.parametrize("text", ["float32 B Q", "float32 B V=", "float32 B *"])
def test_a_letter_without_a_size_is_an_error(text):
    with pytest.raises(PluginError, match="no size for"):
        data.train_structs(Spec(text), Drawn(), SPEC, 8)


def test_features_that_a_data_set_does_not_have_and_parts_of_splits():
    with pytest.raises(ConfigError, match="data set 'kit' has no 'depth'"):
        open_source(KitData(), "train", ("depth",))
    for split, expected in (("train", 48), ("train[0/5]", None), ("train[4/5]", None), ("test[:7]", 7)):
        assert length(KitData(), split) == len(open_source(KitData(), split, ("image",)))
        assert expected is None or length(KitData(), split) == expected


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="batch_size 0 cannot be split"):
        build_stage(stage(batch_size=0))
