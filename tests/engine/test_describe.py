"""The description of a recipe: complete, canonical, the same however it was built."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from spendflops_plugins.mae import MAE, MAEViews

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.describe import canonical, describe, digest
from spendflops.engine.optim import adamw
from spendflops.parts.schedules import WarmupCosine


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 1.0


class Points(Dataset):
    info = DatasetInfo(name="points", features={})

    def __init__(self, number, *, shape=(1, 2)):
        self._hidden = number

    def source(self, split, *, features):
        return []


def test_values():
    value = {
        "b": (1, 2.5, True, None, "a"),
        "a": [Point(1), np.float32(0.5), np.int64(3)],
        "c": {8, 1},
        "d": Path("some/where"),
        "e": math.inf,
        "f": np.dtype("int8"),
        "g": Colour.RED,
        "h": np.arange(3, dtype=np.int16),
        "i": collections.OrderedDict(k=1),
    }
    found = describe(value)
    assert list(found) == list("abcdefghi") and found["b"] == [1, 2.5, True, None, "a"] and found["c"] == [1, 8]
    point = {"@": f"{__name__}:Point", "x": 1, "y": 1.0}
    assert found["a"] == [point, 0.5, 3] and found["d"] == "some/where" and found["f"] == "int8"
    assert found["e"] == {"@": "float", "value": "inf"} and found["g"] == {"@": f"{__name__}:Colour", "value": "RED"}
    assert found["h"]["dtype"] == "int16" and found["h"]["shape"] == [3] and len(found["h"]["sha256"]) == 64
    assert json.loads(canonical(found)) == found


def test_plugins_are_named_by_their_selectors_and_defaults_are_spelt_out():
    bound = functools.partial(MAE, mask_ratio=0.75)
    found = describe(bound)
    assert found["@"] == "objectives.mae" and found["decoder_depth"] == 8 and found["mask_ratio"] == 0.75
    assert not {"backbone", "info", "rngs"} & set(found)
    assert describe(functools.partial(MAE)) == found == describe(MAE)
    assert describe(functools.partial(MAE, mask_ratio=0.5)) != found
    assert describe(MAEViews())["@"] == "objectives.mae.views"


def test_classes_of_the_core_are_named_without_their_module():
    found = describe(adamw(lr=WarmupCosine(peak=1.0, warmup_steps=3)))
    assert found["@"] == "Optimizer" and found["lr"]["@"] == "WarmupCosine" and found["lr"]["warmup_steps"] == 3


def test_data_sets_remember_their_arguments_by_themselves():
    expected = {"@": f"{__name__}:Points", "number": 3, "shape": [1, 2]}
    assert describe(Points(3)) == describe(Points(number=3, shape=(1, 2))) == expected


def test_data_sets_survive_pickling_with_their_arguments():
    import pickle

    assert describe(pickle.loads(pickle.dumps(Points(3)))) == describe(Points(3))


def test_order_does_not_matter_and_values_do():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert digest(Point(1)) == digest(Point(1)) != digest(Point(2))
    assert digest((1, 2)) == digest([1, 2])


def test_the_digest_is_stable():
    text = '{"@":"tests","a":[1,2.5,null,true]}'
    assert canonical({"a": [1, 2.5, None, True], "@": "tests"}) == text


@pytest.mark.parametrize(
    "value, message",
    [
        (Point(object()), r"the recipe.x cannot be written down: a object"),
        ({"a": [1, object()]}, r"the recipe\['a'\]\[1\] cannot"),
        ({1: 2}, "keys that are not strings"),
        (functools.partial(MAE, mask_ratoi=0.5), "does not take these options"),
    ],
)
def test_what_cannot_be_described(value, message):
    with pytest.raises(ConfigError, match=message):
        describe(value)
