"""Transfers of a study: every row is followed by them, settings are chosen once a method, and paid for."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import METHODS, VIT, accuracy, knn, stage

from spendflops.config.compose import compose, load
from spendflops.contracts.errors import ConfigError
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import InitFrom
from spendflops.parts.schedules import Constant, WarmupCosine
from spendflops.study.grid import Study
from spendflops.study.labels import by_labels
from spendflops.study.launch import Launch
from spendflops.study.plan_study import plan_study
from spendflops.study.points import SCRATCH, axes
from spendflops.study.report import files, planned, tables
from spendflops.study.transfers import Transfer, sweep

PEAKS = (1e-6, 0.02)


def labelled(**changes):
    schedule = WarmupCosine(peak=1e-3, warmup_fraction=0.1)
    return stage("supervised", role="transfer", length="3 steps", optimizer=adamw(lr=schedule), **changes)


def study(**changes):
    tuned = Transfer(stage=labelled(), evaluations=(accuracy(),), candidates=sweep(stage=labelled(), lr=PEAKS))
    few = Transfer(stage=labelled(split="train[:16]"), evaluations=(accuracy(),))
    basics = {
        "title": "Tiny",
        "question": "Which?",
        "methods": {m: (stage(m),) for m in ("mae", "simclr")},
        "budgets": ("2e7", "4e7"),
        "seeds": (0, 1),
        "transfers": {"tuned": tuned, "16 labels": few},
    }
    return Study(**{**basics, **changes})


def run(wanted, folder, **options):
    said = []
    return Launch(study=wanted, folder=folder, quiet=True, say=said.append, **options).run(), said


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    report, said = run(study(), folder)
    return folder, report, said


def of(report, **wanted):
    return [r for r in report.rows if all(getattr(r, k) == v for k, v in wanted.items())]


def test_every_row_is_followed_and_settings_are_chosen_once_a_method(first):
    _, report, said = first
    assert all(row.ok for row in report.rows)
    assert len(of(report, kind="method")) == 2 * 2 * 2
    # 2 candidates for MAE, SimCLR and no pre-training.
    tried = of(report, kind="tuning")
    assert len(tried) == 3 * 2 and {r.candidate for r in tried} == {"lr 1e-06", "lr 0.02"}
    for method in ("mae", "simclr"):
        assert {(r.seed, r.budget) for r in tried if r.label == method} == {(0, int(4e7))}
        for name in ("tuned", "16 labels"):
            rows = of(report, kind="transfer", label=method, transfer=name)
            assert {(r.budget, r.seed) for r in rows} == {(int(b), s) for b in (2e7, 4e7) for s in (0, 1)}
    assert {r.seed for r in of(report, label=SCRATCH, kind="baseline", transfer="tuned")} == {0, 1}
    # The places count to the number that was announced.
    total = int(re.search(r"\[1/(\d+)\]", "\n".join(said)).group(1))
    assert total == len(report.rows) and any(f"[{total}/{total}]" in line for line in said)


def test_the_best_candidate_is_used(first):
    _, report, _ = first
    for label in ("mae", "simclr", SCRATCH):
        tried = of(report, kind="tuning", label=label)
        best = max(tried, key=lambda r: r.scores[0].value)
        if len({r.scores[0].value for r in tried}) == 1:
            best = tried[0]
        peak = float(best.candidate.removeprefix("lr "))
        rows = [r for r in of(report, label=label, transfer="tuned") if r.kind != "tuning"]
        assert {r.settings["optimizer.lr.peak"] for r in rows} == {peak}
        assert {r.tuning for r in rows} == {sum(r.flops["transfer"] for r in tried)} != {0}
    assert {r.tuning for r in of(report, transfer="16 labels")} == {0}


def test_costs_are_the_parents_and_their_own(first):
    _, report, _ = first
    for row in of(report, kind="transfer"):
        (parent,) = of(report, kind="method", label=row.label, budget=row.budget, seed=row.seed)
        assert row.flops["pretrain"] == parent.flops["pretrain"] > 0 and row.flops["transfer"] > 0
        assert row.own("pretrain") == 0 and row.dataset == parent.dataset
    for row in of(report, kind="tuning"):
        assert row.own("pretrain") == 0 < row.own("transfer")
    for row in of(report, label=SCRATCH):
        assert row.flops["pretrain"] == 0 and row.dataset == ""
    assert {r.labelled for r in of(report, transfer="16 labels")} == {16}


def test_the_plan_is_the_ledger_of_all_rows_before_they_have_happened(first):
    _, report, _ = first
    body = plan_study(study())
    assert body["runs"] == len(report.rows)
    for role in ("pretrain", "transfer", "evaluate"):
        assert body["totals"][role] == sum(row.own(role) for row in report.rows), role
    for kind in ("method", "transfer", "tuning", "baseline"):
        assert sum(r["runs"] for r in body["rows"] if r["kind"] == kind) == len(of(report, kind=kind)), kind
    names = {r["follow_up"] for r in body["rows"]}
    assert names == {"", *study().transfers} and all(f", {name}" in planned.study(body) for name in names - {""})


def test_a_transfer_starts_from_its_row(first):
    folder, report, _ = first
    row = of(report, kind="transfer", label="mae", transfer="16 labels", budget=int(2e7), seed=1)[0]
    (parent,) = of(report, kind="method", label="mae", budget=int(2e7), seed=1)
    stored = json.loads((folder / "rows" / row.run_id / "config.json").read_text())
    assert f"../{parent.run_id}" in json.dumps(stored)
    told = (folder / "rows" / row.run_id / "logs" / "init-supervised-0.txt").read_text()
    assert "taken     backbone/" in told


def test_protocols_say_how_the_head_was_trained(first):
    _, report, _ = first
    found = {axis.protocol for axis in axes(report.rows)}
    assert len(found) == 2
    assert any(re.search(r"@16x16px:supervised\[kit:train\]#[0-9a-f]{6}$", p) for p in found)
    assert any("supervised[kit:train[:16]]" in p for p in found)


def test_what_only_chose_settings_is_on_no_axis_but_in_the_report(first, tmp_path):
    _, report, _ = first
    paths = files.write(report, tmp_path)
    page = Path(paths["html"]).read_text()
    assert "What choosing settings cost" in page and "6 runs and" in page
    assert "Scores by labelled examples" in page and "over no pre-training" in page
    # Rows of one method have names of their own, and those that only chose settings stand in their own table alone.
    named = [name for name, _ in tables.representatives(report.rows)]
    assert len(set(named)) == len(named) and "mae, tuned · 2.00e7" in named
    assert "mae, 16 labels" in tables.differences(report.rows)[0]
    text = Path(paths["csv"]).read_text()
    assert "tuning" in text.splitlines()[0]


def test_nothing_is_run_twice(first):
    folder, report, _ = first
    again, said = run(study(), folder)
    assert sum("finished, not run again" in line for line in said) == len(report.rows)
    assert [r.run_id for r in again.rows] == [r.run_id for r in report.rows]


def test_labels_of_the_study(first):
    _, report, _ = first
    (found,) = by_labels(report.rows)
    assert found.sizes == (16, 48)
    assert set(found.curves) == {f"{m} at {b}" for m in ("mae", "simclr") for b in ("2e07", "4e07")} | {SCRATCH}
    assert all(mean.n == 2 for curve in found.curves.values() for mean in curve.values())


def test_seeds_of_the_transfer_alone():
    seeds = Transfer(stage=labelled(), evaluations=(accuracy(),), seeds=(5, 6, 7), rows="largest")
    wanted = study(transfers={"x": seeds})
    planned = wanted.pretraining()
    (transfer,) = wanted.transfers.values()
    groups = wanted.starts(planned, transfer)
    found = [(s and (s.label, s.budget, s.seed), wanted.seeded(s, transfer)) for group in groups for s in group]
    assert found == [
        (("mae", "4e7", 0), (5, 6, 7)),
        (("mae", "4e7", 1), ()),
        (("simclr", "4e7", 0), (5, 6, 7)),
        (("simclr", "4e7", 1), ()),
        (None, (5, 6, 7)),
    ]


def test_a_method_continues_the_rows_of_another(tmp_path):
    methods = {"mae": (stage("mae"),), "mae + labels": (labelled(name="middle"),)}
    few = Transfer(stage=labelled(split="train[:16]"), evaluations=(accuracy(),), scratch=False)
    wanted = study(methods=methods, continued={"mae + labels": "mae"}, transfers={"few": few}, budgets=("2e7",))
    report, _ = run(wanted, tmp_path)
    assert all(row.ok for row in report.rows)
    base, middle = (of(report, kind="method", label=label, seed=1)[0] for label in methods)
    assert middle.flops["pretrain"] == base.flops["pretrain"] and middle.flops["transfer"] > 0 == middle.own("pretrain")
    (last,) = of(report, kind="transfer", label="mae + labels", seed=1)
    assert last.flops["pretrain"] == middle.flops["pretrain"] + middle.flops["transfer"]
    assert last.seconds["pretrain"] == pytest.approx(base.seconds["pretrain"] + middle.seconds["transfer"])
    assert base.parent == "" and middle.parent == base.run_id and last.parent == middle.run_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"continued": {"x": "mae"}}, "cannot continue"),
        ({"continued": {"mae": "simclr"}}, "cannot continue"),
        ({"continued": {"simclr": "mae"}}, "should be called 'mae"),
        ({"methods": {"mae": (stage(),), "mae + x": (stage(),)}, "continued": {"mae + x": "mae"}}, "role 'pretrain'"),
    ],
)
def test_what_cannot_be_continued(changes, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        study(**changes)


def test_budgets_in_epochs_where_nothing_is_trained_for_the_same_total():
    assert study(budgets=("2 epochs",)).largest == "2 epochs"
    with pytest.raises(ConfigError, match="give FLOPs"):
        study(budgets=("2 epochs", "3 epochs"))
    with pytest.raises(ConfigError, match="give FLOPs"):
        study(budgets=("2 epochs",), scratch=labelled())


def test_sweep():
    stages = sweep(stage=labelled(), lr=(0.1, 0.2), weight_decay=(0.0, 0.05))
    assert list(stages) == ["lr 0.1, wd 0", "lr 0.1, wd 0.05", "lr 0.2, wd 0", "lr 0.2, wd 0.05"]
    last = stages["lr 0.2, wd 0.05"].optimizer
    assert (last.lr.peak, last.lr.warmup_fraction, last.weight_decay) == (0.2, 0.1, 0.05)
    number = dataclasses.replace(labelled(), optimizer=adamw(lr=1.0))
    assert sweep(stage=number, lr=(0.5,))["lr 0.5"].optimizer.lr == 0.5
    assert sweep(stage=number, weight_decay=(0.5,))["wd 0.5"].optimizer.lr == 1.0
    with pytest.raises(ConfigError, match="without values"):
        sweep(stage=number)
    with pytest.raises(ConfigError, match="has no peak"):
        sweep(stage=dataclasses.replace(labelled(), optimizer=adamw(lr=Constant(value=1.0))), lr=(1.0,))


def test_refused_before_anything_is_spent(tmp_path):
    with pytest.raises(ConfigError, match="role 'pretrain'"):
        Transfer(stage=stage("supervised"), evaluations=(accuracy(),))
    with pytest.raises(ConfigError, match="1 sources"):
        Transfer(stage=labelled(init=(InitFrom(run="x"),)), evaluations=(accuracy(),))
    with pytest.raises(ConfigError, match="needs evaluations"):
        Transfer(stage=labelled(), evaluations=())
    with pytest.raises(ConfigError, match="did you mean 'largest'"):
        Transfer(stage=labelled(), evaluations=(accuracy(),), rows="large")
    wide = labelled(backbone=functools.partial(VIT, **{**VIT.keywords, "dim": 32}))
    for bad, words in ((wide, "cannot be taken"), (labelled(objective=METHODS["mae"], views=None), "needs logits")):
        with pytest.raises(ConfigError, match=words):
            run(study(transfers={"x": Transfer(stage=bad, evaluations=(accuracy(),))}), tmp_path)
    chosen = Transfer(stage=labelled(), evaluations=(accuracy(),), choose=dataclasses.replace(knn(), stage="nobody"))
    with pytest.raises(ConfigError, match="nobody"):
        run(study(transfers={"x": chosen}), tmp_path)
    assert not (tmp_path / "rows").exists()


GIN = """
include 'recipes/nano.gin'
DATASET = @scenes/datasets.shapes()
Study.title = 'T'
Study.question = 'Q'
Study.methods = {'mae': (@mae/Stage(),)}
Study.budgets = ('1e9',)
Study.transfers = {'few': @few/Transfer(), 'many': @many/Transfer()}
Transfer.evaluations = (@top/Evaluation(),)
few/Transfer.stage = @transfer/few/Stage()
many/Transfer.stage = @transfer/many/Stage()
many/Transfer.candidates = @sweep()
sweep.stage = @transfer/many/Stage()
sweep.lr = (1e-4, 1e-3)
transfer/Stage.length = '10 steps'
transfer/few/Stage.split = 'probe[:16]'
transfer/many/Stage.split = 'probe[:32]'
top/Evaluation.evaluator = @evaluators.accuracy()
top/Evaluation.data = {'eval': (@scenes/datasets.shapes(), 'test')}
"""


def test_in_gin(tmp_path):
    file = tmp_path / "study.gin"
    file.write_text(GIN)
    wanted = load(compose(gin_files=[file]), root="Study").object
    assert {name: t.stage.split for name, t in wanted.transfers.items()} == {"few": "probe[:16]", "many": "probe[:32]"}
    assert list(wanted.transfers["many"].stages) == ["lr 0.0001", "lr 0.001"]
    assert [s.optimizer.lr.peak for s in wanted.transfers["many"].stages.values()] == [1e-4, 1e-3]
