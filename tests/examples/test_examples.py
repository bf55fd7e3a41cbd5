"""The examples run as their docstrings say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_is_a_valid_study(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart

    from spendflops.engine.build import build

    rows = quickstart.study().pretraining()
    assert [row.label for row in rows] == ["random", "random", "supervised", "supervised"]
    (built,) = {build(row.recipe).steps for row in rows if row.kind == "method"}
    assert built[0] > 50


@pytest.mark.slow
def test_the_quickstart_beats_a_random_backbone(tmp_path):
    said = run(EXAMPLES / "quickstart.py", tmp_path)
    assert (tmp_path / "report.html").exists() and "supervised" in said
    scores = {}
    for result in tmp_path.glob("rows/*/result.json"):
        name = result.parent.name.partition("-")[0]
        scores.setdefault(name, []).append(json.loads(result.read_text())["scores"][0]["values"]["accuracy"])
    assert min(scores["supervised"]) > max(scores["random"])


@pytest.mark.slow
def test_the_binary_runs_a_recipe(tmp_path):
    bindings = ["--gin", "simclr/BATCH_SIZE = 16"]
    said = run(
        EXAMPLES / "custom_binary.py", "--method", "simclr", "--budget", "3 steps", "--workdir", tmp_path, *bindings
    )
    assert "simclr: 3 steps" in said
    assert "simclr/BATCH_SIZE = 16" in (tmp_path / "config.gin").read_text()
