"""Seconds and bytes of the report, and seconds of the status, of a study of 303 runs.

Four methods, two sizes, three data sets, four budgets. Nothing is trained. Every run writes its folder through the
code of a real one (run directory, metrics, ledger), with numbers from saturating laws; three fail, and every one keeps
two pictures. Then the study's rows are made of the folders and `spendflops report` is run as a process: reading,
analysing, drawing, inlining, writing. So is `spendflops study status`, which looks into the folder of every run.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
from PIL import Image

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.contracts import registry
from spendflops.engine.evaluate import FOLDER
from spendflops.engine.metrics import MetricsLog
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Evaluation, Stage
from spendflops.engine.rundir import RunDir, write_atomically
from spendflops.study.grid import Planned, Study
from spendflops.study.points import Report, Row
from spendflops.study.report import write
from spendflops.study.results import failed_row, finished_row
from spendflops.study.status import MANIFEST

METHODS, SIZES = ("supervised", "simclr", "mae", "byol"), {"S": (64, 4), "B": (128, 8)}
DATA = {"shapes-quick": {}, "shapes-quick-uncurated": {"curated": False}, "shapes-hard": {"preset": "hard", "size": 64}}
BUDGETS = ("1e12", "3e12", "1e13", "3e13")
LOGGED = 60
"""Rows of metrics a run."""


def study(methods: tuple[str, ...], budgets: tuple[str, ...], seeds: tuple[int, ...]) -> Study:
    """The grid, its random backbone and training from scratch."""
    shapes = registry.load("datasets", "shapes")
    vit = registry.load("backbones", "vit")
    data = {name: shapes(**options) for name, options in DATA.items()}

    def stage(method: str, size: str, **more: Any) -> Stage:
        dim, depth = SIZES[size]
        backbone = functools.partial(vit, image_size=32, patch_size=4, dim=dim, depth=depth, heads=4)
        objective = functools.partial(registry.load("objectives", method))
        basics = {"objective": objective, "backbone": backbone, "dataset": data["shapes-quick"], "batch_size": 64}
        return Stage(**{**basics, "optimizer": adamw(lr=1e-3), "name": method, **more})

    scored = Evaluation(
        evaluator=registry.load("evaluators", "knn")(),
        name="neighbours",
        data={"bank": (data["shapes-quick"], "probe"), "query": (data["shapes-quick"], "test")},
        batch_size=64,
    )
    return Study(
        title="Four methods, two sizes, three data sets",
        question="What does a report of three hundred runs cost?",
        methods={f"{method} {size}": (stage(method, size),) for size in SIZES for method in methods},
        datasets=data,
        budgets=budgets,
        seeds=seeds,
        random=(stage("supervised", "S"),),
        scratch=stage("supervised", "S", role="transfer", length="1e12"),
        evaluations=(scored,),
        primary="neighbours",
    )


def planned_rows(wanted: Study) -> list[Planned]:
    """All runs before they happen."""
    scratch = [
        wanted.from_scratch(seed=seed, budget=budget, flops=int(float(budget)))
        for budget in wanted.budgets
        for seed in wanted.seeds
    ]
    return [*wanted.pretraining(), *scratch]


def law(planned: Planned) -> Callable[[float], float]:
    """Accuracy over FLOPs: larger models are behind at first; each method and data set has an end of its own."""
    method, _, size = planned.label.partition(" ")
    order = METHODS.index(method) if method in METHODS else 2
    data = list(DATA).index(planned.dataset) if planned.dataset in DATA else 0
    ceiling = 0.82 - 0.07 * order + (0.1 if size == "B" else 0.0) + 0.02 * data
    half = (1.2e12 * (1 + order)) * (2.0 if size == "B" else 1.0)
    return lambda flops: 0.2 + (ceiling - 0.2) / (1 + (half / flops) ** 0.8)


def picture(rng: np.random.Generator) -> bytes:
    """A picture of 144 pixels with the size of a photograph's."""
    noise = Image.fromarray(rng.integers(0, 256, (18, 18, 3), np.uint8)).resize((144, 144), Image.Resampling.BICUBIC)
    made = io.BytesIO()
    noise.save(made, "JPEG", quality=85)
    return made.getvalue()


def pretend(planned: Planned, folder: Path, place: int) -> dict[str, Any] | None:
    """Writes the folder of a run that did not happen, and gives its result; None for one that failed."""
    rng, stage = np.random.default_rng(place), planned.recipe.stages[-1]
    trains = planned.kind != "baseline" or planned.label == "scratch"
    role, big = stage.role, planned.label.endswith("B")
    per_step = 8 * 10**9 if big else 10**9
    steps = int(float(planned.budget or 0)) // per_step if trains else 0
    directory = RunDir.open(folder, {"seed": planned.seed})
    directory.settle({"steps": {stage.label: steps}, "flops_per_step": {stage.label: per_step}}, {})
    log, ledger = MetricsLog(folder, quiet=True), Ledger(folder / "ledger.jsonl")
    fails = place % 97 == 50
    if trains:
        shown = log.stage(stage.label, steps=steps, flops_per_step=per_step, examples_per_step=stage.batch_size)
        for step in np.unique(np.linspace(1, steps, LOGGED, dtype=int))[: LOGGED // 3 if fails else None]:
            loss = 6 * float(step) ** -0.15 + rng.normal(0, 0.05)
            shown.row(int(step), {"loss": loss, "lr": 1e-3, "grad_norm": 1.0}, flops=int(step) * per_step)
        phases = {
            "forward": per_step // 3,
            "backward": per_step - per_step // 3 - per_step // 50,
            "update": per_step // 50,
        }
        common = {"first": 0, "counter": "B C", "target": "cpu"}
        ledger.append(
            Entry(program=f"{stage.label}/train", role=role, calls=steps, last=steps, flops=per_step, phases=phases,
                  hardware_flops=per_step, seconds=steps * per_step / 5e10, **common)
        )  # fmt: skip
    log.close()
    if fails:
        return None
    score = law(planned)(max(steps * per_step, 1)) + rng.normal(0, 0.006)
    (folder / FOLDER / "neighbours").mkdir(parents=True)
    for number in (0, 1):
        (folder / FOLDER / "neighbours" / f"example_{number}.jpg").write_bytes(picture(rng))
    roles = ("pretrain", "transfer", "evaluate")
    result = {
        "stages": [
            {"examples": steps * 64, "epochs": steps / 64, "steps": steps, "available": 4096, "parameters": 5_500_000}
        ],
        "flops": {"prior": 0, "wasted": 0, "cached": 0, **{r: ledger.total(role=r) for r in roles}},
        "seconds": {"prior": 0.0, **{r: ledger.seconds(role=r) for r in roles}},
        "phases": {r: ledger.phases(role=r) for r in roles},
        "hardware_flops": {r: ledger.hardware_total(role=r) for r in roles},
        "energy": {"kwh": None, "reason": "no counter was read", "counters": [], "seconds": 0.0},
        "devices": ["cpu"],
        "scores": [
            {
                "evaluation": "neighbours", "protocol": "knn/1:k=20@32x32px", "primary": "accuracy", "unit": "%",
                "higher_is_better": True, "spread": "", "values": {"accuracy": min(score, 0.999)},
                "data": {"bank": "shapes-quick:probe", "query": "shapes-quick:test"},
                "files": ["example_0.jpg", "example_1.jpg"],
            }
        ],
    }  # fmt: skip
    write_atomically(folder / "result.json", json.dumps(result))
    return result


def listed(wanted: Study, rows: list[Planned], folder: Path) -> None:
    """Writes down which rows there are, as a study that runs does."""
    names = ("run_id", "label", "kind", "budget", "seed", "dataset", "transfer", "candidate")
    lines = [{**{name: getattr(row, name) for name in names}, "halved": ""} for row in rows]
    body = {"title": wanted.title, "command": "", "runs": len(rows), "rows": lines}
    write_atomically(folder / MANIFEST, json.dumps(body, indent=1))


def make(folder: Path, *, quick: bool) -> Report:
    """The study in its folder, with its report."""
    wanted = study(METHODS[:2], BUDGETS[:2], (0,)) if quick else study(METHODS, BUDGETS, (0, 1, 2))
    rows: list[Row] = []
    listed(wanted, planned_rows(wanted), folder)
    for place, planned in enumerate(planned_rows(wanted)):
        run = folder / "rows" / planned.run_id
        result = pretend(planned, run, place)
        rows.append(failed_row(planned, run, "diverged") if result is None else finished_row(planned, run, result))
    report = Report(
        title=wanted.title,
        question=wanted.question,
        created="2026-01-01T00:00:00+00:00",
        rows=tuple(rows),
        protocols={"knn/1:k=20@32x32px": "Nearest neighbours."},
        command="python benchmarks/report.py",
    )
    write(report, folder)
    return report


def main() -> None:
    """Makes the study once, then renders its report as a process of its own."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(os.environ.get("SPENDFLOPS_REPORT_FOLDER") or made)
        count = len(make(folder, quick=quick).rows)
        status = ["study", "status", str(folder)]
        calls = {"report": ["report", str(folder)], "study status": status}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(1 if quick else 5):
            for name, words in calls.items():
                call = [sys.executable, "-m", "spendflops", *words]
                run = functools.partial(subprocess.run, call, check=True, stdout=subprocess.DEVNULL)
                samples[name].append(harness.seconds(run))
        size = (folder / "report.html").stat().st_size / 1e6
    goals = {"report": "under 30 s", "study status": "under 2 s"}
    cases = [
        *(
            harness.Case(name=f"spendflops {n} of {count} runs", unit="s", samples=samples[n], goal=goals[n])
            for n in calls
        ),
        harness.Case(name=f"report.html of {count} runs", unit="MB", samples=[size], goal="under 2 MB"),
    ]
    harness.finish("report", cases, quick=quick, before=before)


if __name__ == "__main__":
    main()
