"""A loss that is not finite at a known step: exit code 5, and a file that holds the step and repeats it."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from enginelib import METHODS, recipe, stage, write_gin
from spendflops_plugins.mae import MAE

from spendflops.cli.main import main
from spendflops.contracts.errors import DataError, DivergedError, InUseError
from spendflops.engine.loop import run_recipe
from spendflops.engine.replay import again, replay
from spendflops.engine.rundir import locked

BAD = 7


class Wild(MAE):
    """Its loss is no number at one step."""

    def loss(self, batch, targets, ctx):
        found = super().loss(batch, targets, ctx)
        return dataclasses.replace(found, value=found.value * jnp.where(ctx.step == BAD, jnp.nan, 1.0))


def wild():
    objective = functools.partial(Wild, **METHODS["mae"].keywords)
    return recipe(stage(objective=objective, name="wild"), budget="12 steps", checkpoint_every=4, log_every=50)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay") / "run"
    with pytest.raises(DivergedError, match=f"'wild' diverged at step {BAD}") as caught:
        run_recipe(wild(), folder, quiet=True)
    assert caught.value.exit_code == 5 and "spendflops replay" in caught.value.fix
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_step_is_known(diverged):
    status = json.loads((diverged / "status.json").read_text())
    assert (status["exit_code"], status["stage"], status["step"]) == (5, "wild", BAD)


def test_a_file_holds_the_step_and_repeats_it(diverged):
    before = content(diverged)
    found = replay(wild(), diverged)
    assert found.file == diverged / "replay" / f"wild-{BAD}.npz" and found.diverges
    # What went in was finite; what came out is not.
    assert found.before == found.batch == () and any("params" in name for name in found.after)
    # Nothing else has changed, and nothing is left beside the run.
    assert {path: data for path, data in content(diverged).items() if path.parts[0] != "replay"} == before
    assert [path.name for path in diverged.parent.iterdir()] == ["run"]
    repeated = again(wild(), found.file)
    assert repeated.after == found.after and str(repeated.metrics) == str(found.metrics)
    # It is the step that is in the file: another batch gives other metrics.
    with np.load(found.file) as arrays:
        changed = {name: 255 - x if x.dtype == np.uint8 else x for name, x in arrays.items()}
    other = diverged.parent / f"wild-{BAD}.npz"
    np.savez(other, **changed)
    assert str(again(wild(), other).metrics) != str(found.metrics)
    other.unlink()


def test_checkpoints_take_no_room_twice_and_what_a_killed_replay_left_is_cleared_away(diverged, monkeypatch):
    left = diverged.parent / ".replay-run"
    (left / "checkpoints").mkdir(parents=True)
    (left / "config.json").write_text("{}")
    seen = {}

    def run(recipe, folder, **how):
        seen.update({path.relative_to(folder): path.stat().st_ino for path in folder.rglob("*") if path.is_file()})
        return run_recipe(recipe, folder, **how)

    monkeypatch.setattr("spendflops.engine.replay.run_recipe", run)
    assert replay(wild(), diverged).diverges and not left.exists()
    shared = {path for path, number in seen.items() if (diverged / path).stat().st_ino == number}
    steps = {path for path in seen if path.parts[0] == "checkpoints" and len(path.parts) > 3}
    assert steps and shared == steps  # a file that a run appends to must be its own
    assert not {"events", "logs"} & {path.parts[0] for path in seen}


def test_a_run_that_somebody_works_on_is_not_replayed(diverged):
    with locked(diverged), pytest.raises(InUseError, match="is in use by process"):
        replay(wild(), diverged)


def test_a_file_of_another_model_is_refused(diverged):
    file = replay(wild(), diverged).file
    other = recipe(stage("simclr", name="wild"), budget="12 steps")
    with pytest.raises(DataError, match="is not of stage 'wild' of this recipe"):
        again(other, file)


def test_a_run_that_did_not_diverge_has_nothing_to_replay(tmp_path, capsys):
    run_recipe(recipe(budget="1 steps"), tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="is not a run that diverged"):
        replay(recipe(budget="1 steps"), tmp_path / "run")
    assert main(["replay", str(tmp_path / "run")]) == 3
    assert "there is no" in capsys.readouterr().err


def test_the_verb_reads_the_configuration_that_the_run_keeps(tmp_path, capsys):
    flags = ["--gin_file", str(write_gin(tmp_path, steps=20, lr=1e30, evaluate=False))]
    assert main(["train", *flags, "--workdir", str(tmp_path / "run"), "--quiet"]) == 5
    step = json.loads((tmp_path / "run" / "status.json").read_text())["step"]
    assert main(["replay", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "not finite in the batch: none" in told and f"mae-{step}.npz" in told
    assert (tmp_path / "run" / "replay" / f"mae-{step}.npz").exists()


def test_what_is_finite_this_time_is_said(diverged, monkeypatch):
    monkeypatch.setattr("spendflops.engine.replay.Replay.diverges", property(lambda self: False))
    with pytest.raises(DataError, match=f"step {BAD} of wild is finite this time"):
        replay(wild(), diverged)
