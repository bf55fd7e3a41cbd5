"""Several workers on one study: every row is run once, whoever is killed, and all of them come to the same report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import workerlib


def check(folder, seeds, found):
    told = workerlib.told(folder, seeds, found)
    ids = {run_id for run_id, _, _ in json.loads((folder / "reports").read_text().splitlines()[0])}
    assert (told["problems"], told["lost"], told["doubled"], told["equal_reports"]) == ([], 0, 0, True), told
    assert {path.name for path in (folder / "rows").iterdir()} == ids
    assert told["failed"] == 3 * workerlib.failing(seeds)
    assert told["finished"] + told["failed"] == told["rows"] == len(ids)
    return told


def test_two_workers_share_a_study_though_one_is_killed(tmp_path):
    options = {"seeds": 2, "workers": 2, "seconds": 0.1}
    found = workerlib.campaign(tmp_path, **options, kills=1, between=(0.1, 0.2))
    assert len(found["ended"]) == 1
    told = check(tmp_path, 2, found)
    # A row that is missing, one that ran twice and a report that says something else are seen.
    folder = next((tmp_path / "rows").iterdir())
    folder.rename(tmp_path / folder.name)
    workerlib.note(tmp_path, "doubled", "another")
    workerlib.note(tmp_path, "reports", "[]")
    broken = workerlib.told(tmp_path, 2, {**found, "codes": [0, 1], "ended": [("SIGTERM", 1)]})
    assert (broken["lost"], broken["doubled"], broken["equal_reports"]) == (1, 1, False)
    assert broken["problems"] == ["SIGTERM: 1", "left alone: 1"] and told["problems"] == []


@pytest.mark.slow
def test_300_rows_by_four_workers_under_random_kills(tmp_path):
    options = {"seeds": 62, "workers": 4, "seconds": 0.3}
    found = workerlib.campaign(tmp_path, **options, kills=30, between=(0.5, 2.0))
    assert len(found["ended"]) >= 10
    told = check(tmp_path, 62, found)
    assert told["rows"] == 304 and told["takeovers"] > 0
