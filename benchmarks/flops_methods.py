"""FLOPs of a training step of every method at ViT-B/16: by formula (A), before compiling (B), compiled (C).

Nothing is timed and nothing is allocated: programs are traced and compiled from shapes alone. Writes
docs/flops_methods.json and the table in docs/flops.md.
"""

from __future__ import annotations

import argparse
import functools
import json
from typing import Any

import harness
from spendflops_plugins.byol import BYOL
from spendflops_plugins.clip import CLIP
from spendflops_plugins.dino import DINO, DINOViews
from spendflops_plugins.mae import MAE
from spendflops_plugins.simclr import SimCLR
from spendflops_plugins.simmim import SimMIM
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Stage

MARK = "<!-- written by benchmarks/flops_methods.py -->"
BATCH = 8

Learned = functools.partial(ViT, positions="learned", position_resize="dino_bicubic")
Relative = functools.partial(
    ViT, positions="none", relative_positions="shared", layer_scale=0.1, key_bias=False, init="simmim"
)
METHODS = {
    "supervised, 1000 classes": (Supervised, ViT),
    "SimCLR": (SimCLR, ViT),
    "BYOL": (BYOL, ViT),
    "DINO, 2 + 10 views": (DINO, Learned, DINOViews(local_views=10)),
    "CLIP, text mini": (CLIP, ViT),
    "MAE 75 %, 8 layers": (functools.partial(MAE, mask_ratio=0.75), ViT),
    "MAE 75 %, 1 layer": (functools.partial(MAE, mask_ratio=0.75, decoder_depth=1), ViT),
    "SimMIM": (SimMIM, Relative),
}


class Thousand(Dataset):
    """A data set of a thousand classes that is on no disk."""

    def __init__(self):
        features = {"image": "uint8 H W C", "label": "int32", "caption": "str"}
        self.info = DatasetInfo(name="thousand", features=features, classes=tuple(map(str, range(1000))))

    def source(self, split: str, *, features: tuple[str, ...]) -> Any:
        """Never called: programs are made from shapes."""
        raise LookupError(split)


def measured(name: str) -> dict[str, Any]:
    """A, B, C and the compiler's own figure (D), FLOPs an image."""
    objective, backbone, *views = METHODS[name]
    stage = Stage(
        objective=objective,
        backbone=backbone,
        dataset=Thousand(),
        optimizer=adamw(lr=1e-3),
        batch_size=BATCH,
        views=views[0] if views else None,
    )
    program = build_stage(stage).train
    counts = {"A": program.closed_form, "B": program.cost().total, "C": program.cost(hardware=True).total}
    return {**{key: value and value / BATCH for key, value in counts.items()}, "D": (program.raw_flops() or 0) / BATCH}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| method | A, GFLOP an image | B / A | C / A | x supervised | D / A |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = results["methods"]["supervised, 1000 classes"]["A"]
    for name, row in results["methods"].items():
        cells = [f"{row['A'] / 1e9:.2f}", *(f"{row[k] / row['A']:.5f}" for k in "BC"), f"{row['A'] / base:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['D'] / row['A']:.3f} |")
    packages = results["machine"]["packages"]
    lines += ["", f"ViT-B/16 at 224 pixels, batches of {BATCH}, float32; jax {packages['jax']}, compiled for CPU."]
    return "\n".join(lines)


def main() -> None:
    """Counts all methods, or renders what was counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the table again")
    path = harness.DOCS / "flops_methods.json"
    if not parser.parse_args().render:
        machine = harness.machine()
        results = {"machine": machine, "batch": BATCH, "methods": {name: measured(name) for name in METHODS}}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    harness.between(harness.DOCS / "flops.md", MARK, table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
