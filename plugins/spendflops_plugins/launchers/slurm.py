"""Workers as an array of Slurm jobs, through submitit. The study's folder says what is done and left: no sacct.

A job that Slurm is about to end, at its time limit or for one of higher priority, gets a signal: its worker saves a
checkpoint and leaves, and the job is queued again. After ``scancel`` the worker saves as well, and the job stays away.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from spendflops.contracts import errors
from spendflops.contracts.launcher import AGAIN, Job, Launcher

POLL = 0.2


class Slurm(Launcher):
    """A job array, one worker a job.

    Args:
        partition, account, qos, constraint: As ``sbatch`` knows them; empty for the cluster's own.
        minutes: Time limit of a job; a worker that reaches it goes on in the next one.
        cpus, gpus: Of a worker.
        memory: Of a worker, in GB; 0 for the cluster's default.
        notice: Seconds before its end at which a job is told.
        requeues: How often a job may reach its time limit.
        setup: Shell commands before the worker starts, such as ``"module load cuda"``.
    """

    def __init__(
        self,
        *,
        partition: str = "",
        account: str = "",
        qos: str = "",
        constraint: str = "",
        minutes: int = 720,
        cpus: int = 1,
        gpus: int = 0,
        memory: int = 0,
        notice: int = 120,
        requeues: int = 1000,
        setup: str = "",
    ):
        asked: dict[str, Any] = {"partition": partition, "account": account, "qos": qos, "constraint": constraint}
        asked |= {"gpus_per_node": gpus, "mem": f"{memory}GB" if memory else "", "setup": [setup] if setup else []}
        self.asked = {name: value for name, value in asked.items() if value}
        self.asked |= {"time": minutes, "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": cpus}
        self.notice, self.requeues = notice, requeues

    def launch(self, job: Job) -> int:
        """Submits the array and does not wait for it.

        Raises:
            errors.ConfigError: submitit is missing, this machine submits no Slurm jobs, or Slurm takes none like this.
        """
        try:
            import submitit
        except ImportError as error:
            raise errors.ConfigError(
                "the launcher slurm needs submitit", why=str(error), fix="pip install 'spendflops[slurm]'"
            ) from error
        folder = (job.folder / "launcher").resolve()
        count = job.workers or 1
        try:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=self.requeues)
            executor.update_parameters(
                job_name=re.sub(r"\W+", "-", job.folder.resolve().name),
                signal_delay_s=self.notice,
                array_parallelism=count,
                # Slurm itself may requeue, and after a failed node does.
                additional_parameters={"requeue": True},
                **self.asked,
            )
            jobs = executor.map_array(Worker(command=job.command, directory=job.directory), range(count))
        except (RuntimeError, submitit.core.utils.FailedSubmissionError, subprocess.CalledProcessError) as error:
            raise errors.ConfigError(
                "Slurm took no job", why=str(error).splitlines()[0], fix="run this where sbatch works"
            ) from error
        job.say(f"Slurm jobs {', '.join(j.job_id for j in jobs)}; what they say is in {folder}")
        job.say(f"`spendflops study status {job.folder}` shows how far they are")
        return 0


@dataclasses.dataclass
class Worker:
    """What a job of the array runs: a worker as a process of its own, which is told to save when the job ends."""

    command: tuple[str, ...]
    directory: Path
    process: subprocess.Popen | None = None

    def __call__(self, number: int) -> int:
        """Runs the worker to its end and gives its exit code."""
        # A group of its own: Slurm's signals to the job's processes come through this one alone.
        self.process = subprocess.Popen(self.command, cwd=self.directory, start_new_session=True)
        signal.signal(signal.SIGTERM, lambda *_: self._tell())
        while self.process.poll() is None:
            time.sleep(POLL)
        code = self.process.returncode
        if code == AGAIN and _wanted(os.environ["SLURM_JOB_ID"]):
            # Told with SIGTERM, which submitit leaves to us: a job that ended by itself would not come back.
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)
        elif code not in (0, 1, AGAIN):
            raise RuntimeError(f"the worker ended with {code}")
        return code

    def checkpoint(self, number: int) -> Any:
        """Lets the worker save, and gives what the job does when it runs again; submitit calls it and requeues."""
        from submitit.helpers import DelayedSubmission

        self._tell()
        # In the handler of a signal, in the middle of the loop above: `wait` would wait for itself.
        while self.process is not None and self.process.poll() is None:
            time.sleep(POLL)
        return DelayedSubmission(dataclasses.replace(self, process=None), number)

    def _tell(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


def _wanted(job: str) -> bool:
    """Whether a job is still to run, which one that somebody has cancelled is not."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True, timeout=60)
    return re.search(r"JobState=(RUNNING|SUSPENDED)\b", shown.stdout) is not None
