"""How far a study is: from files alone, at once, for hundreds of rows; and failed rows that may run again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import python

from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.study import failures
from spendflops.study.claims import PATIENCE, Claims
from spendflops.study.status import status, text

FLOPS = {"prior": 5, "pretrain": 100, "transfer": 10, "evaluate": 7, "wasted": 3, "cached": 2}


def manifest(folder, ids, *, runs=None):
    rows = [{"run_id": name, "label": name.partition("-")[0]} for name in ids]
    (folder / "study.json").write_text(json.dumps({"title": "Many", "runs": runs or len(ids), "rows": rows}))


def begin(folder, name, **files):
    run = folder / "rows" / name
    (run / "logs").mkdir(parents=True)
    for file, body in files.items():
        (run / f"{file}.json").write_text(json.dumps(body))
    return run


@pytest.fixture
def folder(tmp_path):
    manifest(tmp_path, ["done-1", "broken-1", "busy-1", "far-1", "left-1", "new-1"], runs=8)
    begin(tmp_path, "done-1", result={"flops": FLOPS})
    failures.keep(begin(tmp_path, "broken-1"), DivergedError("it diverged", fix="a lower rate"))
    begin(tmp_path, "busy-1", status={"state": "running", "stage": "mae", "step": 3, "steps": 9})
    begin(tmp_path, "left-1", status={"state": "stopped", "exit_code": 75})
    return tmp_path


def test_every_row_has_a_state(folder):
    claims = Claims(folder)
    claims.take("left-1", lost=print).release()
    with claims.take("busy-1", lost=print), claims.take("far-1", lost=print) as far:
        body = json.loads(far.path.read_text())
        body |= {"time": time.time() - PATIENCE - 10}
        body["process"] |= {"boot": "another", "worker": "node7:12"}
        far.path.write_text(json.dumps(body))
        found = status(folder)
    states = {row.label: row.state for row in found.rows}
    assert states == {
        "done": "finished", "broken": "failed", "busy": "running", "far": "silent", "left": "stopped", "new": "waiting"
    }  # fmt: skip
    # Two of eight runs are not known before others have finished.
    assert found.counts | {"halved": 0} == found.counts
    assert found.counts | dict.fromkeys(("finished", "running", "silent", "stopped", "failed"), 1) == found.counts
    assert found.counts["waiting"] == 3 and sum(found.counts.values()) == 8
    assert found.flops == 100 + 10 + 7 + 3 - 2
    told = text(found)
    assert "running  busy-1: mae step 3 of 9" in told and "failed   broken-1: it diverged" in told
    assert "silent   far-1: starting, node7:12, heard of 7" in told and "new-1" not in told


def test_a_worker_of_this_machine_that_is_gone_is_not_shown_as_running(folder):
    with Claims(folder).take("busy-1", lost=print) as claim:
        body = json.loads(claim.path.read_text())
        body["process"]["started"] = "0"
        claim.path.write_text(json.dumps(body))
        assert {row.label: row.state for row in status(folder).rows}["busy"] == "stopped"


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not the folder of a study"):
        status(tmp_path)


TIMED = """
import json, pathlib, sys, time
started = time.perf_counter()
from spendflops.study.status import status, text
told = text(status(pathlib.Path(sys.argv[1])))
print(json.dumps([time.perf_counter() - started, "jax" in sys.modules, told.splitlines()[0]]))
"""


def test_300_rows_take_less_than_two_seconds_and_no_jax(tmp_path):
    names = [f"mae-{number}" for number in range(300)]
    manifest(tmp_path, names)
    claims = Claims(tmp_path)
    for number, name in enumerate(names):
        files = {"status": {"state": "running", "stage": "mae", "step": number, "steps": 300}}
        begin(tmp_path, name, **files, **({} if number % 3 else {"result": {"flops": FLOPS}}))
        claims.take(name, lost=print).release()
    seconds, jax, told = python(TIMED, str(tmp_path))
    assert "100 finished, 200 stopped of 300 runs" in told and not jax
    assert seconds < 2


def test_failed_rows_run_again_with_a_reason_and_what_broke_is_kept(folder):
    with pytest.raises(ConfigError, match="'brokn-1' is no failed row"):
        failures.clear(folder / "rows", ["brokn-1"], reason="")
    assert failures.clear(folder / "rows", reason="the node had no memory") == {"broken-1": "it diverged"}
    run = folder / "rows" / "broken-1"
    kept = json.loads((run / "logs" / "failed-1.json").read_text())
    assert kept["cleared"] == "the node had no memory" and "DivergedError" in kept["traceback"]
    assert kept["exit_code"] == 5 and failures.read(run) is None
    failures.keep(run, ValueError("odd"))
    assert failures.clear(folder / "rows", ["broken-1"], reason="") == {"broken-1": "ValueError: odd"}
    assert (run / "logs" / "failed-2.json").exists() and failures.clear(folder / "rows", reason="") == {}
