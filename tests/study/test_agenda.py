"""Which rows can be run follows from what has ended alone; a row that somebody else has run or runs is left alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import workerlib
from enginelib import knn, stage

from spendflops.contracts import errors
from spendflops.study import beforehand, launch
from spendflops.study.agenda import Agenda
from spendflops.study.claims import Claims
from spendflops.study.grid import Study
from spendflops.study.launch import Launch
from spendflops.study.points import Row


def ended(planned, value=None, *, status="ok", make_score=None):
    """The row of a run that has ended."""
    scores = () if value is None else (make_score(value, evaluator="knn"),)
    basics = {"run_id": planned.run_id, "label": planned.label, "backbone": "vit", "dataset": "kit", "seed": 0}
    return Row(**basics, scores=scores, status=status)


def test_a_row_waits_for_the_one_that_it_starts_from():
    later = stage("supervised", role="transfer", length="2 steps")
    study = Study(
        title="Chained",
        question="Which?",
        methods={"mae": (stage("mae"),), "mae + supervised": (later,)},
        continued={"mae + supervised": "mae"},
        budgets=("2 steps",),
        evaluations=(knn(),),
        primary="knn",
    )
    agenda = Agenda(study)
    first, second = agenda.planned
    assert second.parents == (first.run_id,)
    assert agenda.left({}) == ([first], True)
    assert agenda.left({first.run_id: ended(first)}) == ([second], False)
    assert agenda.left({row.run_id: ended(row) for row in agenda.planned}) == ([], False)


def test_settings_are_tried_once_all_rows_are_there_and_the_best_is_used_whatever_came_first(make_score):
    agenda = Agenda(workerlib.study(2))
    mae = [row for row in agenda.planned if row.label == "mae"]
    done = {row.run_id: ended(row) for row in reversed(mae[1:])}
    # One of two is there: nothing is tried from it, since the other one might be the one to try from.
    assert not [row for row in agenda.rows(done) if row.transfer and row.label == "mae"]
    done |= {mae[0].run_id: ended(mae[0])}
    tried = [row for row in agenda.rows(done) if row.transfer and row.label == "mae"]
    assert [row.candidate for row in tried] == ["low", "high"]
    done |= {row.run_id: ended(row, {"low": 60.0, "high": 50.0}[row.candidate], make_score=make_score) for row in tried}
    after = [row for row in agenda.rows(done) if row.transfer and row.label == "mae"]
    assert [row.seed for row in after if not row.candidate] == [0, 1] and len(after) == 4
    # A row that failed has no weights to start from.
    done[mae[1].run_id] = dataclasses.replace(done[mae[1].run_id], status="failed: it diverged")
    assert len([row for row in agenda.rows(done) if row.transfer and row.label == "mae"]) == 3


@pytest.fixture
def quiet(monkeypatch):
    """Launches without data and without building anything."""
    monkeypatch.setattr(launch, "build", lambda recipe: None)
    monkeypatch.setattr(launch.preflight, "check_data", lambda *recipes: None)
    for name in ("later", "notes", "overlaps"):
        monkeypatch.setattr(beforehand, name, lambda *_: ())


def start(folder, run, monkeypatch, **options):
    monkeypatch.setattr(launch, "run_recipe", run)
    study = dataclasses.replace(workerlib.study(1), transfers={})
    said = []
    options = {"claims": Claims(folder, patience=0.2), "poll": 0.05, **options}
    return Launch(study=study, folder=folder, quiet=True, say=said.append, **options).run(), said


def finish(recipe, workdir, **options):
    """What another worker leaves behind."""
    workdir.mkdir(parents=True, exist_ok=True)
    result = workerlib.outcome(recipe, workdir)
    (workdir / "result.json").write_text(json.dumps(result))
    return result


def test_a_row_that_ends_between_the_look_and_the_claim_is_not_run_again(quiet, tmp_path, monkeypatch):
    take, recipes = Claims.take, {row.run_id: row.recipe for row in workerlib.study(1).pretraining()}

    def late(self, name, **options):
        finish(recipes[name], tmp_path / "rows" / name)
        return take(self, name, **options)

    monkeypatch.setattr(Claims, "take", late)
    report, _ = start(tmp_path, lambda *_, **__: pytest.fail("run again"), monkeypatch)
    assert len(report.rows) == 2 and not report.failed


def test_a_run_that_another_process_is_in_is_left_to_it_and_looked_at_again(quiet, tmp_path, monkeypatch):
    calls = []

    def busy(recipe, workdir, **options):
        calls.append(workdir.name)
        if len(calls) == 1:
            raise errors.InUseError("in use by process 7")
        return finish(recipe, workdir)

    report, said = start(tmp_path, busy, monkeypatch)
    assert not report.failed and len(calls) == 3 and calls[0] == calls[2] != calls[1]
    assert any("in use by process 7: left to it" in line for line in said)


def test_a_worker_that_is_asked_to_stop_gives_its_row_back(quiet, tmp_path, monkeypatch):
    def stopped(recipe, workdir, **options):
        raise errors.Preempted("stopped")

    with pytest.raises(errors.Preempted):
        start(tmp_path, stopped, monkeypatch)
    (name,) = (path.name for path in (tmp_path / "claims").iterdir())
    assert Claims(tmp_path).holder(name).released and not (tmp_path / "rows" / name / "failed.json").exists()
