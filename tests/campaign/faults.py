"""What a process does to itself in the middle of a run: it is killed, told to stop, or its clock jumps.

Every fault is a function of a random generator, called before the run. When it comes, it first notes in the file
``WITNESS`` whether the run was ``inside`` the place that the fault is named after, or ``past`` it, as a timer may be.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

from spendflops.accounts import ledger
from spendflops.engine import checkpoint, program, rundir

WITNESS = None


def hit(number, inside=True):
    """Signals this process: SIGKILL ends it as the system would, no handler runs and nothing is flushed."""
    Path(WITNESS).write_text("inside" if inside else "past")
    os.kill(os.getpid(), number)


def soon(seconds, number, inside=lambda: True):
    """Signals this process after some seconds, whatever it does by then."""
    timer = threading.Timer(seconds, lambda: hit(number, inside()))
    timer.daemon = True
    timer.start()


def at_step(dice, number, then=lambda: None):
    """A signal right after one of the next steps."""
    left, write = dice.randint(1, 12), rundir.Progress.write

    def counting(self, *args):
        nonlocal left
        write(self, *args)
        left -= 1
        if left == 0:
            then()
            hit(number)

    rundir.Progress.write = counting


def kill_at_step(dice):
    """SIGKILL after a step."""
    at_step(dice, signal.SIGKILL)


def stop_at_step(dice):
    """SIGTERM after a step: what was done is saved."""
    at_step(dice, signal.SIGTERM)


def kill_while_stopping(dice):
    """SIGTERM after a step, and SIGKILL while it saves, as by a scheduler that does not wait."""
    after = dice.uniform(0, 0.15)
    at_step(dice, signal.SIGTERM, then=lambda: soon(after, signal.SIGKILL))


def kill_at_a_moment(dice):
    """SIGKILL at any moment from the first step on."""
    after, write = dice.uniform(0, 0.4), rundir.Progress.write

    def begun(self, *args):
        rundir.Progress.write = write
        write(self, *args)
        soon(after, signal.SIGKILL)

    rundir.Progress.write = begun


def in_a_checkpoint(dice, number):
    """A signal while the arrays of a checkpoint are written, before their digest, or before the ledger's row."""
    left, place, after = dice.randint(1, 2), dice.choice(("arrays", "digest", "row")), dice.uniform(0, 0.1)
    write, digest, writing = checkpoint.Checkpoints._write, checkpoint._digest, False

    def digesting(folder):
        checkpoint._digest = digest
        hit(number)
        return digest(folder)

    def saving(self, step, state):
        nonlocal left, writing
        left -= 1
        if left:
            return write(self, step, state)
        writing = True
        if place == "arrays":
            soon(after, number, lambda: writing)
        if place == "digest":
            checkpoint._digest = digesting
        write(self, step, state)
        if place == "row":
            hit(number)
        writing = False

    checkpoint.Checkpoints._write = saving


def kill_in_a_checkpoint(dice):
    """SIGKILL while a checkpoint is written, or right after it, before the ledger says so."""
    in_a_checkpoint(dice, signal.SIGKILL)


def stop_in_a_checkpoint(dice):
    """SIGTERM while a checkpoint is written: it becomes whole."""
    in_a_checkpoint(dice, signal.SIGTERM)


class Halfway:
    """A file that sends a signal when a part of what is written is on the disk."""

    def __init__(self, file, dice, number):
        self.file, self.dice, self.number = file, dice, number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        """One part, the signal, and if that leaves us alive the other."""
        cut = self.dice.randint(0, len(content))
        self.file.write(content[:cut])
        self.file.flush()
        os.fsync(self.file.fileno())
        hit(self.number)
        self.file.write(content[cut:])


def in_a_line_of_the_ledger(dice, number):
    """A signal when a part of a line is on the disk."""
    left = dice.randint(1, 2)

    def opening(path, mode):
        nonlocal left
        left -= mode == "ab"
        file = open(path, mode)  # noqa: SIM115
        return Halfway(file, dice, number) if mode == "ab" and left == 0 else file

    ledger.open = opening


def kill_in_a_line_of_the_ledger(dice):
    """SIGKILL when a part of a line is on the disk."""
    in_a_line_of_the_ledger(dice, signal.SIGKILL)


def stop_in_a_line_of_the_ledger(dice):
    """SIGTERM when a part of a line is on the disk: the other part follows."""
    in_a_line_of_the_ledger(dice, signal.SIGTERM)


def in_a_compilation(dice, number):
    """A signal while one of the first two programs is compiled, which are then not found on the disk."""
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    left, after, compiled, compiling = dice.randint(1, 2), dice.uniform(0, 1.0), program._compile, False

    def signalled(lowered):
        nonlocal left, compiling
        left -= 1
        if left:
            return compiled(lowered)
        compiling = True
        soon(after, number, lambda: compiling)
        try:
            return compiled(lowered)
        finally:
            compiling = False

    program._compile = signalled


def kill_in_a_compilation(dice):
    """SIGKILL while a program is compiled."""
    in_a_compilation(dice, signal.SIGKILL)


def stop_in_a_compilation(dice):
    """SIGTERM while a program is compiled: a step later all is saved."""
    in_a_compilation(dice, signal.SIGTERM)


def in_a_file(dice, number):
    """A signal before a file that is written whole or not at all gets its name; SIGKILL leaves a part of it."""
    left, replace = dice.randint(1, 8), os.replace

    def replacing(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            if number == signal.SIGKILL:
                with open(source, "r+b") as file:
                    file.truncate(dice.randint(0, os.path.getsize(source)))
            hit(number)
        replace(source, target)

    rundir.os.replace = replacing


def kill_in_a_file(dice):
    """SIGKILL when a part of a file is on the disk that is to be written whole or not at all."""
    in_a_file(dice, signal.SIGKILL)


def stop_in_a_file(dice):
    """SIGTERM while such a file is written."""
    in_a_file(dice, signal.SIGTERM)


def jump_the_clock(dice):
    """The wall clock jumps by days, back and forth, at every look; then SIGKILL after a step."""
    now, jumps = time.time, random.Random(dice.random())
    time.time = lambda: now() + jumps.uniform(-1e6, 1e6)
    at_step(dice, signal.SIGKILL)


KILLED, STOPPED = -signal.SIGKILL, 75
FAULTS = {
    kill_at_step: (KILLED,),
    kill_at_a_moment: (KILLED,),
    kill_in_a_checkpoint: (KILLED,),
    kill_in_a_line_of_the_ledger: (KILLED,),
    kill_in_a_compilation: (KILLED,),
    kill_in_a_file: (KILLED,),
    jump_the_clock: (KILLED,),
    stop_at_step: (STOPPED,),
    stop_in_a_checkpoint: (STOPPED,),
    stop_in_a_line_of_the_ledger: (STOPPED,),
    stop_in_a_compilation: (STOPPED,),
    # Its last files are written when all is done.
    stop_in_a_file: (STOPPED, 0),
    kill_while_stopping: (KILLED, STOPPED),
}
"""Fault -> the exit codes that a run may end with when it has come."""
