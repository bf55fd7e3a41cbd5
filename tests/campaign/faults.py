"""What a process does to itself in the middle of a run: it is killed, told to stop, or its clock jumps."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time

from spendflops.accounts.ledger import Ledger
from spendflops.engine import checkpoint, program, rundir


def die():
    """Ends this process as the system would: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def soon(seconds):
    """Ends this process after some seconds, whatever it does by then."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def at_step(dice, number):
    """A signal right after one of the next steps."""
    left, write = dice.randint(1, 12), rundir.Progress.write

    def counting(self, *args):
        nonlocal left
        write(self, *args)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    rundir.Progress.write = counting


def kill_at_step(dice):
    """SIGKILL after a step."""
    at_step(dice, signal.SIGKILL)


def stop_at_step(dice):
    """SIGTERM after a step: what was done is saved."""
    at_step(dice, signal.SIGTERM)


def kill_at_a_moment(dice):
    """SIGKILL at any moment from the first step on."""
    after, write = dice.uniform(0, 0.4), rundir.Progress.write

    def begun(self, *args):
        rundir.Progress.write = write
        write(self, *args)
        soon(after)

    rundir.Progress.write = begun


def kill_in_a_checkpoint(dice):
    """SIGKILL while a checkpoint is written, or right after it, before the ledger says so."""
    after, write = dice.uniform(0, 0.06), checkpoint.Checkpoints._write
    left = dice.randint(1, 2)

    def dying(self, step, state):
        nonlocal left
        left -= 1
        if left == 0:
            soon(after)
        write(self, step, state)

    checkpoint.Checkpoints._write = dying


def kill_in_a_line_of_the_ledger(dice):
    """SIGKILL when a part of a line is on the disk."""
    left = dice.randint(1, 2)
    append = Ledger.append

    def dying(self, entry):
        nonlocal left
        left -= 1
        if left:
            return append(self, entry)
        line = (json.dumps(entry.to_json(), sort_keys=True) + "\n").encode()
        with open(self.path, "ab") as file:
            file.write(line[: dice.randint(0, len(line))])
            file.flush()
            os.fsync(file.fileno())
        return die()

    Ledger.append = dying


def kill_in_a_compilation(dice):
    """SIGKILL while the first program is compiled, which is then not found on the disk."""
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    after, compiled = dice.uniform(0, 1.0), program._compile

    def dying(lowered):
        soon(after)
        return compiled(lowered)

    program._compile = dying


def kill_in_a_file(dice):
    """SIGKILL when a part of a file is on the disk that is to be written whole or not at all."""
    left, replace = dice.randint(1, 8), os.replace

    def dying(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            with open(source, "r+b") as file:
                file.truncate(dice.randint(0, os.path.getsize(source)))
            die()
        replace(source, target)

    rundir.os.replace = dying


def jump_the_clock(dice):
    """The wall clock jumps by days, back and forth, at every look; then SIGKILL after a step."""
    now, jumps = time.time, random.Random(dice.random())
    time.time = lambda: now() + jumps.uniform(-1e6, 1e6)
    at_step(dice, signal.SIGKILL)


FAULTS = (
    kill_at_step,
    stop_at_step,
    kill_at_a_moment,
    kill_in_a_checkpoint,
    kill_in_a_line_of_the_ledger,
    kill_in_a_compilation,
    kill_in_a_file,
    jump_the_clock,
)
