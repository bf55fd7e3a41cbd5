"""A short campaign of kills, and that a difference would be seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path):
    import campaign

    result = campaign.campaign(tmp_path, kills=10)
    assert result["kills"] == 10 and result["different"] == 0, result
    assert len(result["by_fault"]) >= 6
    # One number more in a score, and it is another outcome.
    run = tmp_path / "one stage"
    make, labels = campaign.RECIPES["one stage"]
    before = campaign.compared(make, labels, run)
    body = json.loads((run / "result.json").read_text())
    body["scores"][0]["values"]["more"] = 1.0
    (run / "result.json").write_text(json.dumps(body))
    assert before and campaign.compared(make, labels, run) != before


def test_the_committed_campaign_found_no_difference():
    result = json.loads(Path(__file__).with_name("result.json").read_text())
    assert result["kills"] >= 100 and result["different"] == 0 and all(c["equal"] for c in result["chains"])
    assert len(result["by_fault"]) == 2 * 8
