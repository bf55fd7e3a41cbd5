"""Rows as data: JSON and CSV hold everything, exactly."""

import csv
import dataclasses
import io
import json
import math

import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study.points import FLOP_KINDS, PHASES, Report, axes, csv_text


def test_json_round_trip(study):
    assert Report.from_json(json.loads(json.dumps(study.to_json(), allow_nan=False))) == study


def test_json_of_another_schema_is_refused(study):
    with pytest.raises(DataError, match="schema 99"):
        Report.from_json({**study.to_json(), "schema": 99})


def test_exact_integers_survive(make_row):
    big = 2**63 + 12345  # beyond int64 and far beyond float64
    item = make_row("mae", big, flops=big)
    back = type(item).from_json(json.loads(json.dumps(item.to_json())))
    assert back.flops["pretrain"] == big
    (line,) = csv.DictReader(io.StringIO(csv_text([item])))
    assert int(line["flops_paid"]) == big


def test_csv_equals_the_rows(study):
    lines = list(csv.DictReader(io.StringIO(csv_text(study.rows))))
    pairs = [(row, score) for row in study.rows for score in (row.scores or (None,))]
    assert len(lines) == len(pairs)
    for line, (row, score) in zip(lines, pairs, strict=True):
        assert line["run_id"] == row.run_id and line["status"] == row.status
        assert line["config_hash"] == row.config_hash and int(line["seed"]) == row.seed
        for kind in FLOP_KINDS:
            assert int(line[f"flops_{kind}"]) == row.flops[kind]
        for phase in PHASES:
            assert line[f"phase_{phase}"] == ("" if phase not in row.phases else str(row.phases[phase]))
        assert float(line["footprint_kg"]) == row.footprint.kg
        if score is None:
            assert line["value"] == line["protocol"] == ""
        else:
            assert (float(line["value"]), float(line["sd"])) == (score.value, score.sd)
            assert (line["protocol"], line["eval_dataset"]) == (score.protocol, score.dataset)


def test_cost_is_pretraining_and_transfer(make_row):
    item = make_row("fine-tune", 100, flops=100, transfer=30, kind="transfer")
    assert (item.cost(), item.cost("pretrain")) == (130, 100)
    assert [item.own(kind) for kind in FLOP_KINDS] == [0, 30, 10**9, 0]
    # What was computed before is what a score costs, and is not spent again.
    found = dataclasses.replace(item, cached=10**9 - 7)
    assert found.flops["evaluate"] == 10**9 and found.own("evaluate") == 7
    assert next(csv.DictReader(io.StringIO(csv_text([found]))))["cached"] == str(10**9 - 7)


def test_the_parent_of_a_transfer_row_is_not_its_own_cost(make_row):
    seconds = {"pretrain": 30.0, "transfer": 9.0, "evaluate": 1.0}
    assert make_row("x", kind="transfer", seconds=seconds).own_share == pytest.approx(0.25)
    assert make_row("x", seconds=seconds).own_share == 1
    assert make_row("x", seconds={}).own_share == 1


def test_an_unknown_cost_stays_unknown(make_row):
    item = make_row("fine-tune", 100, kind="transfer")
    unknown = dataclasses.replace(item, flops={"pretrain": None, "transfer": 5})
    assert unknown.cost() is None
    assert ",,5," in csv_text([unknown])


@pytest.mark.parametrize("wrong", [{"flops": {"train": 1}}, {"phases": {"fwd": 1}}, {"seconds": {"all": 1.0}}])
def test_unknown_keys_are_refused(make_row, wrong):
    good = make_row("mae", 100)
    with pytest.raises(ConfigError, match="has the keys"):
        dataclasses.replace(good, **wrong)


@pytest.mark.parametrize("wrong", [{"value": math.nan}, {"sd": math.inf}, {"n": 1}, {"sd": -1.0}])
def test_scores_that_mean_nothing_are_refused(make_score, wrong):
    with pytest.raises(DataError):
        make_score(**{"value": 1.0, **wrong})


def test_axes_keep_protocols_apart_and_ignore_failures(study):
    assert [axis.protocol for axis in axes(study.rows)] == ["ridge-frozen-v1", "accuracy-finetune-v1"]
    assert [row.label for row in study.failed] == ["byol"]
