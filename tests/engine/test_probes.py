"""Probes: the same model with and without, at the same steps after a kill, charged apart, and a reason to stop."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from enginelib import knn, recipe, rows, stage

from spendflops.contracts.errors import ConfigError, DivergedError
from spendflops.engine import evaluate
from spendflops.engine.build import build
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import Probe
from spendflops.study.plan import plan


def probed(**changes):
    probe = Probe(evaluation=knn(), **{"every": 0.25, **changes})
    return recipe(probes=(probe,), evaluations=(knn(),), budget="12 steps")


def features(folder):
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    return load(folder).features(images)["mean_tokens"]


def productive(folder):
    ledger = rows(folder / "ledger.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in ledger if row["kind"] == "productive"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run_recipe(probed(), folder, quiet=True)


@pytest.mark.parametrize(
    ("every", "steps", "wanted"),
    [(0.25, 12, [3, 6, 9]), (0.1, 5, [1, 2, 3, 4]), (0.3, 10, [3, 6, 9]), (0.5, 1, []), (0.9, 10, [9])],
)
def test_when_a_probe_is_due(every, steps, wanted):
    found = Probe(evaluation=knn(), every=every).steps(steps)
    assert found == wanted


@pytest.mark.parametrize("bad", [{"every": 0.0}, {"every": 1.0}, {"after": 1.5}])
def test_parts_out_of_range(bad):
    with pytest.raises(ConfigError, match="parts of the stage"):
        Probe(evaluation=knn(), **bad)


def test_probes_are_kept_and_charged_apart(whole, tmp_path):
    folder, result = whole
    assert [row["step"] for row in result["probes"]] == [3, 6, 9]
    assert {row["protocol"] for row in result["probes"]} == {result["scores"][0]["protocol"]}
    plain = run_recipe(dataclasses.replace(probed(), probes=()), tmp_path / "plain", quiet=True)
    assert result["flops"]["pretrain"] == plain["flops"]["pretrain"]
    assert result["flops"]["evaluate"] == (3 + 1) * plain["flops"]["evaluate"] > 0
    assert result["scores"] == plain["scores"]
    np.testing.assert_array_equal(features(folder), features(tmp_path / "plain"))
    shown = [row for row in rows(folder / "metrics.jsonl") if "probe/knn/accuracy" in row]
    assert [row["step"] for row in shown] == [3, 6, 9]
    assert all(row["flops"] > 0 and row["seconds"] > 0 and row["examples"] == 8 * row["step"] for row in shown)


def test_a_plan_holds_them(whole):
    _, result = whole
    built = build(probed())
    assert plan(built)["totals"]["evaluate"] == result["flops"]["evaluate"]


def test_after_a_kill_the_rows_are_those_of_an_uninterrupted_run(whole, tmp_path, monkeypatch):
    folder, result = whole
    real, calls = evaluate.score, []

    def killed(*args, **given):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **given)

    monkeypatch.setattr(evaluate, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(probed(), tmp_path / "run", quiet=True)
    # The kill may have come in the middle of a line: the row after it must not be lost behind it.
    with open(tmp_path / "run" / "probes.jsonl", "a", encoding="utf-8") as file:
        file.write('{"stage": "ma')
    again = run_recipe(probed(), tmp_path / "run", quiet=True)
    assert again["probes"] == result["probes"] and again["scores"] == result["scores"]
    assert productive(tmp_path / "run") == productive(folder)
    # What was scored twice is wasted, once.
    assert again["flops"]["wasted"] > 0


@pytest.mark.parametrize(("bounds", "words"), [({"at_least": 2.0}, "at least 2"), ({"at_most": -1.0}, "at most -1")])
def test_a_hopeless_run_stops(tmp_path, bounds, words):
    wanted = probed(after=0.5, **bounds)
    with pytest.raises(DivergedError, match="at step 6 of 12") as caught:
        run_recipe(wanted, tmp_path / "run", quiet=True)
    assert words in str(caught.value)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["exit_code"] == 5
    spent = [row for row in productive(tmp_path / "run") if row["program"].endswith("/train")]
    assert spent[-1]["last"] == 6
    # The same command comes to the same end.
    with pytest.raises(DivergedError, match="at step 6 of 12"):
        run_recipe(wanted, tmp_path / "run", quiet=True)


def test_two_probes_of_one_name_and_one_of_a_stage_that_is_not_there():
    with pytest.raises(ConfigError, match="two probes"):
        recipe(probes=(Probe(evaluation=knn()), Probe(evaluation=knn())))
    with pytest.raises(ConfigError, match="names stage 'nobody'"):
        recipe(probes=(Probe(evaluation=knn(stage="nobody")),))


def test_a_probe_of_the_first_of_two_stages(tmp_path):
    first, second = stage("mae", share=0.5), stage("simclr", share=0.5)
    wanted = recipe(first, second, probes=(Probe(evaluation=knn(stage="mae"), every=0.5),), budget="8 steps")
    result = run_recipe(wanted, tmp_path / "run", quiet=True)
    assert [(row["stage"], row["step"]) for row in result["probes"]] == [("mae", 2)]
