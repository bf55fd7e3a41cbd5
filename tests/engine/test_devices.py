"""Eight devices, the state on each or divided over them: the same losses, model FLOPs, scores and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import signal

import enginelib
import jax
import numpy as np
import pytest
from enginelib import accuracy, knn, outcome, recipe, rows, stage
from spendflops_plugins.segmentation import Segmentation
from spendflops_plugins.segmentation_miou import SegmentationMIoU
from spendflops_plugins.supervised import Supervised

from spendflops.contracts import errors
from spendflops.engine.build import build_stage
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import sgd
from spendflops.engine.recipe import Evaluation
from spendflops.engine.sharding import Mesh
from spendflops.testing.samples import KitData


def measured(folder, methods, fsdp=("1",)):
    """Losses and prices of three steps, on the devices of this process."""
    found = {"devices": jax.device_count()}
    for method in methods:
        one = stage(method, batch_size=16, mesh=Mesh(fsdp=int(*fsdp), min_size=64))
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


@pytest.mark.parametrize("fsdp", ["1", "8"], ids=["copies", "divided"])
@pytest.mark.parametrize(
    "methods", [["mae"], pytest.param(["supervised", "simclr", "dino"], marks=pytest.mark.slow)], ids=lambda m: m[0]
)
def test_eight_devices_do_what_one_does(methods, fsdp, tmp_path):
    one = measured(tmp_path / "one", methods)
    eight = enginelib.python(RUN, "measured", tmp_path / "eight", " ".join(methods), fsdp, XLA_FLAGS=EIGHT)
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


def averaged(fsdp):
    """A stage with an EMA copy. Steps of SGD: Adam divides rounding by rounding where a gradient is zero."""
    objective = functools.partial(Supervised, head_init="trunc_normal", ema=0.9)
    mesh = Mesh(fsdp=int(fsdp), min_size=64)
    return stage("supervised", objective=objective, optimizer=sgd(lr=0.1), batch_size=16, mesh=mesh)


def part(folder, stop=("0",), fsdp=("1",)):
    """Goes on with a run of eight steps up to step ``stop``; returns how often an EMA tensor was saved divided."""
    begin, divided = Checkpoints.begin, []

    def saved(self, step, state):
        begin(self, step, state)
        divided.extend(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state["ema"]))
        if step == int(*stop):
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(errors.Preempted):
        patch.setattr(Checkpoints, "begin", saved)
        run_recipe(recipe(averaged(*fsdp), budget="8 steps", log_every=1, checkpoint_every=2), folder, quiet=True)
    return sum(divided)


def digests(folder):
    """Of the newest checkpoint, as it is restored: whole, and divided over two devices and over all."""
    found, checkpoints = [], Checkpoints(folder / "checkpoints" / "supervised")
    raw = checkpoints.restore_raw()
    ema = jax.tree.map(np.asarray, {kind: raw[kind] for kind in ("ema", "params")})
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), build_stage(averaged("1")).train.args[0])
    for fsdp in (1, 2, 8):
        _, state = checkpoints.restore(Mesh(fsdp=fsdp, min_size=64).state(shapes))
        pairs = zip(*map(jax.tree.leaves, ({kind: state[kind] for kind in ema}, ema)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        content = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))
        found.append([fsdp, hashlib.sha256(content).hexdigest()])
    checkpoints.close()
    return found


def test_a_checkpoint_of_eight_devices_goes_on_on_one_on_two_and_back(tmp_path):
    """Any number of devices takes up the state of any other, EMA copy and ledger among it."""
    whole, run = tmp_path / "one", tmp_path / "run"
    part(whole)
    assert enginelib.python(RUN, "part", run, "2", "8", XLA_FLAGS=EIGHT) > 0
    here, there = digests(run), enginelib.python(RUN, "digests", run, XLA_FLAGS=EIGHT)
    assert here == there and len({digest for _, digest in here}) == 1
    assert part(run, ("4",)) == 0
    assert enginelib.python(RUN, "part", run, "6", "2", XLA_FLAGS=EIGHT.replace("8", "2")) > 0
    assert enginelib.python(RUN, "part", run, "0", "8", XLA_FLAGS=EIGHT) > 0
    one, many = (outcome(folder, "supervised") for folder in (whole, run))
    assert one["state"].keys() == many["state"].keys() and any(p.startswith("ema/") for p in one["state"])
    for path, (dtype, shape, content) in one["state"].items():
        a, b = (np.frombuffer(x, dtype).reshape(shape) for x in (content, many["state"][path][2]))
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a) + 1e-8, path
    assert [r["loss"] for r in one["metrics"]] == pytest.approx([r["loss"] for r in many["metrics"]], rel=1e-5)
    for each in (one, many):
        assert [(r["first"], r["last"]) for r in each["ledger"]] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert len({(r["flops"], str(r["phases"])) for each in (one, many) for r in each["ledger"]}) == 1
    assert enginelib.wasted(run) == []


@pytest.mark.slow
def test_a_model_that_eight_devices_trained_is_used_and_trained_on_by_one(tmp_path):
    enginelib.python(RUN, "measured", tmp_path, "mae", XLA_FLAGS=EIGHT)
    (count, there), (one, here) = (enginelib.python(LOAD, tmp_path / "mae", XLA_FLAGS=f) for f in (EIGHT, ""))
    assert (count, one) == (8, 1) and np.allclose(there, here, rtol=1e-4, atol=1e-5)
