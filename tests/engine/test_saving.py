"""Checkpoints beside the training: what is saved is the state as it was, and no row is written before it is whole."""

import contextlib
import errno
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import logging

from spendflops.accounts.ledger import Ledger
from spendflops.contracts.errors import DataError
from spendflops.engine import accounting, checkpoint
from spendflops.engine.checkpoint import Checkpoints, abstract
from spendflops.engine.rundir import Progress
from spendflops.engine.saving import Saving


class Held(Checkpoints):
    """Writes only once it is allowed to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.allowed = threading.Event()

    def _write(self, step, state):
        self.allowed.wait(30)
        super()._write(step, state)


class Full(Checkpoints):
    """Its disk is full."""

    def _write(self, step, state):
        raise DataError("no space")


class Raises:
    """Raises an error, whatever it is called with."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *args, **options):
        raise self.error


@pytest.fixture
def program(monkeypatch):
    """A program of 5 FLOPs."""
    made = lambda role, program, first, last: {  # noqa: E731
        "program": program.name, "role": role, "calls": last - first, "first": first, "last": last, "flops": 5,
        "phases": {"forward": 5}, "hardware_flops": 5, "counter": "B", "target": "cpu", "note": "",
    }  # fmt: skip
    monkeypatch.setattr(accounting, "entry", made)
    return types.SimpleNamespace(name="mae")


def saving(checkpoints, folder, program):
    ledger, progress = Ledger(folder / "ledger.jsonl"), Progress(folder / "progress")
    how = {"role": "pretrain", "program": program, "attempt": 1, "seconds": 0.0}
    return ledger, Saving(checkpoints, ledger, progress, **how)


def test_what_is_saved_is_the_state_before_the_next_step(tmp_path):
    step = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    with contextlib.closing(Held(tmp_path)) as checkpoints:
        state = step({"x": jnp.zeros(1000)})
        like = abstract(state)
        checkpoints.begin(1, state)
        assert not checkpoints.idle()
        for _ in range(5):
            state = step(state)
        checkpoints.allowed.set()
        done, found = checkpoints.restore(like)
    assert done == 1 and float(state["x"][0]) == 6
    np.testing.assert_array_equal(found["x"], np.ones(1000))


def test_a_row_is_written_once_its_checkpoint_is_whole(tmp_path, program):
    checkpoints = Held(tmp_path / "checkpoints")
    ledger, saves = saving(checkpoints, tmp_path, program)
    saves.reached(2)
    saves.save(2, {"x": jnp.zeros(3)}, row=True)
    saves.reached(3)
    assert ledger.steps("mae") == 0
    checkpoints.allowed.set()
    checkpoints.wait()
    saves.reached(4)
    assert ledger.steps("mae") == 2
    # The next one, and one without a row.
    saves.save(4, {"x": jnp.zeros(3)}, row=True)
    saves.save(5, {"x": jnp.zeros(3)}, row=False)
    saves.close()
    assert [(entry.first, entry.last) for entry in ledger.entries] == [(0, 2), (2, 4)]
    assert checkpoints.steps() == [4, 5]
    checkpoints.close()


def test_a_disk_that_does_not_take_it_is_told_at_the_next_step(tmp_path, program):
    checkpoints = Full(tmp_path / "checkpoints")
    ledger, saves = saving(checkpoints, tmp_path, program)
    saves.save(2, {"x": jnp.zeros(3)}, row=True)
    with pytest.raises(DataError, match="no space"):
        for _ in range(1000):
            saves.reached(3)
    # Nor does leaving make a row of it.
    saves.close()
    assert ledger.steps("mae") == 0
    checkpoints.close()


def test_tracebacks_of_the_storage_librarys_threads_are_not_printed(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path)):
        logger = logging.get_absl_logger()
        said = {path: logger.makeRecord("absl", 40, path, 1, "full", (), None) for path in (ocp.__file__, __file__)}
        assert [bool(logger.filter(record)) for record in said.values()] == [False, True]


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_passed_over(tmp_path, monkeypatch):
    state = {"x": jnp.arange(4.0)}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state)
        real = checkpoints._manager.restore
        for error in (OSError(errno.ESTALE, "stale file handle"), ValueError("os_error_code='116'")):
            monkeypatch.setattr(checkpoints._manager, "restore", Raises(error))
            with pytest.raises(DataError, match=r"the newest checkpoint .* could not be read"):
                checkpoints.restore(abstract(state))
        monkeypatch.setattr(checkpoints._manager, "restore", Raises(RuntimeError("RESOURCE_EXHAUSTED: out of memory")))
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.restore(abstract(state))
        monkeypatch.setattr(checkpoints._manager, "restore", real)
        (next(p for p in (tmp_path / "2").rglob("*") if p.is_file() and p.name != "sha256")).write_bytes(b"damaged")
        assert checkpoints.restore(abstract(state))[0] == 1


def test_a_kill_before_the_digest_leaves_a_checkpoint_that_gets_one(tmp_path):
    state = {"x": jnp.arange(4.0)}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state)
        digest = tmp_path / "2" / checkpoint.DIGEST
        whole = digest.read_text()
        digest.rename(digest.with_name(f".{digest.name}.0123.tmp"))
        assert checkpoints.restore(abstract(state))[0] == 2 and digest.read_text() == whole
        assert not list(digest.parent.glob(".*"))
        # Damage is seen, wherever it is and whether or not the storage library reads it.
        (tmp_path / "2" / "more").write_text("")
        assert checkpoints.restore(abstract(state))[0] == 1 and digest.read_text() == whole


def test_what_the_system_refused_is_an_error_of_the_data(tmp_path, monkeypatch):
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        told = ValueError("OUT_OF_RANGE: Error writing [os_error_code='27'] [source locations=...]")
        monkeypatch.setattr(checkpoints._manager, "save", Raises(told))
        with pytest.raises(DataError, match="File too large"):
            checkpoints.save(1, {"x": jnp.zeros(3)})
        monkeypatch.setattr(checkpoints._manager, "save", Raises(ValueError("another")))
        with pytest.raises(ValueError, match="another"):
            checkpoints.save(1, {"x": jnp.zeros(3)})
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=5))
        with pytest.raises(DataError, match="No space left on device"):
            checkpoints.save(1, {"x": jnp.zeros(3)})
