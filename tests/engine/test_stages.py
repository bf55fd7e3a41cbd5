"""Recipes of several stages: costs add up, parameters are handed on, and the ledger is the plan that has happened."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pytest
from enginelib import METHODS, accuracy, knn, leaves, outcome, recipe, rows, stage, wasted
from spendflops_plugins.mae import MAE

from spendflops.accounts.ledger import Ledger
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.engine import loop
from spendflops.engine.build import build
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom
from spendflops.study.plan import plan


def two_stages(**changes):
    first = stage("mae", share=0.5)
    second = stage("supervised", share=0.5, init=(InitFrom(stage="mae"),))
    basics = {"evaluations": (accuracy(), knn(stage="mae"), knn(name="last")), "budget": "4e7"}
    return recipe(first, second, **{**basics, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, run_recipe(two_stages(), folder, quiet=True)


def balance(folder, wanted):
    """(plan, ledger, checkpoints x price): FLOPs of the stages, from three places that know nothing of each other."""
    built = build(wanted)
    planned = sum(r["flops"] for r in plan(built)["programs"] if r["role"] != "evaluate")
    booked = Ledger(folder / "ledger.jsonl").total(role="pretrain")
    saved = 0
    for described, b in zip(wanted.stages, built.stages, strict=True):
        checkpoints = Checkpoints(folder / "checkpoints" / described.label)
        saved += int(checkpoints.restore_raw()["opt"]["count"]) * b.train.cost().total
        checkpoints.close()
    return planned, booked, saved


def test_costs_of_the_stages_add_up_to_the_budget(whole):
    folder, result = whole
    prices = [s["flops_per_step"] for s in result["stages"]]
    assert [s["steps"] for s in result["stages"]] == [int(2e7 // p) for p in prices]
    assert result["flops"]["pretrain"] == sum(s["steps"] * s["flops_per_step"] for s in result["stages"]) <= 4e7
    assert result["flops"]["prior"] == result["flops"]["transfer"] == result["flops"]["wasted"] == 0
    assert sum(result["phases"]["pretrain"].values()) == result["flops"]["pretrain"]
    assert result["hardware_flops"]["pretrain"] == result["flops"]["pretrain"]
    assert rows(folder / "metrics.jsonl")[-1]["flops"] == result["flops"]["pretrain"]


def test_plan_ledger_and_checkpoints_agree(whole):
    folder, result = whole
    assert len(set(balance(folder, two_stages()))) == 1
    evaluations = [r for r in plan(build(two_stages()))["programs"] if r["role"] == "evaluate"]
    assert sum(r["flops"] for r in evaluations) == result["flops"]["evaluate"]


def test_the_balance_notices_one_step_more(tmp_path, monkeypatch):
    wanted = recipe(budget="3 steps")
    # A loop that runs one step more than it books.
    train = loop._train

    def more(run, index, state, first, saving):
        state = train(run, index, state, first, saving)
        saving.close()  # two savings at once in one folder would clear away each other's files
        built = run.built.stages[index]
        batch = {n: np.zeros(s.shape, s.dtype) for n, s in built.inputs.items()}
        call = {"key": loop.jax.random.key(0), "steps": np.int32(3)}
        state, _ = built.train.compile()(state, *loop.sharding.place((batch, call), built.train.args[1:]))
        checkpoints = Checkpoints(run.directory.path / "checkpoints" / "mae")
        checkpoints.save(int(state["step"]), state)
        checkpoints.close()
        return state

    monkeypatch.setattr(loop, "_train", more)
    run_recipe(wanted, tmp_path, quiet=True)
    planned, booked, saved = balance(tmp_path, wanted)
    assert planned == booked and saved == planned + build(wanted).stages[0].train.cost().total


def test_what_was_taken_is_printed(whole, tmp_path, capsys):
    run_recipe(two_stages(budget="0", evaluations=()), tmp_path)
    text = capsys.readouterr().err
    assert re.search(r"supervised from mae: \d+ taken, \d+ not used", text)
    assert "supervised adamw: .*/(.*bias|scale|gamma_[12]|cls_token|pos_embed)  13 tensors" in text
    table = (whole[0] / "logs" / "init-supervised-0.txt").read_text()
    assert "taken     backbone/cls_token" in table
    assert "not used  decoder/mask_token" in table


def test_untrained_stages_hand_on_exactly_what_they_took(tmp_path):
    # No step is made: the second stage's backbone is the first one's, to the last bit.
    run_recipe(two_stages(budget="0", evaluations=()), tmp_path, quiet=True)
    first, second = (leaves(load(tmp_path, stage=name).params["backbone"]) for name in ("mae", "supervised"))
    assert first == second


def test_a_kill_between_the_stages_leaves_no_trace(whole, tmp_path, monkeypatch):
    run_stage = loop.run_stage

    def stop(run, index):
        if index == 1:
            raise KeyboardInterrupt  # passes every handler, as a kill does
        run_stage(run, index)

    monkeypatch.setattr(loop, "run_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(two_stages(), tmp_path, quiet=True)
    monkeypatch.undo()
    run_recipe(two_stages(), tmp_path, quiet=True)
    for label in ("mae", "supervised"):
        assert outcome(tmp_path, label) == outcome(whole[0], label)
    assert wasted(tmp_path) == []


def test_evaluations_that_are_done_again_are_wasted_and_productive_once(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.evaluate, "score", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_recipe(two_stages(), tmp_path, quiet=True)
    monkeypatch.undo()
    result = run_recipe(two_stages(), tmp_path, quiet=True)
    assert outcome(tmp_path, "mae") == outcome(whole[0], "mae")
    assert result["flops"]["wasted"] == result["flops"]["evaluate"] == whole[1]["flops"]["evaluate"]


def test_passes_that_differ_in_weights_or_batches_only_are_booked_apart(tmp_path):
    twice = recipe(budget="0", evaluations=(knn(), knn(name="again", batch_size=16)))
    names = [program.name for program, _, role in build(twice).programs() if role == "evaluate"]
    assert len(set(names)) == 4
    result = run_recipe(twice, tmp_path, quiet=True)
    assert result["flops"]["evaluate"] == sum(r["flops"] for r in plan(build(twice))["programs"])
    assert result["scores"][0]["values"] == result["scores"][1]["values"]


def test_evaluators_that_share_data_and_weights_share_the_pass():
    both = recipe(stage("supervised"), evaluations=(knn(), knn(name="b", weights="online"), accuracy()))
    assert [len(p.readers) for p in build(both).predictions] == [2, 3]


def test_a_run_that_starts_from_another_counts_its_flops_as_prior_even_after_a_kill(whole, tmp_path, monkeypatch):
    parent = whole[0]
    init = (InitFrom(run=str(parent)), InitFrom(run=str(parent), select="backbone/norm/.*"))
    tuned = recipe(stage("supervised", role="transfer", length="3 steps", init=init), budget=None)
    monkeypatch.setattr(loop, "run_evaluations", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_recipe(tuned, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    result = run_recipe(tuned, tmp_path / "run", quiet=True)
    assert result["flops"]["prior"] == whole[1]["flops"]["pretrain"]
    assert result["flops"]["transfer"] == 3 * result["stages"][0]["flops_per_step"]
    # A child counts its parent and its grandparent.
    again = (InitFrom(run="../run"),)
    child = recipe(stage("supervised", role="transfer", length="0", init=again), budget=None)
    grand = run_recipe(child, tmp_path / "child", quiet=True)["flops"]
    assert grand["prior"] == result["flops"]["prior"] + result["flops"]["transfer"]


def test_mistakes_of_recipes_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="shares of the pre-training stages sum to 2"):
        recipe(stage("mae"), stage("supervised"))
    with pytest.raises(ConfigError, match="two stages are called 'mae'"):
        recipe(stage("mae", share=0.5), stage("mae", share=0.5))
    with pytest.raises(ConfigError, match="'a/b' cannot be a name"):
        recipe(stage("mae", name="a/b"))
    with pytest.raises(ConfigError, match=r"starts from 'supervised'(.|\n)*the stages before it are \[\]"):
        recipe(stage("mae", share=0.5, init=(InitFrom(stage="supervised"),)), stage("supervised", share=0.5))
    with pytest.raises(ConfigError, match="needs logits; stage 'mae' offers features"):
        build(recipe(evaluations=(accuracy(),)))
    with pytest.raises(ConfigError, match="MAE has no teacher"):
        build(recipe(evaluations=(knn(weights="teacher"),)))
    with pytest.raises(ConfigError, match="pays for no step of stage 'mae'"):
        build(recipe(budget="1e3"))
    missing = stage("supervised", role="transfer", length="1 steps", init=(InitFrom(run="nowhere"),))
    with pytest.raises(DataError, match="nowhere is not a finished run"):
        run_recipe(recipe(missing, budget=None), tmp_path, quiet=True)
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 3


class Mine(MAE):
    """An objective of no distribution, in a stage whose name comes first in the alphabet."""


def test_the_last_stage_is_loaded_by_its_place_and_a_class_by_its_path(tmp_path):
    mine = functools.partial(Mine, **METHODS["mae"].keywords)
    late = stage(objective=mine, name="after", share=0.5, init=(InitFrom(stage="supervised"),))
    run_recipe(recipe(stage("supervised", share=0.5), late, budget="0"), tmp_path, quiet=True)
    model = load(tmp_path)
    assert model.stage == "after" and type(model.definition.example) is Mine
    assert load(tmp_path, stage="supervised").definition.example.head.kernel.shape == (16, 4)
    features = model.features(np.zeros((2, 16, 16, 3), np.uint8))
    assert features["summary"].shape == features["mean_tokens"].shape == (2, 16) and "logits" not in features
    with pytest.raises(ConfigError, match=r"images are float64\[2, 16, 16, 3\]"):
        model.features(np.zeros((2, 16, 16, 3)))
    with pytest.raises(ConfigError, match=r"no stage 'suprevised' \(did you mean 'supervised'\?\)"):
        load(tmp_path, stage="suprevised")
    with pytest.raises(DataError, match="is not a run directory"):
        load(tmp_path / "nowhere")
