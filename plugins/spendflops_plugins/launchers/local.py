"""Workers as processes of this machine, one accelerator each; those that die are started again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

from spendflops.contracts import errors
from spendflops.contracts.launcher import AGAIN, Job, Launcher

POLL = 0.2


@dataclasses.dataclass
class _Worker:
    """One place of the pool and the process in it."""

    number: int
    device: str | None
    restarts: int
    process: subprocess.Popen | None = None


class Local(Launcher):
    """A pool of processes.

    Args:
        devices: Accelerators by their numbers, ``"0,1,4"``, one a worker; by default those that this process may see,
            or all boards of NVIDIA. Without any, the workers share the processor.
        variable: The environment variable that shows a process its accelerator; ``ROCR_VISIBLE_DEVICES`` for AMD.
        restarts: How often a worker that dies is started again.
    """

    here = True

    def __init__(self, *, devices: str = "", variable: str = "CUDA_VISIBLE_DEVICES", restarts: int = 3):
        self.devices = [d.strip() for d in devices.split(",") if d.strip()] or _seen(variable)
        self.variable, self.restarts = variable, restarts

    def launch(self, job: Job) -> int:
        """Runs the workers to their end.

        Returns:
            0; the code of a worker that did not end well; 75 or 130 after SIGTERM or SIGINT.

        Raises:
            errors.ConfigError: More workers than accelerators.
        """
        count = job.workers or len(self.devices) or 1
        if self.devices and count > len(self.devices):
            raise errors.ConfigError(
                f"{count} workers for {len(self.devices)} accelerators ({', '.join(self.devices)})",
                why="two processes on one accelerator fight for its memory",
                fix=f"--workers {len(self.devices)}, or --option devices=0,1,... as this machine has them",
            )
        places = [*self.devices, *[None] * count]
        workers = [_Worker(number=n, device=places[n], restarts=self.restarts) for n in range(count)]
        (job.folder / "launcher").mkdir(parents=True, exist_ok=True)
        job.say(f"{count} workers; what they say is in {job.folder / 'launcher'}/worker-*.log")
        with _asked() as asked:
            for worker in workers:
                self._start(worker, job)
            try:
                codes = self._watch(workers, job, asked)
            except BaseException:
                for worker in workers:
                    _kill(worker)
                raise
        if asked:
            return 130 if asked[0] == signal.SIGINT else AGAIN
        return next((code if code > 0 else 1 for code in codes if code), 0)

    def _start(self, worker: _Worker, job: Job) -> None:
        environment = {**os.environ}
        if worker.device is not None:
            environment[self.variable] = worker.device
        with open(job.folder / "launcher" / f"worker-{worker.number}.log", "ab") as log:
            # A group of its own: what the keyboard sends reaches it once, through this process.
            worker.process = subprocess.Popen(
                job.command, cwd=job.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _watch(self, workers: list[_Worker], job: Job, asked: list[int]) -> list[int]:
        """Waits until all have ended: their codes."""
        codes, told = [], False
        while len(codes) < len(workers):
            time.sleep(POLL)
            if asked and not told:
                told = True
                for worker in workers:
                    if worker.process is not None:
                        worker.process.send_signal(asked[0])
            for worker in workers:
                code = None if worker.process is None else worker.process.poll()
                if code is None:
                    continue
                worker.process = None
                if not asked and (code < 0 or code == AGAIN) and worker.restarts:
                    worker.restarts -= 1
                    job.say(f"worker {worker.number} ended with {code}: started again")
                    self._start(worker, job)
                else:
                    codes.append(code)
        return codes


def _seen(variable: str) -> list[str]:
    """The accelerators that this process may use."""
    if variable in os.environ:
        return [d for d in os.environ[variable].split(",") if d]
    boards = [match[1] for name in os.listdir("/dev") if (match := re.fullmatch(r"nvidia(\d+)", name))]
    return sorted(boards, key=int) if variable.startswith("CUDA") else []


@contextlib.contextmanager
def _asked() -> Iterator[list[int]]:
    """SIGTERM and SIGINT that came in the meantime."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {s: signal.signal(s, lambda number, frame: came.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(worker: _Worker) -> None:
    if worker.process is not None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()
