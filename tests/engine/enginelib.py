"""What the tests of the engine share: a recipe that trains in a second, processes that run it, and runs compared."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from spendflops_plugins.accuracy import Accuracy
from spendflops_plugins.dino import DINO
from spendflops_plugins.knn import KNN
from spendflops_plugins.mae import MAE
from spendflops_plugins.simclr import SimCLR
from spendflops_plugins.supervised import Supervised, SupervisedViews
from spendflops_plugins.vit import ViT

from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Evaluation, Recipe, Stage
from spendflops.engine.state import flatten
from spendflops.testing.samples import KitData

TIMES = ("seconds", "examples_per_second", "flops_per_second", "data_wait")
VIT = functools.partial(ViT, image_size=16, patch_size=4, dim=16, depth=1, heads=2)
METHODS = {
    "supervised": functools.partial(Supervised, head_init="trunc_normal"),
    "mae": functools.partial(MAE, decoder_dim=16, decoder_depth=1, decoder_heads=2),
    "dino": functools.partial(DINO, out_dim=32, hidden=16, bottleneck=8),
    "simclr": functools.partial(SimCLR, projector_layers=2, projector_dim=8),
}


def stage(method="mae", **changes):
    """A stage of 8 images of 16 pixels a batch."""
    basics = {"objective": METHODS[method], "backbone": VIT, "dataset": KitData(), "batch_size": 8}
    views = SupervisedViews(crop="none") if method == "supervised" else None
    return Stage(**{**basics, "optimizer": adamw(lr=1e-3), "views": views, **changes})


def knn(**changes):
    """An evaluation that reads two splits."""
    roles = {"bank": (KitData(), "train"), "query": (KitData(), "test")}
    return Evaluation(**{"evaluator": KNN(k=3), "data": roles, "batch_size": 32, **changes})


def accuracy(**changes):
    """An evaluation of a classifier."""
    return Evaluation(**{"evaluator": Accuracy(), "data": {"eval": (KitData(), "test")}, "batch_size": 32, **changes})


def recipe(*stages, **changes):
    """A recipe; by default six steps of MAE."""
    basics = {"budget": "6 steps", "log_every": 2, "checkpoint_every": 4}
    return Recipe(**{"stages": stages or (stage(),), **basics, **changes})


GIN = """
Recipe.stages = (@mae/Stage(),)
Recipe.evaluations = (@Evaluation(),)
Recipe.budget = '{steps} steps'
Recipe.log_every = 3
Recipe.checkpoint_every = {every}
Stage.backbone = @backbones.vit
backbones.vit.image_size = 16
backbones.vit.patch_size = 4
backbones.vit.dim = 16
backbones.vit.depth = 1
backbones.vit.heads = 2
Stage.dataset = @data/datasets.KitData()
plugins.datasets.KitData = 'spendflops.testing.samples:KitData'
Stage.batch_size = 8
Stage.optimizer = @optim.adamw()
optim.adamw.lr = {lr}
mae/Stage.objective = @objectives.mae
mae/objectives.mae.decoder_dim = 16
mae/objectives.mae.decoder_depth = 1
mae/objectives.mae.decoder_heads = 2
Evaluation.evaluator = @evaluators.knn()
Evaluation.data = {{'bank': (@data/datasets.KitData(), 'train'), 'query': (@data/datasets.KitData(), 'test')}}
Evaluation.batch_size = 16
"""


def write_gin(folder, *, steps=40, every=8, lr=1e-3, evaluate=True):
    """A gin file that trains ``steps`` steps, and its path."""
    path = Path(folder) / f"tiny-{steps}-{every}-{lr}.gin"
    lines = GIN.format(steps=steps, every=every, lr=lr).splitlines()
    path.write_text("\n".join(line for line in lines if evaluate or "valuation" not in line) + "\n")
    return path


def environment(cache=None, **changes):
    """The variables of a child process that compiles through a shared cache."""
    paths = os.pathsep.join(filter(None, sys.path))
    # An empty name turns the cache off.
    fixed = {"PYTHONPATH": paths, "SPENDFLOPS_CACHE": str(cache or ""), "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **fixed, **changes}


def command(verb, *arguments):
    """The command line of a verb."""
    return [sys.executable, "-m", "spendflops", verb, *map(str, arguments)]


def call(verb, *arguments, cache=None, timeout=120, **changes):
    """Runs a verb to its end: (exit code, standard output, standard error)."""
    done = subprocess.run(
        command(verb, *arguments),
        env=environment(cache, **changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout, done.stderr


def python(text, *arguments, timeout=120, **changes):
    """Runs Python text in a process of its own and gives its standard output, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


class Process:
    """A verb that runs beside the test."""

    def __init__(self, verb, *arguments, cache=None):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command(verb, *arguments), env=environment(cache), **options)

    def until(self, condition, timeout=90):
        """Waits until a condition holds; fails if the process ends before."""
        end = time.time() + timeout
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.process.stdout.read()}"
            assert time.time() < end, "took too long"
            time.sleep(0.005)
        return self

    def stop(self, number):
        """Sends a signal and gives (exit code, output)."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=90)
        return self.process.returncode, output


def reached(workdir, label="mae"):
    """The step that a run has got to."""
    path = Path(workdir) / "checkpoints" / f"{label}.progress"
    words = path.read_bytes().split() if path.exists() else []
    return int(words[1]) if len(words) == 3 else 0


def rows(path):
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def outcome(workdir, label="mae"):
    """All that a run must reproduce, without times."""
    workdir = Path(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints" / label)
    state = {p: np.asarray(x) for p, x in flatten(checkpoints.restore_raw()).items() if not isinstance(x, list)}
    last = checkpoints.steps()[-1]
    checkpoints.close()
    ledger = [r for r in rows(workdir / "ledger.jsonl") if r["kind"] == "productive"]
    apart = ("seconds", "cached")
    return {
        "step": last,
        "state": {path: (x.dtype.str, x.shape, x.tobytes()) for path, x in state.items()},
        "metrics": [{k: v for k, v in r.items() if k not in TIMES} for r in rows(workdir / "metrics.jsonl")],
        "ledger": [{k: v for k, v in r.items() if k not in apart} for r in ledger],
        "scores": json.loads((workdir / "result.json").read_text())["scores"],
    }


def wasted(workdir):
    """(first, last) of the steps that were done again."""
    return [(r["first"], r["last"]) for r in rows(Path(workdir) / "ledger.jsonl") if r["kind"] == "wasted"]


def leaves(tree):
    """Path -> bytes of every array."""
    return {path: np.asarray(x).tobytes() for path, x in flatten(jax.device_get(tree)).items()}
