"""A study on a real Slurm of one node: pre-empted in the middle of a run, queued again, and the same in every bit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import enginelib
from enginelib import outcome, reached

from spendflops.study.status import status

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port_of_node}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes={host} PriorityTier=10 State=UP
"""
STUDY = """
Study.title = 'On Slurm'
Study.question = 'Which?'
Study.methods = {'mae': (@mae/Stage(),)}
Study.evaluations = (@knn/Evaluation(),)
Study.primary = 'knn'
knn/Evaluation.name = 'knn'
Study.checkpoint_every = 500
Study.log_every = 500
"""


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """A Slurm of one node, without systemd, control groups or accounting."""
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"no Slurm to start: {', '.join(missing) or 'not root'}")
    pytest.importorskip("submitit", reason="pip install 'spendflops[slurm]'")
    folder = tmp_path_factory.mktemp("slurm")
    # The socket of munge is for all users.
    for part in (folder, *folder.parents[:-2]):
        part.chmod(part.stat().st_mode | 0o055)
    host = socket.gethostname().partition(".")[0]
    options = {"host": host, "folder": folder, "port": free_port(), "port_of_node": free_port()}
    (folder / "slurm.conf").write_text(CONF.format(**options))
    for part in ("state", "spool"):
        (folder / part).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    files |= {"seed-file": "munge.seed"}
    subprocess.run(["munged", "--force", *(f"--{k}={folder / v}" for k, v in files.items())], check=True)
    try:
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], check=True)
        wait(lambda: "idle" in answer("sinfo", "-h", "-o", "%T"), 60, "the node does not come up")
        yield folder
        subprocess.run(["scancel", "--user=root"], check=False)
        wait(lambda: not answer("squeue", "-h"), 60, "jobs do not end")
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), 15)


def answer(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def write_study(folder):
    """A study of one method, three thousand steps long, as gin text."""
    text = enginelib.GIN.format(steps=3000, every=1, lr=1e-3)
    kept = [line for line in text.splitlines() if not line.startswith("Recipe.")]
    path = folder / "study.gin"
    path.write_text("\n".join(kept) + STUDY + "Study.budgets = ('3000 steps',)\n")
    return path


@pytest.mark.slow
def test_a_preempted_run_is_queued_again_and_ends_the_same_in_every_bit(cluster, tmp_path):
    gin, cache = write_study(tmp_path), tmp_path / "cache"
    whole, folder = tmp_path / "whole", tmp_path / "preempted"
    code, _, errors = enginelib.call("study", "run", "--gin_file", gin, "--workdir", whole, cache=cache)
    assert code == 0, errors
    flags = ["--launcher", "slurm", "--option", "cpus=2", "--option", "notice=60", "--workdir", folder]
    code, told, errors = enginelib.call("study", "launch", "--gin_file", gin, *flags, cache=cache)
    assert code == 0, errors
    assert "Slurm jobs " in told
    (row,) = (path.name for path in (whole / "rows").iterdir())
    run = folder / "rows" / row
    wait(lambda: reached(run) > 600, 120, "the job does not run")
    # A job of a higher partition takes the only node away.
    urgent = answer("sbatch", "--parsable", "-p", "urgent", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 1")
    wait(lambda: not status(folder).counts["running"], 60, "the worker does not leave")
    assert 600 < reached(run) < 3000 and json.loads((run / "status.json").read_text())["exit_code"] == 75
    wait(lambda: urgent not in answer("squeue", "-h", "-o", "%i"), 60, "the urgent job does not end")
    wait(lambda: (run / "result.json").exists(), 300, "the job does not come back")
    wait(lambda: (folder / "report.html").exists(), 60, "no report")
    assert outcome(run) == outcome(whole / "rows" / row)
    assert "scontrol" not in errors and status(folder).counts["finished"] == 1
