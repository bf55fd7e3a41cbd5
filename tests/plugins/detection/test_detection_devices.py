"""A detector on eight devices: proposals, samples and detections are chosen on each for its own images alone."""

import collections
import functools
import json
import os
import re
import subprocess
import sys

import jax
from spendflops_plugins.detection.mask_rcnn import MaskRCNN
from test_mask_rcnn import BACKBONE, SMALL, VIEWS

from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Stage
from spendflops.testing.samples import KitData

RUN = "import json, test_detection_devices as test; print(json.dumps(test.measured()))"


def measured():
    """Operations of a training step in which devices talk with each other, by the names of who asks; FLOPs."""
    stage = Stage(
        objective=functools.partial(MaskRCNN, **SMALL),
        backbone=BACKBONE,
        dataset=KitData(),
        views=VIEWS,
        batch_size=16,
        optimizer=adamw(lr=1e-3),
    )
    program = build_stage(stage).train
    text, talk = program.compile().as_text(), collections.defaultdict(list)
    for line in text.splitlines():
        if found := re.search(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\((?:.*op_name=\"(.*?)\")?", line):
            talk[found[1]].append(found[2] or "")
    cost = {"model": program.cost().total, "closed": program.closed_form, "hardware": program.cost(hardware=True).total}
    return {"devices": jax.device_count(), "talk": talk, **cost}


def test_devices_talk_of_losses_and_gradients_alone():
    """``lax.top_k`` under ``vmap`` would send all logits to all devices, and suppression ask them after every round."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", RUN], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8 and set(found["talk"]) == {"all-reduce"}
    assert not any("while" in name for name in found["talk"]["all-reduce"])
    # A product with one column, the mask's gradient, is none to the compiler.
    assert found["model"] == found["closed"] and 0.99 < found["hardware"] / found["model"] <= 1
