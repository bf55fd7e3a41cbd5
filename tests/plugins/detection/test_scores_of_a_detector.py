"""A run scores a detector: the same figures and files for any size of batches and number of devices."""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "engine"))

import enginelib
from spendflops_plugins.detection.coco_ap import CocoAP
from spendflops_plugins.supervised import Supervised

from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import Evaluation
from spendflops.testing.samples import KitData


class Detector(Supervised):
    """Finds one object in every image, which fills it: of the class that it would say the image has."""

    outputs = (*Supervised.outputs, "boxes", "box_scores", "box_labels", "box_masks")

    def predict(self, batch, ctx, *, want):
        extent = batch["extent"].astype(jnp.float32)
        logits = self.head(self.backbone(batch["image"], ctx).summary)
        boxes = jnp.stack([0 * extent[:, 0], 0 * extent[:, 0], extent[:, 1], extent[:, 0]], axis=1)
        return {
            "boxes": boxes[:, None],
            "box_scores": jax.nn.softmax(logits).max(axis=1)[:, None],
            "box_labels": logits.argmax(axis=1)[:, None],
            "box_masks": jnp.ones((len(extent), 1, 4, 4)),
        }


def scored(folder, *, batch_size):
    """(score, files) of a detector that was never trained."""
    data = {"eval": (KitData(), "test")}
    evaluation = Evaluation(evaluator=CocoAP(masks=True), name="boxes", data=data, batch_size=batch_size)
    stage = enginelib.stage("supervised", objective=Detector)
    result = run_recipe(enginelib.recipe(stage, evaluations=(evaluation,), budget="0 steps"), folder, quiet=True)
    (score,) = result["scores"]
    kept = {name: (folder / "evaluations" / "boxes" / name).read_bytes() for name in score["files"]}
    return score, kept


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return scored(tmp_path_factory.mktemp("one") / "run", batch_size=16)


def test_a_run_scores_a_detector(one):
    score, kept = one
    assert 0 < score["values"]["box_ap"] < 1 and 0 < score["values"]["mask_ap"] < 1
    assert score["protocol"] == "coco_ap/1:longest_side:score>0:max=100@16x16px" and score["primary"] == "box_ap"
    assert list(kept) == score["files"] == ["detections.json", *(f"example_{i}.jpg" for i in range(3))]
    lines = json.loads(kept["detections.json"])
    assert [line["image_id"] for line in lines] == list(range(48))


RUN = """
import json, pathlib, sys
import jax
from test_scores_of_a_detector import scored
score, kept = scored(pathlib.Path(sys.argv[1]), batch_size=16)
print(json.dumps([jax.device_count(), score["values"], list(kept)]))
"""


@pytest.mark.slow
def test_batches_and_devices_change_nothing(one, tmp_path):
    score, kept = one
    # Outputs of the network may differ in their last bit: matrices of other sizes are multiplied.
    same = pytest.approx(score["values"], abs=1e-12)
    again, other = scored(tmp_path / "ten", batch_size=10)
    assert again["values"] == same and list(other) == list(kept)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    devices, values, names = enginelib.python(RUN, tmp_path / "eight", **flags)
    assert devices == 8 and values == same and names == list(kept)
