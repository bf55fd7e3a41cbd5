"""Rules about images, captions and classes: what they leave out, in which order, and what they refuse."""

import pickle

import numpy as np
import pytest
from spendflops_plugins.filtered import Filtered
from spendflops_plugins.shapes import Shapes

import spendflops.testing
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.images import ArrayImage
from spendflops.testing.samples import KitData

# (height, width, words, label)
EXAMPLES = [(40, 60, 2, 0), (20, 30, 5, 1), (40, 200, 5, 2), (64, 64, 9, 1), (41, 80, 5, 2), (40, 79, 3, -1)]


class Listed(Dataset):
    """EXAMPLES; every image has other pixels."""

    def __init__(self, examples=tuple(EXAMPLES), features=("image", "label", "caption")):
        specs = {"image": "uint8 H W C", "label": "int32", "caption": "str"}
        self.examples, self.read = tuple(examples), []
        self.info = DatasetInfo(
            name="listed",
            features={f: specs[f] for f in features},
            classes=("a", "b", "c"),
            class_names=("ant", "bee", "cat"),
            sizes={"train": len(examples)},
        )

    def source(self, split, *, features):
        self.read.append(features)
        return [
            {"image": ArrayImage(np.full((h, w, 3), i, np.uint8)), "label": label, "caption": "word " * words}
            for i, (h, w, words, label) in enumerate(self.examples)
        ]


def kept(**rules):
    source = Filtered(dataset=Listed(), **rules).source("train", features=("image",))
    return source._indices.tolist(), source.left_out


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"min_side": 40}, [0, 2, 3, 4, 5]),
        ({"min_side": 41}, [3, 4]),
        ({"max_aspect": 2.0}, [0, 1, 3, 4, 5]),
        ({"max_aspect": 1.5}, [0, 1, 3]),
        ({"min_words": 3}, [1, 2, 3, 4, 5]),
        ({"max_words": 5}, [0, 1, 2, 4, 5]),
        ({"min_words": 3, "max_words": 5}, [1, 2, 4, 5]),
        ({"classes": ("b", "a")}, [0, 1, 3]),
    ],
)
def test_each_rule_keeps_what_it_says(rules, left):
    assert kept(**rules)[0] == left


def test_an_example_counts_for_the_first_rule_that_it_fails():
    places, left_out = kept(classes=("a", "b"), min_side=40, max_words=5)
    assert places == [0]
    assert left_out == {"classes": 3, "min_side": 1, "max_words": 1}
    source = Filtered(dataset=Listed(), min_side=40).source("train", features=("image",))
    assert repr(source).endswith("left out 1 by min_side")


def test_labels_are_numbers_of_the_classes_that_are_kept():
    data = Filtered(dataset=Listed(), classes=("c", "b"))
    assert data.info.classes == ("c", "b") and data.info.class_names == ("cat", "bee") and not data.info.sizes
    source = data.source("train", features=("image", "label"))
    assert [source[i]["label"] for i in range(len(source))] == [1, 0, 1, 0]
    assert [pickle.loads(pickle.dumps(source.left_out))] == [{"classes": 2}]


def test_images_of_a_test_set_are_left_out_by_their_bytes():
    test = Listed(examples=EXAMPLES[:3])
    data = Filtered(dataset=Listed(), exclude=test, exclude_split="train[:2]")
    source = data.source("train", features=("image",))
    assert len(source) == 4 and source.left_out == {"exclude": 2}


def test_only_what_the_rules_read_is_read_and_only_once():
    inner = Listed()
    data = Filtered(dataset=inner, min_words=3)
    data.source("train", features=("image",))
    data.source("train", features=("image", "label"))
    assert inner.read == [("caption",), ("image",), ("image", "label")]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "no rule"),
        ({"classes": ("bb",)}, "did you mean 'b'"),
        ({"max_aspect": 0.5}, "an aspect of at least 1"),
        ({"min_words": 4, "max_words": 3}, "max_words not below"),
        ({"min_side": -1}, "from 0 on"),
    ],
)
def test_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        Filtered(dataset=Listed(), **rules)


def test_a_rule_about_what_the_data_lack_and_a_filter_that_leaves_nothing():
    with pytest.raises(ConfigError, match="min_words reads 'caption'"):
        Filtered(dataset=Listed(features=("image",)), min_words=1)
    with pytest.raises(ConfigError, match="give a Dataset"):
        Filtered(dataset="folder", min_side=1)
    with pytest.raises(DataError, match="nothing is left of listed:train"):
        Filtered(dataset=Listed(), min_side=1000).source("train", features=("image",))


def test_a_filtered_source_survives_pickling():
    shapes = Shapes(size=16, length=24, validation=8, probe=8, test=8)
    source = Filtered(dataset=shapes, classes=shapes.info.classes[:2]).source("train", features=("image", "label"))
    again = pickle.loads(pickle.dumps(source))
    assert again.left_out == source.left_out and {again[i]["label"] for i in range(len(again))} == {0, 1}
    np.testing.assert_array_equal(again[1]["image"].decode(), source[1]["image"].decode())


def test_what_the_data_leave_out_is_said_with_it():
    class Gone(Listed):
        def source(self, split, *, features):
            source = _Counted(super().source(split, features=features))
            source.left_out = {"a box without area": 7}
            return source

    source = Filtered(dataset=Gone(), min_side=41).source("train", features=("image",))
    assert source.left_out == {"a box without area": 7, "min_side": 4}
    assert "4 by min_side" in repr(source) and Filtered(dataset=KitData(), min_side=1).info.box_classes


class _Counted(list):
    """A list that can have attributes."""


test_kit = spendflops.testing.dataset_tests(Filtered, dataset=KitData(), min_side=1)
