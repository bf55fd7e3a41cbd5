"""Data-parallel over eight devices: the same losses, model FLOPs and scores, the same bits after a resume."""

from __future__ import annotations

import enginelib
import jax
import numpy as np
import pytest
from enginelib import accuracy, knn, recipe, rows, stage
from spendflops_plugins.segmentation import Segmentation
from spendflops_plugins.segmentation_miou import SegmentationMIoU

from spendflops.engine.build import build_stage
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import Evaluation
from spendflops.testing.samples import KitData


def measured(folder, methods):
    """Losses and prices of three steps, on the devices of this process."""
    found = {"devices": jax.device_count()}
    for method in methods:
        one = stage(method, batch_size=16)
        run_recipe(recipe(one, budget="3 steps", log_every=1), folder / method, quiet=True)
        program = build_stage(one).train
        found[method] = {
            "losses": [r["loss"] for r in rows(folder / method / "metrics.jsonl")],
            "model": program.cost().total,
            "hardware": program.cost(hardware=True).total,
        }
    return found


def scored(folder):
    """Scores of untrained models, whose weights are the same everywhere: counts of integers, and neighbours."""
    data = {"eval": (KitData(), "test")}
    segments = stage(objective=Segmentation, views=Segmentation.views(), name="segments")
    single = Evaluation(evaluator=SegmentationMIoU(average="image"), data=data, batch_size=32, name="single")
    whole = Evaluation(evaluator=SegmentationMIoU(view="slide"), data=data, batch_size=16, name="slide")
    classes = recipe(stage("supervised"), evaluations=(accuracy(), knn()), budget="0 steps")
    masks = recipe(segments, evaluations=(single, whole), budget="0 steps")
    results = [run_recipe(each, folder / str(n), quiet=True) for n, each in enumerate((classes, masks))]
    return {score["evaluation"]: score["values"] for result in results for score in result["scores"]}


RUN = """
import json, pathlib, sys
import test_devices
print(json.dumps(getattr(test_devices, sys.argv[1])(pathlib.Path(sys.argv[2]), *map(str.split, sys.argv[3:]))))
"""
LOAD = """
import json, sys
import jax, numpy as np
from enginelib import recipe, stage
from spendflops.engine.load import load
model = load(sys.argv[1])
features = model.features(np.full((2, 16, 16, 3), 99, np.uint8))["summary"]
print(json.dumps([jax.device_count(), features.astype(float).tolist()]))
"""
EIGHT = "--xla_force_host_platform_device_count=8"


@pytest.mark.parametrize(
    "methods", [["mae"], pytest.param(["supervised", "simclr"], marks=pytest.mark.slow)], ids=lambda m: m[0]
)
def test_eight_devices_do_what_one_does(methods, tmp_path):
    one = measured(tmp_path / "one", methods)
    eight = enginelib.python(RUN, "measured", tmp_path / "eight", " ".join(methods), XLA_FLAGS=EIGHT)
    assert (one["devices"], eight["devices"]) == (1, 8)
    for method in methods:
        a, b = one[method], eight[method]
        assert len(a["losses"]) == 3 and a["losses"] == pytest.approx(b["losses"], rel=1e-5)
        assert a["model"] == b["model"] == a["hardware"]
        # Work that every device repeats is counted once for each: hardware FLOPs may be a little more.
        assert 1 <= b["hardware"] / b["model"] < 1.05


def test_scores_do_not_depend_on_the_number_of_devices(tmp_path):
    one = scored(tmp_path / "one")
    assert set(one) == {"accuracy", "knn", "single", "slide"} and one["accuracy"]["examples"] == 48
    assert enginelib.python(RUN, "scored", tmp_path / "eight", XLA_FLAGS=EIGHT) == one


@pytest.mark.slow
def test_a_model_that_eight_devices_trained_is_used_and_trained_on_by_one(tmp_path):
    enginelib.python(RUN, "measured", tmp_path, "mae", XLA_FLAGS=EIGHT)
    (count, there), (one, here) = (enginelib.python(LOAD, tmp_path / "mae", XLA_FLAGS=f) for f in (EIGHT, ""))
    assert (count, one) == (8, 1) and np.allclose(there, here, rtol=1e-4, atol=1e-5)
