"""A pool of processes: one accelerator each, those that die are started again, signals are passed on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import environment
from spendflops_plugins.launchers.local import Local

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.launcher import Job

WORKER = """
import os, pathlib, sys, time
place = pathlib.Path(sys.argv[1])
number = len(list(place.glob("start-*")))
(place / f"start-{number}-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
exec(sys.argv[2])
"""


def job(folder, text, *, workers=1):
    command = (sys.executable, "-c", WORKER, str(folder), text)
    return Job(command=command, directory=folder, folder=folder, workers=workers, say=lambda line: None)


def starts(folder):
    return sorted(path.read_text() for path in folder.glob("start-*"))


def test_every_worker_sees_one_accelerator(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert Local().launch(job(tmp_path, "pass", workers=0)) == 0
    assert starts(tmp_path) == ["2", "5"]
    with pytest.raises(ConfigError, match="3 workers for 2 accelerators"):
        Local().launch(job(tmp_path, "pass", workers=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Local(variable="ROCR_VISIBLE_DEVICES").devices == [] and Local(devices="0, 7").devices == ["0", "7"]


def test_workers_share_a_processor_and_their_words_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Local().launch(job(tmp_path, "print('hello')", workers=2)) == 0
    assert [path.read_text() for path in sorted((tmp_path / "launcher").iterdir())] == ["hello\n", "hello\n"]


@pytest.mark.parametrize(
    "text, code, count",
    [
        ("os.kill(os.getpid(), 9) if number < 2 else None", 0, 3),
        ("sys.exit(75) if number < 1 else None", 0, 2),
        ("os.kill(os.getpid(), 9)", 1, 4),
        ("sys.exit(2)", 2, 1),
        ("sys.exit(1)", 1, 1),
    ],
)
def test_who_dies_is_started_again_and_who_says_why_is_not(tmp_path, text, code, count):
    assert Local(restarts=3).launch(job(tmp_path, text)) == code
    assert len(starts(tmp_path)) == count


POOL = """
import pathlib, sys
from spendflops_plugins.launchers.local import Local
from spendflops.contracts.launcher import Job
folder = pathlib.Path(sys.argv[1])
sys.exit(Local().launch(Job(command=tuple(sys.argv[2:]), directory=folder, folder=folder, workers=2)))
"""
WAITING = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(place / f"ready-{os.getpid()}").write_text("")
time.sleep(60)
"""


def test_a_request_to_stop_reaches_all_workers(tmp_path):
    command = job(tmp_path, WAITING).command
    pool = subprocess.Popen([sys.executable, "-c", POOL, str(tmp_path), *command], env=environment())
    end = time.monotonic() + 30
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert time.monotonic() < end and pool.poll() is None
        time.sleep(0.02)
    pool.send_signal(signal.SIGTERM)
    assert pool.wait(timeout=30) == 75
    # Nobody was started again.
    assert len(starts(tmp_path)) == 2
