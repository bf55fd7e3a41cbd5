"""A study in plain Python, without gin: what does a budget of FLOPs buy over a random backbone?

One method, one budget, two seeds, a backbone that was never trained as the baseline, and a score on frozen features. On
two CPU cores it takes well under a minute; another method, budget or seed is one more entry.

    python examples/quickstart.py runs/quickstart
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import spendflops
from spendflops.contracts import registry
from spendflops.engine import optim
from spendflops.parts import schedules
from spendflops.study.launch import Launch
from spendflops.study.report import terminal_table, write


def study() -> spendflops.Study:
    """Plugins are classes: objectives and backbones go in unbuilt, everything else as an instance."""
    vit, supervised = registry.load("backbones", "vit"), registry.load("objectives", "supervised")
    shapes = registry.load("datasets", "shapes")(size=32, length=2000, probe=400, test=400)
    stage = spendflops.Stage(
        objective=functools.partial(supervised, head_init="trunc_normal"),
        backbone=functools.partial(vit, image_size=32, patch_size=8, dim=48, depth=2, heads=3),
        dataset=shapes,
        batch_size=64,
        optimizer=optim.adamw(lr=schedules.WarmupCosine(peak=2e-3, warmup_fraction=0.1), b2=0.95, weight_decay=0.05),
    )
    probe = spendflops.Evaluation(
        name="probe",
        evaluator=registry.load("evaluators", "ridge_classification")(),
        data={"bank": (shapes, "probe"), "query": (shapes, "test")},
        batch_size=100,
    )
    return spendflops.Study(
        title="Quickstart",
        question="What does a budget of FLOPs buy over a random backbone?",
        methods={"supervised": (stage,)},
        budgets=("8e10",),
        seeds=(0, 1),
        random=(stage,),
        evaluations=(probe,),
        primary="probe",
        log_every=50,
    )


def main(folder: str) -> None:
    """Runs the rows that are not finished, prints the table and writes the report."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    report = Launch(study=study(), folder=Path(folder), command=" ".join(sys.argv)).run()
    print(terminal_table(report))
    for kind, path in write(report, Path(folder)).items():
        print(f"{kind}: {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
