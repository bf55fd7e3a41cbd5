"""Errors of the device and of the numbers: what happened, why, how to fix it, and the exit code."""

from __future__ import annotations

import json

import pytest
from enginelib import recipe, stage

from spendflops.contracts.errors import ConfigError, DivergedError, OutOfMemoryError
from spendflops.engine import loop
from spendflops.engine.build import build
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import sgd
from spendflops.engine.program import translate

EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nmany more lines"


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path):
    wild = stage(optimizer=sgd(lr=1e30, momentum=0.0))
    with pytest.raises(DivergedError, match=r"stage 'mae' diverged at step \d+: .*(loss|grad_norm)") as caught:
        run_recipe(recipe(wild, budget="50 steps", checkpoint_every=1, log_every=50), tmp_path, quiet=True)
    assert "learning rate 1e+30" in caught.value.why and caught.value.exit_code == 5
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and status["exit_code"] == 5
    # What was saved before is finite, and the same command comes to the same end.
    with pytest.raises(DivergedError) as again:
        run_recipe(recipe(wild, budget="50 steps", checkpoint_every=1, log_every=50), tmp_path, quiet=True)
    assert again.value.what == caught.value.what


class XlaRuntimeError(RuntimeError):
    """Stands for the runtime's own."""


def test_out_of_memory_has_its_own_error_and_keeps_the_reason():
    error = translate(XlaRuntimeError(EXHAUSTED))
    assert isinstance(error, OutOfMemoryError) and error.exit_code == 4
    assert error.why == EXHAUSTED.splitlines()[0] and "a smaller batch" in error.fix
    # Translated twice, as an error on its way up is, it is still the same.
    assert translate(error) is error
    other = ValueError("something else")
    assert translate(other) is other


def test_out_of_memory_in_a_step_ends_the_run_with_its_code(tmp_path, monkeypatch):
    def full(*args):
        raise XlaRuntimeError(EXHAUSTED)

    monkeypatch.setattr(loop, "_train", full)
    with pytest.raises(OutOfMemoryError, match="17179869184 bytes"):
        run_recipe(recipe(), tmp_path, quiet=True)
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 4


def test_functions_without_a_name_of_their_own_are_refused():
    # Two lambdas would have one description, and the second would run the first one's program.
    with pytest.raises(ConfigError, match="a function must stand in a module"):
        build(recipe(stage(optimizer=sgd(lr=lambda ctx: 0.1))))


def test_a_hidden_folder_cannot_fill_a_study_with_other_units():
    from spendflops.study.grid import Study

    with pytest.raises(ConfigError, match="by FLOPs"):
        Study(
            title="t", question="q", methods={"mae": (stage(),)}, budgets=("5 steps",), evaluations=(_knn(),),
            primary="knn",
        )  # fmt: skip


def _knn():
    from enginelib import knn

    return knn()
