"""A short campaign of kills, and that a difference would be seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "engine"))
sys.path.insert(0, str(HERE))


@pytest.mark.slow
def test_kills_of_runs_and_of_workers_leave_no_trace(tmp_path):
    from enginelib import outcome

    # A process of its own: it forks, which after a computation of JAX is a deadlock.
    sizes = ["--kills", "13", "--seeds", "3", "--worker_kills", "6"]
    command = [sys.executable, HERE / "campaign.py", *sizes, "--folder", tmp_path, "--out", tmp_path / "found"]
    subprocess.run([str(word) for word in command], check=True, timeout=1200)
    result = json.loads((tmp_path / "found").read_text())
    runs, study = result["runs"], result["study"]
    assert (runs["kills"], runs["different"], runs["problems"]) == (13, 0, 0), runs
    assert len(runs["by_fault"]) >= 8
    assert (study["rows"], study["lost"], study["doubled"], study["different"]) == (21, 0, 0, 0), study
    assert study["kills"] > 0
    # One number more in a score, and it is another outcome.
    run = tmp_path / "one stage"
    before = outcome(run, "byol")
    body = json.loads((run / "result.json").read_text())
    body["scores"][0]["values"]["more"] = 1.0
    (run / "result.json").write_text(json.dumps(body))
    assert outcome(run, "byol") != before


def test_a_stop_that_saved_nothing_is_seen(tmp_path):
    from campaign import saved, wasted

    def write(state, reached, steps):
        for step in steps:
            (tmp_path / f"checkpoints/mae/{step}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"checkpoints/mae/{step}/sha256").touch()
        (tmp_path / "checkpoints/mae.progress").write_text(f"1 {reached} 0.5\n")
        (tmp_path / "status.json").write_text(json.dumps({"state": state, "exit_code": 75}))

    write("stopped", 7, (5, 7))
    assert saved(tmp_path, ("mae", "supervised")) == ""
    write("stopped", 8, ())
    assert "mae reached 8" in saved(tmp_path, ("mae", "supervised"))
    (tmp_path / "checkpoints/mae/8").mkdir()  # it was not waited for
    assert "mae reached 8" in saved(tmp_path, ("mae", "supervised"))
    write("failed", 7, ())
    assert "failed" in saved(tmp_path, ("mae", "supervised"))
    assert wasted(tmp_path) == 0
    lost = {"kind": "wasted", "note": "attempt 1", "calls": 3}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(lost) + '\n{"kind": "wast')
    assert wasted(tmp_path) == 3


def test_another_code_than_that_of_the_checkout_is_refused(monkeypatch):
    import campaign

    assert campaign.machine()["packages"]["jax"]
    monkeypatch.setattr(campaign.rundir, "__file__", "/elsewhere/spendflops/engine/rundir.py")
    with pytest.raises(campaign.ConfigError, match="what is imported is /elsewhere"):
        campaign.machine()


def test_the_committed_campaign_found_no_difference():
    from campaign import RECIPES, failed
    from faults import FAULTS

    result = json.loads((HERE / "result.json").read_text())
    assert failed(result) == [] and result["commit"] and result["changed"] is False
    runs, study = result["runs"], result["study"]
    assert runs["kills"] >= 100 and all(c["equal"] and not c["problems"] for c in runs["chains"])
    names = {f"{recipe}: {fault.__name__}" for recipe in RECIPES for fault in FAULTS}
    assert set(runs["by_fault"]) == names and all(f["inside"] for f in runs["by_fault"].values())
    assert sum(f["came"] for f in runs["by_fault"].values()) == runs["kills"]
    assert study["rows"] == study["finished"] + study["failed"] == 304 and study["workers"] == 4
    assert study["kills"] >= 30 and study["takeovers"] > 0
    broken = {**result, "study": {**study, "doubled": 1, "equal_reports": False}}
    assert failed(broken) == ["rows doubled: 1", "workers that came to another report, or to none: 1"]
