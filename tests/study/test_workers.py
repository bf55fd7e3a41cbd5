"""Several workers on one study: every row is run once, whoever is killed, and all of them come to the same report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import workerlib

from spendflops.study.status import status


def check(folder, seeds, codes, *, workers):
    assert codes == [0] * workers
    reports = [json.loads(line) for line in (folder / "reports").read_text().splitlines()]
    assert len(reports) == workers and all(report == reports[0] for report in reports)
    ids = [run_id for run_id, _, _ in reports[0]]
    failed = [run_id for run_id, state, _ in reports[0] if state != "ok"]
    assert len(set(ids)) == len(ids) == workerlib.rows(seeds) - 2 * lost(seeds)
    assert len(failed) == 2 * lost(seeds) + lost(seeds)
    assert not (folder / "doubled").exists(), (folder / "doubled").read_text()
    assert {path.name for path in (folder / "rows").iterdir()} == set(ids)
    found = status(folder)
    assert found.counts == dict.fromkeys(found.counts, 0) | {"finished": len(ids) - len(failed), "failed": len(failed)}
    return ids


def lost(seeds):
    """Seeds whose rows fail: no transfer starts from their two methods, and the one from nothing fails as well."""
    return sum(seed % 10 == 7 for seed in range(seeds))


def test_two_workers_share_a_study_though_one_is_killed(tmp_path):
    options = {"seeds": 2, "workers": 2, "seconds": 0.1}
    killed, codes = workerlib.campaign(tmp_path, **options, kills=1, between=(0.1, 0.2))
    assert killed == 1
    check(tmp_path, 2, codes, workers=2)


@pytest.mark.slow
def test_300_rows_by_four_workers_under_random_kills(tmp_path):
    options = {"seeds": 62, "workers": 4, "seconds": 0.3}
    killed, codes = workerlib.campaign(tmp_path, **options, kills=30, between=(0.5, 2.0))
    assert killed >= 10
    ids = check(tmp_path, 62, codes, workers=4)
    assert len(ids) == 304
