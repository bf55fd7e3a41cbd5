"""A small study as rows: three methods at two budgets, a random backbone, scratch and two fine-tunings."""

import dataclasses

import pytest
from browser import NAMES, find

from spendflops.accounts import machines
from spendflops.accounts.footprint import estimate
from spendflops.study.points import Overlap, Report, Row, Score

HERE = machines.Host(kind="cpu", devices=1, cores=2)
RIDGE, FINETUNE = "ridge-frozen-v1", "accuracy-finetune-v1"
SMALL, LARGE = 500_000_000_000, 2_000_000_000_000
TRANSFER = 600_000_000_000


def score(value, sd=1.0, *, protocol=RIDGE, n=3, **more):
    spread = f"{n} label subsets" if sd is not None else ""
    basics = {"evaluator": "ridge", "metric": "accuracy", "dataset": "shapes", "split": "test", "unit": "%"}
    return Score(**{**basics, "protocol": protocol, "value": value, "sd": sd, "n": n, "spread": spread, **more})


def row(label, budget=None, value=50.0, *, seed=0, sd=1.0, flops=None, transfer=0, protocol=RIDGE, **more):
    pretrain = flops if flops is not None else int(0.99 * (budget or 0))
    basics = {
        "run_id": f"{label}-{budget}-{seed}",
        "label": label,
        "backbone": "vit",
        "dataset": "shapes" if pretrain else "",
        "seed": seed,
        "budget": budget,
        "flops": {"pretrain": pretrain, "transfer": transfer, "evaluate": 10**9, "wasted": 0},
        "phases": {"forward": pretrain // 3, "backward": pretrain - pretrain // 3} if pretrain else {},
        "hardware_flops": pretrain or None,
        "hardware_reason": "" if pretrain else "nothing is trained",
        "images_seen": pretrain // 10**8,
        "epochs": pretrain / 10**12 if pretrain else None,
        "seconds": {"pretrain": pretrain / 1e9, "transfer": transfer / 1e9, "evaluate": 9.0},
        "device": "cpu, 2 cores",
        "scores": (score(value, sd, protocol=protocol),),
        "footprint": estimate(hours=0.5, machine=machines.parse("this", here=HERE)),
        "config_hash": f"hash-{label}",
        "settings": {"objective": label, "batch": 64, "seed": seed},
        "versions": {"jax": "0.10.2"},
        "folder": f"runs/{label}-{seed}",
    }
    return Row(**{**basics, **more})


@pytest.fixture
def make_row():
    return row


@pytest.fixture
def make_score():
    return score


@pytest.fixture
def chromium(tmp_path):
    found = find(tmp_path / "profile")
    if found is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is on the PATH")
    return found


@pytest.fixture
def study():
    tune = {"transfer": TRANSFER, "protocol": FINETUNE}
    rows = [
        row("random", None, 34.2, kind="baseline"),
        row("supervised", SMALL, 66.8),
        row("supervised", LARGE, 81.3),
        row("simclr", SMALL, 52.0),
        row("simclr", LARGE, 80.4),
        row("mae", SMALL, 33.1),
        row("mae", LARGE, 35.0),
        row("scratch", None, 71.0, kind="baseline", **tune),
        row("fine-tune of simclr", SMALL, 73.5, kind="transfer", **tune),
        row("fine-tune of simclr", LARGE, 84.0, kind="transfer", **tune),
    ]
    failed = dataclasses.replace(
        row("byol", LARGE), status="failed: loss became nan at step 212", scores=(), folder="runs/byol-0"
    )
    return Report(
        title='Which <method> for "2 TFLOP"?',
        question="Where should 2e12 FLOPs go?",
        created="2026-01-02T03:04:05Z",
        rows=(*rows, failed),
        assumptions=("One multiply-add is 2 FLOPs.",),
        protocols={RIDGE: "Ridge regression on frozen features.", FINETUNE: "Fine-tuning of everything."},
        overlap=(Overlap(a="pre-training", b="query", shared=3, a_images=4000, b_images=1000),),
        notes=("The budget 5e11 is below one epoch.",),
        command="spendflops study shapes.gin",
        citation="Cite <this>.",
    )
