"""Every benchmark runs: shortened, without writing anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
QUICK = tuple(sorted(p.stem for p in FOLDER.glob("*.py") if "harness.options(" in p.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_runs(name):
    before = {path: path.read_bytes() for path in FOLDER.rglob("*.json")}
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.read_bytes() for path in FOLDER.rglob("*.json")} == before
