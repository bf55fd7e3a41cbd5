"""Checkpoints of a stage, through Orbax: written beside the training, whole or not at all; the last good one counts."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from logging import LogRecord
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from spendflops.contracts import errors
from spendflops.engine import hosts
from spendflops.engine.rundir import storage_error, write_atomically
from spendflops.engine.sharding import Mesh

DIGEST = "sha256"
"""The file beside the arrays that says what they were: the storage library reads a flipped bit without complaint."""


def _not_of_the_library(record: LogRecord) -> bool:
    """Drops the tracebacks that the storage library's threads print of errors that it raises as well."""
    return Path(ocp.__file__).parent not in Path(record.pathname).parents


class Checkpoints:
    """The checkpoints of a stage.

    Args:
        folder: ``checkpoints/<stage>`` of the run.
        keep: How many to keep.
        always: A step whose checkpoint is kept beside them.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, always: int | None = None):
        self.folder = Path(folder).absolute()
        policy = ocp.checkpoint_managers
        kept = [policy.LatestN(keep), *([] if always is None else [policy.CustomSteps([always])])]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(kept),
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
            create=True,
        )
        logging.set_verbosity(logging.ERROR)
        logging.get_absl_logger().addFilter(_not_of_the_library)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        try:
            handler = ocp.StandardCheckpointHandler()
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def begin(self, step: int, state: Any) -> None:
        """Begins to save the state after ``step`` steps, in a thread of its own.

        It waits for the save before, and for a copy of the state in the host's memory: then the state may be given
        away. Arrays of which this process holds only a part are written before it returns, by all processes together.

        Raises:
            errors.DataError: The disk did not take the save before. Earlier checkpoints stay.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        if all(x.is_fully_addressable for x in jax.tree.leaves(state)):
            self._running = self._thread.submit(self._write, step, jax.tree.map(np.array, state))
        else:
            self._write(step, state)

    def idle(self) -> bool:
        """Whether nothing is being written. :meth:`wait` says how it went."""
        return self._running is None or self._running.done()

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            errors.DataError: As :meth:`begin`.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def save(self, step: int, state: Any) -> None:
        """:meth:`begin` and :meth:`wait`."""
        self.begin(step, state)
        self.wait()

    def _write(self, step: int, state: Any) -> None:
        try:
            self._look_for_room(state)
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._manager.wait_until_finished()
            self._seal(step)
        except (OSError, ValueError) as error:
            # The storage library reports what the system refused as a ValueError.
            told = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, OSError) or told:
                problem = error if isinstance(error, OSError) else OSError(int(told[1]), os.strerror(int(told[1])))
                raise storage_error(self.folder / str(step), problem) from error
            raise

    def _seal(self, step: int) -> None:
        """Writes down what a checkpoint holds."""
        if hosts.first():
            folder = self.folder / str(step)
            for left in folder.glob(f".{DIGEST}.*.tmp"):  # by a kill, and no part of it
                left.unlink()
            write_atomically(folder / DIGEST, _digest(folder))

    def _look_for_room(self, state: Any) -> None:
        """Refuses at once what cannot succeed: the library's threads would each print what they ran into."""
        size = sum(x.nbytes for x in jax.tree.leaves(state))
        if shutil.disk_usage(self.folder).free < size // 2:  # compressed, weights lose a few percent
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def steps(self) -> list[int]:
        """Steps at which there is a checkpoint, ascending."""
        self.wait()
        return sorted(self._manager.all_steps())

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read: (step, state), None if there is none.

        Args:
            like: Shapes, dtypes and shardings of the state.

        Raises:
            errors.DataError: There are checkpoints, but none can be read; or the newest is what was written, and could
                not be read now, since the disk was away: nothing is removed. The disk does not take the digest of one
                that has none.
        """
        problems = []
        for step in reversed(self.steps()):
            whole = False
            try:
                whole = self._check(step)
                state = self._manager.restore(step, args=ocp.args.StandardRestore(like))
            except Exception as error:
                told = f"step {step}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                if whole or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
                    raise errors.DataError(
                        f"the newest checkpoint in {self.folder} could not be read", why=told,
                        fix="the same command tries again; nothing was removed",
                    ) from error  # fmt: skip
                problems.append(told)
                logging.error("checkpoint %s of %s cannot be read: %s", step, self.folder, problems[-1])
            else:
                if not whole:  # a kill came between the arrays and their digest; from here on damage is seen
                    self._seal(step)
                return step, state
        if problems:
            raise errors.DataError(
                f"no checkpoint in {self.folder} can be read",
                why="; ".join(problems),
                fix="remove the broken folders to go on from the start of the stage",
            )
        return None

    def restore_at(self, step: int, like: Any) -> Any:
        """The state after ``step`` steps; ``like`` as in :meth:`restore`.

        Raises:
            errors.DataError: It is not there, or damaged.
        """
        if step not in self.steps():
            raise errors.DataError(
                f"there is no checkpoint of step {step} in {self.folder}", why=f"there are {self.steps()}"
            )
        self._check(step)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def restore_raw(self, step: int | None = None) -> Any:
        """The newest checkpoint, whatever its shapes and the devices that it was saved from."""
        step = step if step is not None else (self.steps() or [None])[-1]
        if step is None:
            raise errors.DataError(f"there is no checkpoint in {self.folder}", fix="give a run that has finished")
        self._check(step)
        shapes = self._manager.item_metadata(step).tree
        like = jax.tree.map(lambda x: Mesh().struct(x.shape, x.dtype), shapes)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def _check(self, step: int) -> bool:
        """Whether its content is known to be what was written; an error if it is known not to be."""
        digest = self.folder / str(step) / DIGEST
        # A process that was killed before it wrote the digest had written the checkpoint.
        damaged = hosts.first() and digest.exists() and digest.read_text() != _digest(digest.parent)
        if hosts.agree(damaged):
            raise errors.DataError(f"{digest.parent} is damaged", why="its content has another digest")
        return hosts.agree(hosts.first() and digest.exists())

    def discard_after(self, step: int) -> None:
        """Removes checkpoints newer than ``step``: broken ones that a restore passed over."""
        for later in [s for s in self.steps() if s > step]:
            self._manager.delete(later)

    def close(self) -> None:
        """Waits for what is being written, and releases the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGEST):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
