"""The cells of a study: methods x data sets, with overlays where a method's settings depend on the data."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import knn, stage

from spendflops.config.compose import compose, load
from spendflops.contracts.errors import ConfigError
from spendflops.engine.optim import adamw
from spendflops.study.grid import Study
from spendflops.study.transfers import Transfer
from spendflops.testing.samples import KitData

A, B = KitData(length=32), KitData(length=40)
FIXED = {"title": "T", "question": "Q", "budgets": ("3e7", "6e7"), "evaluations": (knn(),), "primary": "knn"}
LATER = stage("mae", role="transfer", length="1 steps")
GIN = """
Study.title = 'T'
Study.question = 'Q'
Study.budgets = ('3e7',)
Study.methods = {'mae': (@mae/Stage(),)}
Study.datasets = {'a': @a/datasets.shapes(), 'b': @b/datasets.shapes()}
Study.overlays = {'mae/b': (@mae/b/Stage(),)}
Study.evaluations = (@Evaluation(),)
Study.primary = 'knn'
Evaluation.evaluator = @evaluators.knn()
Evaluation.data = {'bank': (@a/datasets.shapes(), 'train'), 'query': (@a/datasets.shapes(), 'test')}
a/datasets.shapes.seed = 1
b/datasets.shapes.seed = 2
Stage.backbone = @backbones.vit
backbones.vit.image_size = 32
backbones.vit.dim = 16
backbones.vit.heads = 2
Stage.dataset = @a/datasets.shapes()
Stage.batch_size = 8
Stage.optimizer = @optim.adamw()
mae/Stage.objective = @objectives.mae
mae/objectives.mae.decoder_dim = 16
mae/objectives.mae.mask_ratio = 0.75
mae/optim.adamw.lr = 0.125
mae/b/objectives.mae.mask_ratio = 0.5
mae/b/optim.adamw.lr = 0.25
"""


def made(**changes):
    methods = {"mae": (stage("mae"),), "simclr": (stage("simclr"),)}
    return Study(**{**FIXED, "methods": methods, **changes})


def test_every_method_is_trained_on_every_data_set():
    rows = made(datasets={"a": A, "b": B}, seeds=(0, 1)).pretraining()
    assert len(rows) == 2 * 2 * 2 * 2 and len({r.run_id for r in rows}) == len(rows)
    # Both are called "kit" by themselves; they are told apart by the label that the study gives them.
    assert A.info.name == B.info.name
    assert {(r.dataset, r.recipe.stages[0].dataset) for r in rows if r.label == "mae"} == {("a", A), ("b", B)}


def test_without_data_sets_each_stage_keeps_its_own():
    methods = {"mae": (stage("mae", dataset=A),), "simclr": (stage("simclr", dataset=B),)}
    assert {(r.label, r.recipe.stages[0].dataset) for r in made(methods=methods).pretraining()} == {
        ("mae", A),
        ("simclr", B),
    }


def test_an_overlay_replaces_the_stages_of_its_cell_alone():
    other = functools.partial(stage, "mae", optimizer=adamw(lr=0.5))
    cells = list(made(datasets={"a": A, "b": B}, overlays={"mae/b": (other(),)}).cells())
    rates = {(method, stages[0].dataset): stages[0].optimizer.lr for method, stages in cells}
    assert rates == {("mae", A): 1e-3, ("mae", B): 0.5, ("simclr", A): 1e-3, ("simclr", B): 1e-3}


def test_cells_may_have_lengths_of_their_own():
    lengths = {"b": ("10 steps", "20 steps"), "mae/b": ("5 steps",), "simclr/a": ()}
    made_ = made(datasets={"a": A, "b": B}, lengths=lengths, budgets=("3 steps",))
    found = {(r.label, r.recipe.stages[0].dataset, r.budget) for r in made_.pretraining()}
    assert found == {
        ("mae", A, "3 steps"),
        ("mae", B, "5 steps"),
        ("simclr", B, "10 steps"),
        ("simclr", B, "20 steps"),
    }
    assert [label for label, _ in made_.cells()] == ["mae", "mae", "simclr"]
    assert len({r.run_id for r in made_.pretraining()}) == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": {"c": ("1e7",)}}, r"'c', which matches no cell"),
        ({"lengths": {"maa/b": ("1e7",)}}, r"did you mean 'mae/b'"),
        ({"lengths": {"b": ("1e7", "5 steps")}}, "in several units"),
        ({"lengths": {"b": ("1e7",)}, "finetune": stage("mae", role="transfer", length="1 steps")}, "beside"),
        ({"transfers": {"t": Transfer(stage=LATER, evaluations=(knn(),), methods=("maee",))}}, "did you mean 'mae'"),
    ],
)
def test_lengths_and_methods_that_cannot_be_meant(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        made(datasets={"a": A, "b": B}, **changes)


def test_a_transfer_may_follow_some_methods_from_their_longest_rows():
    transfer = Transfer(stage=LATER, evaluations=(knn(),), methods=("simclr",), rows="largest")
    lengths = {"b": ("10 steps", "20 steps"), "a": ("9 steps", "2 steps")}
    other = KitData(length=40)
    other.info = dataclasses.replace(other.info, name="other")
    made_ = made(datasets={"a": A, "b": other}, lengths=lengths, transfers={"t": transfer})
    starts = made_.starts(made_.pretraining(), transfer)
    assert [[row and (row.label, row.budget) for row in rows] for rows in starts] == [
        [("simclr", "9 steps")],
        [("simclr", "20 steps")],
        [None],
    ]


@pytest.mark.parametrize("name, sets", [("mae/c", {"a": A}), ("maa/a", {"a": A}), ("mae", {"a": A}), ("mae/a", {})])
def test_an_overlay_that_matches_no_cell_is_an_error(name, sets):
    with pytest.raises(ConfigError, match="matches no cell"):
        made(datasets=sets, overlays={name: (stage("mae"),)})


def test_in_gin_an_overlay_is_a_scope_inside_the_scope_of_its_method(tmp_path):
    file = tmp_path / "study.gin"
    file.write_text(GIN)
    cells = dict(
        zip("ab", (s[0] for _, s in load(compose(gin_files=[file]), root="Study").object.cells()), strict=True)
    )
    assert [cells[k].optimizer.lr for k in "ab"] == [0.125, 0.25]
    assert [cells[k].objective.keywords["mask_ratio"] for k in "ab"] == [0.75, 0.5]
    assert [cells[k].objective.keywords["decoder_dim"] for k in "ab"] == [16, 16]


def test_a_method_may_have_scores_of_its_own():
    own = knn(name="own")
    rows = made(own_evaluations={"mae": (own,)}, random=(stage("mae"),)).pretraining()
    asked = {row.label: [e.label for e in row.recipe.evaluations] for row in rows}
    assert asked == {"random": ["knn"], "mae": ["knn", "own"], "simclr": ["knn"]}
    with pytest.raises(ConfigError, match="did you mean 'mae'"):
        made(own_evaluations={"mea": (own,)})
