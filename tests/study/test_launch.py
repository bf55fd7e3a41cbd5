"""A study in a folder: fair rows, stable names, nothing done twice."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import enginelib
from enginelib import METHODS, accuracy, knn, stage

from spendflops.contracts.errors import DivergedError
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.load import load
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Probe
from spendflops.study import failures
from spendflops.study import launch as launching
from spendflops.study.grid import Study
from spendflops.study.launch import Launch
from spendflops.study.plan_study import plan_study


def study(*, lr=1e-3, **changes):
    """Two methods with their frozen scores, a random backbone, a fine-tune and training from scratch."""
    still = {"optimizer": adamw(lr=lr)}
    transfer = stage("supervised", role="transfer", length="2e7", **still)
    basics = {
        "title": "Tiny",
        "question": "Which?",
        "methods": {m: (stage(m, **still),) for m in ("supervised", "mae")},
        "budgets": ("3e7",),
        "seeds": (0,),
        "random": (stage("supervised", **still),),
        "evaluations": (knn(),),
        "primary": "knn",
        "finetune": transfer,
        "scratch": transfer,
        "transfer_evaluations": (accuracy(),),
    }
    return Study(**{**basics, **changes})


def run(wanted, folder, **options):
    said = []
    return Launch(study=wanted, folder=folder, quiet=True, say=said.append, **options).run(), said


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    report, said = run(study(), folder, features=FeatureCache(folder=folder / "features"))
    return folder, report, said


def by_label(report):
    return {r.label: r for r in report.rows}


def features(folder, row):
    """What the frozen evaluators read, in full precision: scores of an easy task could agree by chance."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    return load(folder / "rows" / row.run_id).features(images)["mean_tokens"].tobytes()


def test_rows_and_their_costs(first):
    folder, report, said = first
    assert [(r.label, r.kind) for r in report.rows] == [
        ("random", "baseline"),
        ("supervised", "method"),
        ("mae", "method"),
        (next(r.label for r in report.rows if r.kind == "transfer"), "transfer"),
        ("scratch", "baseline"),
    ]
    rows = by_label(report)
    assert rows["random"].flops["pretrain"] == 0 and rows["random"].status == "ok"
    for method in ("supervised", "mae"):
        row = rows[method]
        assert 0 < row.flops["pretrain"] <= 3e7 and row.flops["pretrain"] == row.hardware_flops
        assert sum(row.phases.values()) == row.flops["pretrain"]
        assert [(t.name, t.flops[-1]) for t in row.traces] == [("loss", row.flops["pretrain"])]
    tuned = next(r for r in report.rows if r.kind == "transfer")
    parent = rows[tuned.label.removeprefix("fine-tune of ")]
    assert (
        tuned.flops["pretrain"] == parent.flops["pretrain"] and tuned.seconds["pretrain"] == parent.seconds["pretrain"]
    )
    # Training from scratch may spend what the route spends: the budget and the fine-tune.
    assert rows["scratch"].flops["transfer"] <= 3e7 + tuned.flops["transfer"]
    assert {s.evaluator for s in tuned.scores} == {"knn", "accuracy"} and len(said) >= 5
    assert report.overlap and (folder / "rows" / tuned.run_id / "result.json").exists()


def test_the_plan_is_the_ledger_of_all_rows_before_they_have_happened(first):
    report = first[1]
    body = plan_study(study())
    assert body["runs"] == len(report.rows)
    for role in ("pretrain", "transfer", "evaluate"):
        assert body["totals"][role] == sum(row.own(role) for row in report.rows), role


def test_finished_rows_are_never_run_again_wherever_the_study_is_called_from(first, monkeypatch):
    folder, report, _ = first
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(launching, "run_recipe", _only_finished(launching.run_recipe))
    again, said = run(study(), Path(folder.name))
    assert [r.run_id for r in again.rows] == [r.run_id for r in report.rows]
    assert sum("finished, not run again" in line for line in said) == 5
    assert [r.scores for r in again.rows] == [r.scores for r in report.rows]


def _only_finished(run_recipe):
    def refuse(recipe, folder, **options):
        assert (folder / "result.json").exists(), f"{folder} runs again"
        return run_recipe(recipe, folder, **options)

    return refuse


@pytest.mark.slow
def test_a_learning_rate_of_zero_gives_exactly_the_scores_of_a_random_backbone(tmp_path):
    still = study(lr=0.0, finetune=None, scratch=None, transfer_evaluations=())
    report, _ = run(still, tmp_path)
    rows = by_label(report)
    for method in ("supervised", "mae"):
        assert [s.value for s in rows[method].scores] == [s.value for s in rows["random"].scores]
        assert features(tmp_path, rows[method]) == features(tmp_path, rows["random"])


def test_another_study_of_the_same_rows_finds_their_features(first, tmp_path):
    folder, report, _ = first
    assert not any(row.cached for row in report.rows)
    fewer = study(methods={"supervised": (stage("supervised"),)}, finetune=None, scratch=None, transfer_evaluations=())
    again, _ = run(fewer, tmp_path, features=FeatureCache(folder=folder / "features"))
    for label, row in by_label(again).items():
        before = by_label(report)[label]
        assert row.scores == before.scores and row.flops["evaluate"] == row.cached == before.own("evaluate") > 0
        assert row.own("evaluate") == 0


def test_training_changes_what_the_scores_are_made_of(first):
    folder, report, _ = first
    rows = by_label(report)
    assert len({features(folder, rows[label]) for label in ("random", "supervised", "mae")}) == 3


def test_backbones_start_alike_whatever_the_method_and_differ_between_seeds(tmp_path):
    from enginelib import leaves, recipe

    from spendflops.engine.loop import run_recipe

    made = {}
    for method, seed in (("mae", 0), ("supervised", 0), ("mae", 1)):
        folder = tmp_path / f"{method}-{seed}"
        run_recipe(recipe(stage(method), budget="0", seed=seed), folder, quiet=True)
        made[method, seed] = leaves(load(folder).params["backbone"])
    assert made["mae", 0] == made["supervised", 0]
    kernels = [p for p in made["mae", 0] if p.endswith("kernel")]
    assert kernels and all(made["mae", 0][p] != made["mae", 1][p] for p in kernels)


@pytest.mark.slow
def test_another_seed_changes_every_score_and_no_price(tmp_path):
    from enginelib import recipe, rows

    from spendflops.engine.loop import run_recipe

    results = [
        run_recipe(recipe(stage("supervised"), budget="3e7", seed=seed, log_every=1), tmp_path / str(seed), quiet=True)
        for seed in (0, 1)
    ]
    losses = [[r["loss"] for r in rows(tmp_path / str(seed) / "metrics.jsonl")] for seed in (0, 1)]
    assert all(a != b for a, b in zip(*losses, strict=True))
    assert results[0]["flops"] == results[1]["flops"] and results[0]["phases"] == results[1]["phases"]


def test_failed_rows_are_kept_and_run_again_on_request_only(tmp_path, monkeypatch):
    wanted = study(finetune=None, scratch=None, transfer_evaluations=(), random=None)
    wild = dataclasses.replace(wanted, methods={"wild": (stage("mae"),)}, budgets=("1e7",))
    calls = []

    def failing(recipe, folder, **options):
        calls.append(folder)
        raise DivergedError("stage 'mae' diverged at step 3", fix="a lower learning rate")

    real = launching.run_recipe
    monkeypatch.setattr(launching, "run_recipe", failing)
    report, said = run(wild, tmp_path)
    assert report.rows[0].status == "failed: stage 'mae' diverged at step 3" and len(calls) == 1
    assert report.rows[0].footprint is None  # it stopped before its folder said where it runs
    body = json.loads((calls[0] / "failed.json").read_text())
    assert body["exit_code"] == 5 and "DivergedError" in body["traceback"]
    report, said = run(wild, tmp_path)
    assert len(calls) == 1 and "--retry runs it again" in said[-1]
    monkeypatch.setattr(launching, "run_recipe", real)
    report, _ = run(wild, tmp_path, retry=True)
    assert report.rows[0].status == "ok" and not (calls[0] / "failed.json").exists()


def test_a_worker_that_is_there_takes_up_what_may_run_again(tmp_path, monkeypatch):
    wanted = study(finetune=None, scratch=None, transfer_evaluations=(), random=None)
    two = dataclasses.replace(wanted, methods={"mae": (stage("mae"),)}, budgets=("1e7",), seeds=(0, 1))
    real, calls = launching.run_recipe, []

    def once_failing(recipe, folder, **options):
        calls.append(recipe.seed)
        if len(calls) == 1:
            raise DivergedError("stage 'mae' diverged at step 3", fix="a lower learning rate")
        failures.clear(tmp_path / "rows", reason="tried again")
        return real(recipe, folder, **options)

    monkeypatch.setattr(launching, "run_recipe", once_failing)
    report, _ = run(two, tmp_path)
    assert calls == [0, 1, 0] and [row.status for row in report.rows] == ["ok", "ok"]


def test_what_a_failed_run_computed_has_a_footprint(tmp_path, monkeypatch):
    wanted = study(finetune=None, scratch=None, transfer_evaluations=(), random=None)
    wild = dataclasses.replace(wanted, methods={"wild": (stage("mae"),)}, budgets=("1e7",))
    monkeypatch.setattr(launching, "finished_row", lambda *_: 1 / 0)
    (row,) = run(wild, tmp_path)[0].rows
    assert not row.ok and row.seconds["wasted"] > 0 and row.flops["wasted"] > 0 and row.traces
    assert row.footprint.hours == pytest.approx(row.seconds["wasted"] / 3600) and row.footprint.kg > 0


IDS = """
import json, pathlib, sys
sys.path.insert(0, str(pathlib.Path({tests!r}) / "study"))
from test_launch import study
print(json.dumps([p.run_id for p in study(seeds=(0, 1)).pretraining()]))
"""


def test_names_of_rows_are_the_same_in_every_process():
    text = IDS.format(tests=str(Path(__file__).parents[1]))
    here = [p.run_id for p in study(seeds=(0, 1)).pretraining()]
    assert len(set(here)) == 6
    assert enginelib.python(text, PYTHONHASHSEED="1") == here


def test_names_follow_everything_that_matters():
    plain = [p.run_id for p in study().pretraining()]
    hotter = [p.run_id for p in study(lr=2e-3).pretraining()]
    deeper = functools.partial(METHODS["mae"], mask_ratio=0.5)
    other = study(methods={"supervised": (stage("supervised"),), "mae": (stage(objective=deeper, name="mae"),)})
    assert not set(plain) & set(hotter)
    assert [a == b for a, b in zip(plain, [p.run_id for p in other.pretraining()], strict=True)] == [True, True, False]


def test_a_probe_stops_a_hopeless_row_and_the_others_go_on(tmp_path):
    bound = Probe(evaluation=knn(), every=0.5, at_least=2.0, after=0.0)
    wanted = study(probes=(bound,), methods={"mae": (stage("mae"),)}, finetune=None, scratch=None)
    report, _ = run(wanted, tmp_path)
    hopeless, random = by_label(report)["mae"], by_label(report)["random"]
    assert random.ok and "hopeless" in hopeless.status and not hopeless.scores
    # What it spent until then is counted as wasted: half of its budget, and the probe.
    assert 1.5e7 < hopeless.flops["wasted"] < 6e7 and hopeless.seconds["wasted"] > 0
