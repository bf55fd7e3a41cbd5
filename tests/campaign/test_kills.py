"""A short campaign of kills, and that a difference would be seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "engine"))


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path):
    from enginelib import outcome

    # A process of its own: it forks, which after a computation of JAX is a deadlock.
    command = [sys.executable, HERE / "campaign.py", "--kills", "10", "--folder", tmp_path, "--out", tmp_path / "found"]
    subprocess.run([str(word) for word in command], check=True, timeout=600)
    result = json.loads((tmp_path / "found").read_text())
    assert result["kills"] == 10 and result["different"] == 0, result
    assert len(result["by_fault"]) >= 6
    # One number more in a score, and it is another outcome.
    run = tmp_path / "one stage"
    before = outcome(run, "byol")
    body = json.loads((run / "result.json").read_text())
    body["scores"][0]["values"]["more"] = 1.0
    (run / "result.json").write_text(json.dumps(body))
    assert outcome(run, "byol") != before


def test_the_committed_campaign_found_no_difference():
    result = json.loads((HERE / "result.json").read_text())
    assert result["kills"] >= 100 and result["different"] == 0 and all(c["equal"] for c in result["chains"])
    assert len(result["by_fault"]) == 2 * 8
