"""Lengths of a study: trunks that are paid once, and methods that are stopped where they are behind."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import knn, leaves, stage
from spendflops_plugins.byol import BYOL

from spendflops import config
from spendflops.contracts.errors import ConfigError
from spendflops.engine.load import load
from spendflops.engine.optim import adamw
from spendflops.parts.schedules import WarmupStableDecay
from spendflops.study.agenda import Agenda
from spendflops.study.grid import Study
from spendflops.study.halving import Rule
from spendflops.study.launch import Launch
from spendflops.study.plan_study import plan_study
from spendflops.study.points import Report, csv_text
from spendflops.study.report import planned as planned_text
from spendflops.study.report import terminal_table, write
from spendflops.study.status import status, text

STILL = adamw(lr=WarmupStableDecay(peak=1e-3, warmup_steps=2, cooldown_fraction=0.25))
BUDGETS = ("4e8", "1e8", "2e8")


def study(**changes):
    """Two methods at three lengths, not in their order."""
    basics = {
        "title": "Lengths",
        "question": "How long?",
        "methods": {m: (stage(m, optimizer=STILL),) for m in ("mae", "supervised")},
        "budgets": BUDGETS,
        "evaluations": (knn(),),
        "primary": "knn",
    }
    return Study(**{**basics, **changes})


def run(wanted, folder):
    said = []
    return Launch(study=wanted, folder=folder, quiet=True, say=said.append).run(), said


def by_budget(report, label):
    return {row.budget: row for row in report.rows if row.label == label}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same lengths, of MAE from one trunk and each alone."""
    folder = tmp_path_factory.mktemp("lengths")
    shared, _ = run(study(trunks=("mae",)), folder / "shared")
    alone, _ = run(study(methods={"mae": study().methods["mae"]}), folder / "alone")
    return folder, shared, alone


def test_scores_and_weights_do_not_depend_on_the_trunk(both):
    folder, shared, alone = both
    for budget, row in by_budget(alone, "mae").items():
        branch = by_budget(shared, "mae")[budget]
        assert branch.run_id == row.run_id and branch.scores == row.scores
        weights = [load(folder / name / "rows" / row.run_id).params for name in ("shared", "alone")]
        assert leaves(weights[0]) == leaves(weights[1])


def test_marginal_and_stand_alone_costs(both):
    _, shared, alone = both
    found, single = by_budget(shared, "mae"), by_budget(alone, "mae")
    short, middle, long = (found[budget] for budget in (10**8, 2 * 10**8, 4 * 10**8))
    assert [row.cost() for row in (short, middle, long)] == [single[row.budget].cost() for row in (short, middle, long)]
    assert short.trunk == 0 and short.marginal == short.cost()
    per_step = middle.cost() // middle.steps
    for row, before in ((middle, short), (long, middle)):
        left = before.steps - before.steps // 4
        assert row.trunk == left * per_step and row.marginal == (row.steps - left) * per_step == row.own("pretrain")
        assert 0 < row.trunk_seconds < row.seconds["pretrain"] and row.own_share < 1
    assert sum(row.own("pretrain") for row in found.values()) < 0.8 * sum(row.cost() for row in single.values())
    assert all(row.trunk == 0 and row.own_share == 1 for row in by_budget(shared, "supervised").values())


def test_the_plan_with_trunks_is_the_ledger(both):
    _, shared, _ = both
    body = plan_study(study(trunks=("mae",)))
    for role in ("pretrain", "evaluate"):
        assert body["totals"][role] == sum(row.own(role) for row in shared.rows)
    trunks = {row["budget"]: row["trunk"] for row in body["rows"] if row["label"] == "mae"}
    assert trunks == {budget: by_budget(shared, "mae")[int(float(budget))].trunk for budget in BUDGETS}
    assert "trunk paid before" in planned_text.study(body)
    assert "trunk paid before" not in planned_text.study(plan_study(study()))


def test_both_costs_are_in_every_table(both, tmp_path):
    _, shared, _ = both
    long = by_budget(shared, "mae")[4 * 10**8]
    line = next(row for row in csv.DictReader(io.StringIO(csv_text(shared.rows))) if row["run_id"] == long.run_id)
    assert (int(line["flops_paid"]), int(line["flops_marginal"])) == (long.cost(), long.marginal)
    assert (
        "Marginal" in terminal_table(shared) and "beyond its trunk" in Path(write(shared, tmp_path)["html"]).read_text()
    )
    again = Report.from_json(json.loads((tmp_path / "report.json").read_text()))
    assert by_budget(again, "mae")[4 * 10**8] == long


def test_a_trunk_runs_before_its_branches_and_nothing_else_waits():
    wanted = study(trunks=("supervised",))
    agenda, done = Agenda(wanted), {}
    for expected in (["1e8"], ["2e8"], ["4e8"]):
        ready, _ = agenda.left(done)
        assert [r.budget for r in ready if r.label == "supervised"] == expected
        assert [r.budget for r in ready if r.label == "mae"] == list(BUDGETS)
        done |= {r.run_id: None for r in ready if r.label == "supervised"}


def test_a_shorter_row_that_failed_is_no_trunk(tmp_path, monkeypatch):
    from spendflops.study import launch as launching

    real, started = launching.run_recipe, {}

    def failing(recipe, folder, *, shorter=None, **options):
        started[recipe.budget] = shorter
        if recipe.budget == "2e8":
            raise ConfigError("broken")
        return real(recipe, folder, shorter=shorter, **options)

    monkeypatch.setattr(launching, "run_recipe", failing)
    report, _ = run(study(methods={"mae": study().methods["mae"]}, trunks=("mae",)), tmp_path)
    first = by_budget(report, "mae")[10**8].run_id
    assert started == {"1e8": None, "2e8": f"../{first}", "4e8": f"../{first}"}
    assert len(report.failed) == 1


def test_what_depends_on_the_length_is_refused_before_anything_is_spent(tmp_path):
    byol = functools.partial(BYOL, hidden_dim=8, output_dim=4, head_norm="ln")
    wanted = study(methods={"byol": (stage(objective=byol, name="byol", optimizer=STILL),)}, trunks=("byol",))
    for refuse in (lambda: run(wanted, tmp_path), lambda: plan_study(wanted)):
        with pytest.raises(ConfigError, match=r"teacher's moving average \(teacher_decay\)"):
            refuse()
    assert not (tmp_path / "rows").exists()
    with pytest.raises(ConfigError, match="has no trunk"):
        plan_study(study(methods={"mae": (stage("mae"),)}, trunks=("mae",)))


WRONG = {
    "an unknown method": ({"trunks": ("mea",)}, r"Study\.trunks names 'mea' \(did you mean 'mae'"),
    "a first comparison of nobody": ({"first_compared": {"x": "1e8"}}, r"Study\.first_compared names 'x'"),
    "steps": ({"halving": Rule(), "budgets": ("5 steps",)}, "with lengths in steps"),
    "nothing to compare by": (
        {"halving": Rule(), "evaluations": (), "primary": "", "transfers": {"t": None}},
        "or nothing is scored",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_studies_that_mean_nothing(case):
    changes, told = WRONG[case]
    with pytest.raises(ConfigError, match=told):
        study(**changes)


def scored(wanted, make_row, make_score, values):
    """Planned rows with scores by (label, budget, seed); None is a failed row."""
    planned = wanted.pretraining()
    done = {}
    for row in planned:
        value = values(row)
        score = make_score(value or 0.0, None, evaluator="knn")
        made = make_row(row.label, run_id=row.run_id, scores=() if value is None else (score,))
        done[row.run_id] = dataclasses.replace(made, status="ok" if value is not None else "failed: x")
    return planned, done


METHODS = {"a": 4.0, "b": 3.0, "c": 2.0, "late": 1.0}


def four(**changes):
    return study(methods={m: (stage("mae", optimizer=STILL),) for m in METHODS}, seeds=(0, 1), **changes)


def stopped_by(wanted, made):
    """Label -> budgets of the rows that would not be made; a row waits until that is known."""
    planned, done = made
    found, ended, agenda = {}, {}, Agenda(wanted)
    while True:
        found |= (new := agenda.stopped(ended))
        ended |= {run_id: done[run_id] for run_id in new}
        ready, _ = agenda.left(ended)
        if not ready:
            break
        assert len({r.budget for r in ready}) == 1  # never two lengths at once
        ended[ready[0].run_id] = done[ready[0].run_id]
    rows = [p for p in planned if p.run_id in found and p.seed == 0]
    return {label: sorted(p.budget for p in rows if p.label == label) for label in dict.fromkeys(p.label for p in rows)}


def test_half_of_the_methods_go_on_at_every_length(make_row, make_score):
    wanted = four(halving=Rule())
    made = scored(wanted, make_row, make_score, lambda row: METHODS[row.label] + (1 if row.seed else -1))
    assert stopped_by(wanted, made) == {"c": ["2e8", "4e8"], "late": ["2e8", "4e8"], "b": ["4e8"]}


def test_no_method_is_stopped_before_its_first_comparison(make_row, make_score):
    wanted = four(halving=Rule(), first_compared={"late": "4e8"})
    made = scored(wanted, make_row, make_score, lambda row: METHODS[row.label])
    assert stopped_by(wanted, made) == {"c": ["2e8", "4e8"], "b": ["4e8"]}


def test_what_failed_is_not_compared(make_row, make_score):
    wanted = four(halving=Rule())
    made = scored(wanted, make_row, make_score, lambda row: None if row.label == "a" else METHODS[row.label])
    # Of b, c and late two go on, then one; a is shown as failed, wherever it does.
    assert stopped_by(wanted, made) == {"late": ["2e8", "4e8"], "c": ["4e8"]}


def test_nothing_is_stopped_without_a_rule(make_row, make_score):
    wanted = four()
    planned, done = scored(wanted, make_row, make_score, lambda row: METHODS[row.label])
    assert Agenda(wanted).stopped(done) == {} and len(Agenda(wanted).left({})[0]) == len(planned)


def test_what_was_stopped_is_shown_with_its_reason(tmp_path, monkeypatch):
    from spendflops.study import launch as launching

    def lower(planned, folder, result, real=launching.finished_row):
        row = real(planned, folder, result)  # both methods learn these images by heart
        scores = tuple(dataclasses.replace(s, value=s.value - (row.label == "supervised")) for s in row.scores)
        return dataclasses.replace(row, scores=scores)

    monkeypatch.setattr(launching, "finished_row", lower)
    wanted = study(halving=Rule(), trunks=("mae", "supervised"), budgets=("1e8", "2e8"))
    report, said = run(wanted, tmp_path)
    (row,) = report.stopped
    assert not report.failed and row.budget == 2 * 10**8 and row.own("pretrain") == 0 and not row.scores
    assert row.status.startswith("stopped: at 1e8 supervised on kit is 2 of 2 by knn, ")
    assert any("stopped, at 1e8" in line for line in said)
    assert not (tmp_path / "rows" / row.run_id).exists()
    assert f"stopped: {row.run_id}: at 1e8" in terminal_table(report)
    page = Path(write(report, tmp_path)["html"]).read_text()
    assert "What was stopped" in page and "1 stopped" in page and "What failed</h2><p>Nothing" in page
    assert any("it was stopped there" in note for note in report.notes)
    told = status(tmp_path)
    assert told.counts["halved"] == 1 and told.counts["waiting"] == told.counts["failed"] == 0
    assert told.flops == sum(r.own(kind) for r in report.rows for kind in ("pretrain", "evaluate"))
    assert f"halved   {row.run_id}: at 1e8" in text(told)
    assert [r.status for r in Launch(study=wanted, folder=tmp_path, say=said.append).look().rows] == [
        r.status for r in report.rows
    ]
    # Without the rule the same folder is finished, and nothing is run again.
    whole, said = run(dataclasses.replace(wanted, halving=None), tmp_path)
    assert not whole.stopped and sum("not run again" in line for line in said) == 3
    # And with it what is there is shown.
    assert not run(wanted, tmp_path)[0].stopped


GIN = """
Study.trunks = ('mae',)
Study.halving = @halving()
halving.reduction = 3
mae/optim.adamw.lr = @schedules.wsd()
mae/schedules.wsd.peak = 2e-3
mae/schedules.wsd.warmup_steps = 10
Study.budgets = ('1e10', '2e10')
Study.finetune = None
"""


def test_gin_says_it_in_a_line():
    composition = config.compose(gin_files=["studies/smoke.gin"], bindings=GIN.strip().splitlines())
    found = config.load(composition, root="Study").object
    assert found.trunks == ("mae",) and found.halving == Rule(reduction=3)
    assert found.methods["mae"][0].optimizer.lr == WarmupStableDecay(peak=2e-3, warmup_steps=10)
