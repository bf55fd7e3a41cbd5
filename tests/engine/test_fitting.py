"""Out of memory: what would fit, and what it costs in FLOPs."""

from __future__ import annotations

import functools
import json

import pytest
from enginelib import VIT, recipe, stage

from spendflops.contracts.errors import OutOfMemoryError
from spendflops.engine import fitting, loop
from spendflops.engine.build import build_stage
from spendflops.engine.host import Limit


def deep(method="mae", **changes):
    backbone = functools.partial(VIT.func, **{**VIT.keywords, "depth": 6})
    return stage(method, backbone=backbone, **{"batch_size": 64, **changes})


def told(stage_, limit, monkeypatch):
    monkeypatch.setattr(fitting, "memory", lambda: Limit(size=limit, source="a test"))
    return fitting.explained(recipe(stage_), OutOfMemoryError("it does not fit", why="RESOURCE_EXHAUSTED"))


def test_what_fits_is_told_with_its_price(monkeypatch):
    wanted = deep()
    own = build_stage(wanted).train
    error = told(wanted, int(0.6 * own.held), monkeypatch)
    assert error.exit_code == 4 and error.why.startswith("RESOURCE_EXHAUSTED; a step of mae holds at most")
    assert f"of {int(0.6 * own.held) / 1e9:.3g} GB (a test)" in error.why
    parts = int(error.fix.partition("Stage.accumulate = ")[2].partition(":")[0])
    assert build_stage(deep(accumulate=parts)).train.held <= 0.6 * own.held
    # The one before does not fit.
    assert parts == 2 or build_stage(deep(accumulate=parts // 2)).train.held > 0.6 * own.held
    assert build_stage(deep(accumulate=parts)).train.cost().total == own.cost().total


def test_where_examples_meet_it_is_the_backbone_or_the_batch(monkeypatch):
    wanted = deep("simclr")
    own = build_stage(wanted).train
    error = told(wanted, int(0.8 * own.held), monkeypatch)
    assert "accumulate" not in error.fix
    assert "remat = 'blocks'" in error.fix and "devices" not in error.fix and "% more FLOPs a step" in error.fix
    assert "Stage.batch_size = 32" in error.fix and "% of the FLOPs a step" in error.fix
    again = build_stage(deep("simclr", batch_size=32)).train
    assert f"{again.cost().total / own.cost().total:.0%} of the FLOPs" in error.fix


def test_nothing_fits(monkeypatch):
    assert told(deep(), 1000, monkeypatch).fix.startswith("a smaller model")


def test_the_run_ends_with_4_and_says_it(tmp_path, monkeypatch):
    def full(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")

    monkeypatch.setattr(loop, "_train", full)
    with pytest.raises(OutOfMemoryError, match=r"17179869184 bytes[\s\S]*Stage.accumulate = 2"):
        loop.run_recipe(recipe(), tmp_path, quiet=True)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["exit_code"] == 4 and "Stage.accumulate = 2" in status["error"]
