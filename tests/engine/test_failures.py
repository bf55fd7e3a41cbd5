"""Errors of the device and of the numbers: what happened, why, how to fix it, and the exit code."""

from __future__ import annotations

import json

import pytest
from enginelib import recipe, stage
from spendflops_plugins.folder import Folder
from spendflops_plugins.low_shot import LowShot

from spendflops.contracts.errors import ConfigError, DataError, DivergedError, OutOfMemoryError
from spendflops.engine import loop
from spendflops.engine.build import build
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import sgd
from spendflops.engine.program import translate
from spendflops.engine.recipe import Evaluation
from spendflops.testing.samples import KitData

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


def test_several_budgets_of_a_study_are_flops():
    from spendflops.study.grid import Study

    with pytest.raises(ConfigError, match="by FLOPs"):
        Study(
            title="t", question="q", methods={"mae": (stage(),)}, budgets=("5 steps", "6 steps"), evaluations=(_knn(),),
            primary="knn",
        )  # fmt: skip


def _knn():
    from enginelib import knn

    return knn()


def few_shots(shots, **changes):
    roles = {"bank": (KitData(), "train"), "query": (KitData(), "test")}
    return Evaluation(**{"evaluator": LowShot(shots=shots), "data": roles, "batch_size": 32, **changes})


def test_data_of_later_stages_and_of_scores_are_opened_before_anything_is_trained(tmp_path):
    gone = tmp_path / "photos"
    (gone / "train" / "a").mkdir(parents=True)
    (gone / "test").mkdir()
    (gone / "train" / "a" / "x.jpg").write_bytes(b"never read")
    photos = Folder(path=str(gone), labels="none")
    for wanted, words in (
        (recipe(stage(share=0.5), stage("simclr", share=0.5, dataset=photos, split="test")), "no images"),
        (recipe(evaluations=(few_shots(1000),)), "fewer than 1000 labelled images"),
    ):
        with pytest.raises(DataError, match=words):
            run_recipe(wanted, tmp_path / words.replace(" ", "-"), quiet=True)
        assert not (tmp_path / words.replace(" ", "-") / "metrics.jsonl").exists()


def test_shots_that_all_classes_have(tmp_path):
    assert run_recipe(recipe(evaluations=(few_shots(2),)), tmp_path, quiet=True)["scores"][0]["values"]["labelled"] == 8


class Nothing(KitData):
    """Its splits are there and hold no example."""

    def source(self, split, *, features):
        return []


def test_empty_data_are_known_before_anything_is_trained(tmp_path):
    for number, wanted in enumerate((
        recipe(stage(share=0.5), stage("simclr", share=0.5, dataset=Nothing())),
        recipe(evaluations=(few_shots(1, data={"bank": (KitData(), "train"), "query": (Nothing(), "test")}),)),
    )):  # fmt: skip
        with pytest.raises(DataError, match="is empty"):
            run_recipe(wanted, tmp_path / str(number), quiet=True)
        assert not (tmp_path / str(number) / "metrics.jsonl").exists()
