"""Mixtures: exact shares, every example seen, features and classes that all sets share."""

import collections
import itertools
import pickle

import numpy as np
import pytest
from spendflops_plugins.mixture import SLOTS, Mixture, MixtureSource, shares
from spendflops_plugins.shapes import Shapes

import spendflops.testing
from spendflops.config import compose, load
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.testing.samples import KitData


def small(seed, train=40, **options):
    return Shapes(size=16, length=train, validation=8, probe=8, test=8, seed=seed, **options)


class Numbers:
    def __init__(self, who, length):
        self.who, self.length = who, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"who": self.who, "index": index}


def mixed(sizes, weights):
    return MixtureSource(tuple(Numbers(k, n) for k, n in enumerate(sizes)), shares(weights))


@pytest.mark.parametrize(
    ("sizes", "weights"), [((7, 3000), (1, 3)), ((10, 10, 10), (1, 1, 1)), ((900, 5), (0.2, 0.8)), ((5,), (2,))]
)
def test_shares_are_exact_in_every_thousand_and_every_example_is_seen(sizes, weights):
    source = mixed(sizes, weights)
    drawn = [source[i] for i in range(len(source))]
    want = np.asarray(weights) / sum(weights) * SLOTS
    for begin in range(0, len(source), SLOTS):
        counts = collections.Counter(s["who"] for s in drawn[begin : begin + SLOTS])
        assert all(abs(counts[k] - w) < 1 for k, w in enumerate(want))
    for who, size in enumerate(sizes):
        seen = collections.Counter(s["index"] for s in drawn if s["who"] == who)
        assert set(seen) == set(range(size))
        assert max(seen.values()) - min(seen.values()) <= 1


def test_shares_are_spread_evenly():
    source = mixed((1000, 1000), (1, 4))
    places = [i for i in range(SLOTS) if source[i]["who"] == 0]
    assert {b - a for a, b in itertools.pairwise(places)} == {5}


def test_largest_remainders():
    assert shares((1, 1, 1)) == (334, 333, 333)
    assert sum(shares((0.1234567, 3.3, 7.77))) == SLOTS


def test_a_mixture_of_sets():
    both = Mixture(datasets=[small(0), small(1, train=80)], weights=[1, 1])
    assert both.info.classes == small(0).info.classes
    assert both.info.sizes["train"] == SLOTS
    source = both.source("train", features=("image", "label"))
    assert len(source) == SLOTS
    first = small(0).source("train", features=("image", "label"))
    assert source[0]["image"].digest() == first[0]["image"].digest()
    assert pickle.loads(pickle.dumps(source))[7]["label"] == source[7]["label"]
    with pytest.raises(IndexError):
        source[SLOTS]


def test_weights_by_size_and_splits_of_each():
    mixture = Mixture(datasets=[small(0), small(1)], splits=["train[:30]", "test[0/2]"])
    source = mixture.source("train")
    assert source.counts == shares((30, 4))
    assert len(source) == mixture.info.sizes["train"]


def test_what_a_mixture_is_made_of():
    mixture = Mixture(datasets=[small(0), small(1)], weights=[1, 3], splits=["train[:30]", "test[0/2]"])
    assert mixture.composition("train") == {"shapes-quick": (30, 0.25), "shapes-quick#2": (4, 0.75)}
    assert Mixture(datasets=[small(0)]).composition("test[:5]") == {"shapes-quick": (8, 1.0)}


def test_what_its_sets_leave_out_is_added_up():
    first, second = (small(seed).source("train") for seed in (0, 1))
    first.left_out, second.left_out = {"flat": 2, "lost": 1}, {"flat": 3}
    assert MixtureSource((first, second, small(2).source("train")), (1, 1, 998)).left_out == {"flat": 5, "lost": 1}


def test_labels_of_different_classes_are_left_out():
    mixture = Mixture(datasets=[small(0), small(0, preset="hard")])
    assert "label" not in mixture.info.features and "caption" in mixture.info.features
    assert mixture.info.classes == mixture.info.box_classes == ()
    assert "box_labels" not in mixture.info.features and "boxes" in mixture.info.features
    alike = Mixture(datasets=[small(0), small(1)])
    assert alike.info.box_classes == small(0).info.box_classes and "box_labels" in alike.info.features
    with pytest.raises(ConfigError, match="no feature 'label'"):
        mixture.source("train", features=("label",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"datasets": []}, "needs data sets"),
        ({"datasets": [3]}, "needs data sets"),
        ({"datasets": [small(0)], "weights": [1, 2]}, "1 data sets has 2 weights"),
        ({"datasets": [small(0)], "splits": ["a", "b"]}, "1 data sets has 2 splits"),
        ({"datasets": [small(0), small(1)], "weights": [1, 0]}, "not all positive"),
        ({"datasets": [small(0), small(1)], "weights": [1, float("nan")]}, "not all positive"),
        ({"datasets": [small(0), small(1)], "weights": [1, 1e-6]}, "less than a thousandth"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(ConfigError, match=said):
        Mixture(**options)


def test_a_set_without_examples():
    with pytest.raises(DataError, match="no examples"):
        len(mixed((3, 0), (1, 1)))


def test_in_gin():
    recipe = load(
        compose(
            gin_files=["recipes/pretrain.gin"],
            objective="mae",
            backbone="vit_ti16",
            budget="10 steps",
            bindings=[
                "Stage.dataset = @datasets.mixture()",
                "datasets.mixture.datasets = (@a/datasets.shapes(), @b/datasets.shapes())",
                "datasets.mixture.weights = (1, 3)",
                "b/datasets.shapes.seed = 9",
            ],
        )
    ).object
    assert recipe.stages[0].dataset.info.name == "shapes-quick+shapes-quick"


test_kit = spendflops.testing.dataset_tests(
    Mixture, datasets=[small(0), KitData()], weights=[1, 1], splits=["train", "train"]
)
