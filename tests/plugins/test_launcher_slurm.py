"""A job of the array without a Slurm: what it does when it is told or its worker ends, and what is asked of Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import environment
from spendflops_plugins.launchers.slurm import Slurm, Worker

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.launcher import Job

SCONTROL = """#!/bin/sh
echo "$@" >> {folder}/asked
echo "JobId=7 JobState={state} Reason=None"
"""
JOB = """
import pathlib, sys
from spendflops_plugins.launchers.slurm import Worker
text = "import pathlib, signal, sys, time\\n"
text += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\\n"
text += f"pathlib.Path({sys.argv[1]!r}, 'ready').write_text('')\\ntime.sleep(60)"
print(Worker(command=(sys.executable, "-c", text), directory=pathlib.Path(sys.argv[1]))(0))
"""


def fake(folder, state):
    """A scontrol that knows one job."""
    path = folder / "scontrol"
    path.write_text(SCONTROL.format(folder=folder, state=state))
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


def ready(folder):
    end = time.monotonic() + 30
    while not (folder / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("state, requeued", [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False)])
def test_a_job_that_is_told_to_end_comes_back_unless_it_was_cancelled(state, requeued, tmp_path):
    variables = environment(**fake(tmp_path, state))
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], env=variables, stdout=subprocess.PIPE, text=True)
    ready(tmp_path)
    job.terminate()
    said, _ = job.communicate(timeout=30)
    assert job.returncode == 0 and said.endswith("75\n")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert ("requeue 7" in asked) == requeued and asked[0] == "show job 7"


def test_a_job_that_submitit_requeues_saves_first_and_starts_anew(tmp_path):
    pytest.importorskip("submitit")
    text = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    text += f"open({str(tmp_path / 'ready')!r}, 'w')\ntime.sleep(60)"
    worker = Worker(command=(sys.executable, "-c", text), directory=tmp_path)
    worker.process = subprocess.Popen(worker.command)
    ready(tmp_path)
    again = worker.checkpoint(3)
    assert worker.process.returncode == 75
    assert again.function == Worker(command=worker.command, directory=tmp_path) and again.args == (3,)


def test_a_worker_that_breaks_is_an_error_of_its_job(tmp_path):
    with pytest.raises(RuntimeError, match="the worker ended with 2"):
        Worker(command=(sys.executable, "-c", "raise SystemExit(2)"), directory=tmp_path)(0)
    assert Worker(command=(sys.executable, "-c", "raise SystemExit(1)"), directory=tmp_path)(0) == 1


def test_without_slurm_nothing_is_launched(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    job = Job(command=("true",), directory=tmp_path, folder=tmp_path, workers=2)
    with pytest.raises(ConfigError, match="Slurm took no job"):
        Slurm().launch(job)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="needs submitit"):
        Slurm().launch(job)


def test_what_is_asked_of_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, text in (("srun", "true"), ("sbatch", f'cat "$1" > {tmp_path}/batch; echo Submitted batch job 12')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = []
    job = Job(command=("true",), directory=tmp_path, folder=tmp_path / "my study", workers=3, say=said.append)
    options = {"partition": "gpu", "gpus": 1, "cpus": 8, "memory": 32, "minutes": 30, "notice": 60}
    assert Slurm(**options, setup="module load x").launch(job) == 0
    text = (tmp_path / "batch").read_text()
    for line in (
        "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=8", "--mem=32GB", "--time=30", "--array=0-2%3",
        "--signal=USR2@60", "--requeue", "--job-name=my-study",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text, text
    assert "module load x" in text and "Slurm jobs 12_0, 12_1, 12_2" in said[0]
