"""A budget of hours is turned into FLOPs once: what a run was given is in its folder, whatever the tables say later."""

import json

import pytest
from enginelib import VIT, recipe, stage

from spendflops.accounts import budget
from spendflops.contracts.errors import ConfigError
from spendflops.engine.build import build
from spendflops.engine.loop import run_recipe
from spendflops.study.grid import Planned
from spendflops.study.plan import cautions
from spendflops.study.results import finished_row


def hours_of(steps, text="H200"):
    """The budget of some steps of the small MAE."""
    flops = build(recipe()).stages[0].train.cost().total * (steps + 0.6)
    return f"{flops / (989e12 * 0.4) / 3600:.6e}h@{text}"


def test_hours_are_resolved_once_and_kept_with_their_factors(tmp_path, monkeypatch):
    made = recipe(budget=hours_of(2))
    run_recipe(made, tmp_path, quiet=True)
    kept = json.loads((tmp_path / "config.json").read_text())["resolved"]
    assert kept["steps"] == {"mae": 2} and kept["budget"]["text"] == made.budget
    assert kept["budget"]["factors"]["utilisation"]["tag"] == "assumed"
    # Another guess in a later version changes neither the steps of this run nor the budget that its row shows.
    monkeypatch.setattr(budget.utilisation, "ASSUMED", budget.Figure(value=0.8, source="another guess"))
    assert build(made).steps == (5,)
    result = run_recipe(made, tmp_path, quiet=True)
    planned = Planned(label="mae", kind="method", seed=0, budget=made.budget, recipe=made)
    row = finished_row(planned, tmp_path, result)
    assert row.steps == 2 and row.budget == kept["budget"]["flops"]


def test_the_factors_are_told_before_anything_is_spent():
    notes = cautions(build(recipe(budget=hours_of(4))), "mae")
    assert "0.4 of the peak: a guess" in notes[0] and "on 1xH200-SXM@world" in notes[0]
    # The small MAE computes in float32, at half the peak that hours were turned into FLOPs with.
    assert "0% of its FLOPs are bfloat16" in notes[1] and "2.00 times as long" in notes[1]
    assert cautions(build(recipe(budget="4 steps")), "mae")[0].startswith("mae at 4 steps")


def test_a_peak_that_is_the_same_for_both_types_needs_no_note():
    flops = build(recipe()).stages[0].train.cost().total
    notes = cautions(build(recipe(budget=f"{8 * flops / (123e12 * 0.4) / 3600:.6e}h@TPUv3")), "mae")
    assert not [note for note in notes if "times as long" in note]
    half = stage("mae", backbone=VIT)
    assert build(recipe(half, budget=hours_of(1))).steps == (1,)


def test_hours_that_pay_for_no_step():
    with pytest.raises(ConfigError, match=r"pays for no step(.|\n)*costs"):
        build(recipe(budget="1e-20h@H200"))
