"""Plans of recipes and studies with hours and kg: sums by hand, and the paper's grid."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import knn, recipe, stage

from spendflops import config
from spendflops.accounts import machines
from spendflops.accounts.figures import given
from spendflops.accounts.footprint import estimate
from spendflops.accounts.speed import Speed, fit
from spendflops.cli.main import main
from spendflops.contracts.errors import ConfigError
from spendflops.engine.build import build
from spendflops.study.grid import Study
from spendflops.study.plan import plan
from spendflops.study.plan_study import plan_study
from spendflops.study.report import planned
from spendflops.study.terms import Terms

A100 = Terms(machine=machines.parse("8xA100@europe-west4"), utilisation=given(0.5))
HERE = machines.Host(kind="cpu", devices=1, cores=2)


def law(slope=-1.0):
    speeds = [
        Speed(method=m, flops=10**n, seconds=(10.0**n / 1e9) ** -slope) for n, m in ((6, "a"), (7, "b"), (8, "a"))
    ]
    return fit(speeds).law


def test_hours_of_a_recipe_by_hand():
    built = build(recipe(stage("mae"), evaluations=(knn(),), budget="6 steps"))
    body = plan(built, terms=A100)
    # Everything is float32, at TF32's peak.
    flops = sum(body["totals"].values())
    hours = flops / (8 * 156e12 * 0.5) / 3600
    assert body["price"]["hours"] == pytest.approx(hours) == pytest.approx(sum(r["hours"] for r in body["programs"]))
    found = estimate(hours=hours, machine=A100.machine)
    assert body["price"]["footprint"]["kg"] == pytest.approx(found.kg)
    assert body["hours_from"] == "utilisation 0.5 of the peak: given by the user (given)"
    text = planned.recipe({**body, "notes": ["careful"]}, "mae")
    for words in ("8xA100-SXM4-80GB@europe-west4", "given by the user", "208.81 g CO2e/kWh", "PUE: 1.09", "careful"):
        assert words in text


def test_hours_by_a_law_have_an_interval_and_say_how_far_outside_they_are():
    terms = Terms(machine=machines.parse("this@DE", here=HERE), law=law())
    built = build(recipe(stage("mae"), budget="6 steps"))
    flops = built.stages[0].train.cost().total
    price = terms.price([(built.stages[0].train.cost(), 6)])
    assert price.hours == pytest.approx(6 * flops / 1e9 / 3600) and price.low <= price.hours <= price.high
    assert price.extrapolated == pytest.approx(max(1, 10**6 / flops, flops / 10**8))
    assert price.footprint.kg == pytest.approx(price.hours * 20 / 1000 * 0.38095)
    assert "a power law through 3 timed programs" in terms.told


def test_no_hours_are_no_kg_and_a_reason():
    terms = Terms(machine=machines.parse("this", here=HERE))
    body = plan(build(recipe(stage("mae"), budget="6 steps")), terms=terms)
    assert body["price"]["hours"] is None and body["price"]["footprint"] is None
    assert "no peak of cpu for float32" in planned.recipe({**body, "notes": []}, "mae")


def test_the_calculators_arithmetic_may_be_asked_for():
    terms = Terms(machine=machines.parse("32xTPUv3@europe-west1"), basis="mlco2")
    price = terms.price([(build(recipe(stage("mae"))).stages[0].train.cost(), 10**12)])
    assert price.footprint.basis == "mlco2" and price.footprint.pue == 1
    with pytest.raises(ConfigError, match="unknown basis 'mlco'"):
        Terms(machine=terms.machine, basis="mlco")


def test_a_study_is_the_sum_of_its_runs():
    made = Study(
        title="T",
        question="Q",
        methods={"mae": (stage("mae"),), "simclr": (stage("simclr"),)},
        budgets=("3e7", "6e7"),
        seeds=(0, 1, 2),
        evaluations=(knn(),),
        primary="knn",
        random=(stage("mae"),),
    )
    body = plan_study(made, terms=A100)
    assert [(r["label"], r["runs"]) for r in body["rows"]] == [
        ("random", 3), ("mae", 3), ("mae", 3), ("simclr", 3), ("simclr", 3),
    ]  # fmt: skip
    totals = {"pretrain": 0, "transfer": 0, "evaluate": 0}
    for row in made.pretraining():
        for program, calls, role in build(row.recipe).programs():
            totals[role] += program.cost().total * calls
    assert body["totals"] == totals and body["runs"] == 15
    assert sum(r["total"] for r in body["rows"]) == sum(totals.values())
    assert body["price"]["hours"] == pytest.approx(sum(r["price"]["hours"] for r in body["rows"]))
    assert json.loads(json.dumps(body)) == body
    text = planned.study(body)
    assert len(re.findall(r"^pretrain ", text, re.MULTILINE)) == 4 and "15 runs: pretrain" in text


def test_the_command_line(capsys, tmp_path):
    call = ["plan", "--objective", "mae", "--backbone", "vit_ti16", "--dataset", "shapes", "--budget", "1e16"]
    assert main([*call, "--machine", "1xH200@DE", "--utilisation", "0.3", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["totals"]["pretrain"] / (989e12 * 0.3) / 3600 == pytest.approx(body["price"]["hours"], rel=0.01)
    assert body["machine"] == "1xH200-SXM@DE" and body["price"]["footprint"]["kwh"] > 0
    for wrong, reason in (
        (["--machine", "8xH101"], "did you mean 'h100'"),
        (["--utilisation", "0.3"], "--utilisation without --machine"),
        (["--machine", "H200", "--utilisation", "3"], "a utilisation of 3"),
        (["--machine", "H200", "--speeds", str(tmp_path)], "about the machine on which these runs ran"),
        (["--speeds", str(tmp_path)], "no finished run"),
        (["--target", "v7x:2x2x1"], "did you mean 'tpu7x'"),
        (["--machine", "H200@europe-west7"], "unknown region 'europe-west7'"),
        (["--budget", "1e9"], "pays for no step"),
    ):
        assert main([*call, *wrong]) in (2, 3)
        assert reason in capsys.readouterr().err
    for wrong in (["--compile"], ["--target", "v3:4x8x1"]):
        assert main(["plan", "--root", "Study", "--gin_file", "studies/smoke.gin", *wrong]) == 2
        assert "for one recipe" in capsys.readouterr().err


@pytest.mark.slow
def test_the_paper_is_planned_without_allocating_parameters():
    loaded = config.load(config.compose(gin_files=["studies/paper.gin"], bindings=[]), root="Study")
    body = plan_study(loaded.object, terms=Terms(machine=machines.parse("32xTPUv3@europe-west1")))
    by = {(r["label"], r["dataset"], r["budget"], r["follow_up"]): r for r in body["rows"] if r["kind"] != "tuning"}
    assert len([r for r in body["rows"] if r["kind"] == "method"]) == 2 * (13 + 11 + 11 + 10 + 11 + 7)
    base, large = (by[f"mae {size}", "imagenet1k", "250000 steps", ""] for size in "BL")
    assert base["flops_per_step"] == 238_950_908_166_144 and base["repeats"] == pytest.approx(799.3, abs=0.1)
    assert large["flops_per_step"] / base["flops_per_step"] == pytest.approx(124.23 / 58.46, rel=0.01)
    # 12 settings of the longest row, then 5 seeds from every row.
    tuned = [r for r in body["rows"] if r["kind"] == "tuning" and r["label"] == "mae B"]
    assert [r["runs"] for r in tuned] == [12] * 5
    assert sum(r["runs"] for r in body["rows"] if r["kind"] == "transfer" and r["label"] == "mae B") == 13 * 5
    # The page that compares it with the paper holds these numbers.
    page = json.loads((Path(__file__).parents[2] / "docs" / "paper_plan.json").read_text(encoding="utf-8"))
    assert page["totals"] == body["totals"] and page["runs"] == body["runs"]
    assert body["price"]["hours"] > 1000 and body["price"]["footprint"]["machine"] == "32xTPUv3@europe-west1"
