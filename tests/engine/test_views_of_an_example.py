"""Evaluations that look at several images an example, and roles that an evaluator supplies itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from enginelib import VIT, recipe, stage

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.evaluator import Evaluator, Preprocess
from spendflops.engine.build import build
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import Group, adamw
from spendflops.engine.recipe import Evaluation
from spendflops.testing.samples import KitData


@dataclasses.dataclass(frozen=True)
class Pair(Preprocess):
    """The image and the image upside down."""

    size: tuple[int, int]

    @property
    def entries(self):
        return {"image": ("uint8", (2, *self.size, 3)), "label": ("int32", ())}

    def __call__(self, sample):
        pixels = sample["image"].decode()[: self.size[0], : self.size[1]]
        return {"image": np.stack([pixels, pixels[::-1]]), "label": np.asarray(sample["label"], np.int32)}


@dataclasses.dataclass(frozen=True)
class Single(Preprocess):
    size: tuple[int, int]
    turned: bool

    @property
    def entries(self):
        return {"image": ("uint8", (*self.size, 3)), "label": ("int32", ())}

    def __call__(self, sample):
        pixels = sample["image"].decode()[: self.size[0], : self.size[1]]
        pixels = np.ascontiguousarray(pixels[::-1]) if self.turned else pixels
        return {"image": pixels, "label": np.asarray(sample["label"], np.int32)}


class Kept(Evaluator):
    """Gives the summaries it saw as scores."""

    primary = "n"

    def __init__(self, *, how: str):
        self.how, self.protocol = how, f"kept/1:{how}"

    def preprocess(self, *, role, info, spec):
        return Pair(spec.size) if self.how == "pair" else Single(spec.size, self.how == "turned")

    def step(self, predictions, batch, ctx):
        return {"metrics": {}, "rows": {"summary": predictions["features"].summary}}

    def result(self, merged, rows, *, info):
        self.seen = rows["eval"]["summary"]
        return {"n": float(len(self.seen))}


def test_several_images_an_example_are_predicted_as_if_they_were_alone(tmp_path):
    kept = {how: Kept(how=how) for how in ("pair", "plain", "turned")}
    evaluations = tuple(
        Evaluation(evaluator=e, name=how, data={"eval": (KitData(), "test")}, batch_size=32) for how, e in kept.items()
    )
    result = run_recipe(recipe(evaluations=evaluations, budget="0 steps"), tmp_path / "run", quiet=True)
    pair, plain, turned = (kept[how].seen for how in ("pair", "plain", "turned"))
    assert pair.shape == (len(plain), 2, 16)
    np.testing.assert_allclose(pair[:, 0], plain, atol=1e-5)
    np.testing.assert_allclose(pair[:, 1], turned, atol=1e-5)
    assert np.abs(plain - turned).max() > 1e-3
    # Two images are two images' FLOPs.
    built = build(recipe(evaluations=evaluations))
    costs = {p.readers[0][0]: p.program.cost().total for p in built.predictions}
    assert costs["pair"] == 2 * costs["plain"] > 0
    assert result["flops"]["evaluate"] > 0


@dataclasses.dataclass(frozen=True)
class Labels(Preprocess):
    """No image at all."""

    @property
    def entries(self):
        return {"label": ("int32", ())}

    def __call__(self, sample):
        return {"label": np.asarray(sample["label"], np.int32)}


class Supplied(Kept):
    """Takes a bank of its own making."""

    roles = ("bank", "eval")

    def __init__(self):
        super().__init__(how="plain")

    def wants(self, role):
        return () if role == "bank" else self.requires

    def supplies(self, data):
        return {"bank": (data["eval"][0], "train")} if "eval" in data else {}

    def preprocess(self, *, role, info, spec):
        return Labels() if role == "bank" else Single(spec.size, False)

    def step(self, predictions, batch, ctx):
        return super().step(predictions, batch, ctx) if "image" in batch else {"rows": {"x": batch["label"]}}

    def result(self, merged, rows, *, info):
        return {"n": float(len(rows["bank"]["x"]))}


def test_an_evaluator_supplies_a_role_and_wants_nothing_of_the_model_there(tmp_path):
    data = KitData()
    given = Evaluation(evaluator=Supplied(), data={"eval": (data, "test")}, batch_size=32)
    assert given.data["bank"] == (data, "train")
    result = run_recipe(recipe(evaluations=(given,), budget="0 steps"), tmp_path / "run", quiet=True)
    assert result["scores"][0]["values"]["n"] == len(data.source("train", features=("image", "label")))
    with pytest.raises(ConfigError, match="roles"):
        Evaluation(evaluator=Supplied(), data={}, batch_size=32)


def test_a_formula_of_the_whole_step_is_not_held_against_one_that_freezes_a_part():
    frozen = adamw(lr=1e-3, groups=(Group(match="backbone/.*", train=False),))
    whole, part = (build(recipe(stage("supervised", backbone=VIT, optimizer=o))) for o in (adamw(lr=1e-3), frozen))
    assert whole.stages[0].train.closed_form == whole.stages[0].train.cost().total
    assert part.stages[0].train.closed_form is None
    assert part.stages[0].train.cost().total < whole.stages[0].train.cost().total / 2
