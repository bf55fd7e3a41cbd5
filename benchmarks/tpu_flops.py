"""FLOPs of a training step of every method at ViT-B/16 on 32 chips of TPU v3, by the compiler for TPUs, without one.

The recipes are those of gin/paper/, at the paper's batches: where one does not fit into the memory of a device it is
halved until it does, and the compiler's refusal is kept. A and B are the formula and the traced program; C is counted
in what the compilers for CPUs and TPUs made; D is the TPU compiler's own figure. Nothing runs and nothing is allocated.
Needs the extra tpu-plan. Writes docs/tpu_flops.json and the table in docs/flops.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
RESULT = DOCS / "tpu_flops.json"
MARK = "<!-- written by benchmarks/tpu_flops.py -->"
TOPOLOGY = "v3:4x8x1"

# name -> (method, model, data, overlay or none, batch, bindings)
METHODS = {
    "supervised, 1000 classes": ("supervised", "vit_b16", "imagenet1k", "paper/supervised.gin", 4096, ()),
    "SimCLR": ("simclr", "vit_b16", "imagenet1k", "paper/simclr.gin", 4096, ()),
    "BYOL": ("byol", "vit_b16", "imagenet1k", "paper/byol.gin", 4096, ()),
    "DINO, 2 + 10 views": ("dino", "vit_b16_dino", "imagenet1k", "paper/dino.gin", 1024, ()),
    "CLIP, text mini": ("clip", "vit_b16", "align", "paper/clip.gin", 4096, ()),
    "MAE 75 %, 8 layers": ("mae", "vit_b16", "imagenet1k", "paper/mae.gin", 4096, ()),
    "MAE 75 %, 1 layer": (
        *("mae", "vit_b16", "imagenet1k", "paper/mae.gin", 4096),
        ("mae/objectives.mae.decoder_depth = 1",),
    ),
    "SimMIM": ("simmim", "vit_b16_simmim", "imagenet1k", None, 2048, ()),
}


def program(name: str, batch: int) -> Any:
    """The training step of a method."""
    from spendflops import config
    from spendflops.engine.build import build

    method, model, data, overlay, _, bindings = METHODS[name]
    composition = config.compose(
        objective=method,
        backbone=model,
        dataset=data,
        budget="1 steps",
        gin_files=[overlay] if overlay else [],
        bindings=[f"{method}/BATCH_SIZE = {batch}", *bindings],
        base="recipes/pretrain.gin",
    )
    return build(config.load(composition, root="Recipe").object).stages[0].train


def counted(name: str) -> dict[str, Any]:
    """A, B, C and D of one step; and the batches that do not fit."""
    from spendflops.contracts.errors import OutOfMemoryError
    from spendflops.engine import target

    chips, batch, refused = target.named(TOPOLOGY), METHODS[name][4], {}
    while True:
        here = program(name, batch)
        there = chips.program(here)
        started = time.perf_counter()
        try:
            there.compile()
            break
        except OutOfMemoryError as error:
            refused[batch], batch = error.why, batch // 2
    seconds = time.perf_counter() - started
    tpu, memory = there.cost(hardware=True), there.memory()
    return {
        "target": chips.to_json(),
        "batch": batch,
        "does not fit": refused,
        "A": here.closed_form,
        "B": here.cost().total,
        "C cpu": here.cost(hardware=True).total,
        "C tpu": tpu.total,
        "unknown": list(tpu.unknown),
        "rematted": tpu.rematted,
        "phases": dict(tpu.phases),
        "phases B": dict(here.cost().phases),
        "dtypes": dict(tpu.dtypes),
        "dtypes B": dict(here.cost().dtypes),
        "D": there.raw_flops(),
        "bytes a device": None if memory is None else memory.peak,
        "seconds to compile": round(seconds, 1),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| method | batch | B, TFLOP a step | C on CPU / B | C on TPU / B | computed again | D x devices / B "
        "| GiB a device |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results["methods"].items():
        ratios = [f"{row[key] / row['B']:.6f}" if row[key] else "unknown" for key in ("C cpu", "C tpu")]
        again = f"{row['rematted'] / row['B']:.6f}"
        raw = f"{row['D'] * row['target']['devices'] / row['B']:.3f}"
        cells = [
            name,
            row["batch"],
            f"{row['B'] / 1e12:.2f}",
            *ratios,
            again,
            raw,
            f"{row['bytes a device'] / 2**30:.1f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    last = row["target"]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    lines += ["", f"{TOPOLOGY}: {last['devices']} devices, {last['kind']}; {versions}. Nothing ran."]
    for name, row in results["methods"].items():
        lines += [
            f"{name} does not fit in batches of {size}: {short(why)}." for size, why in row["does not fit"].items()
        ]
    return "\n".join(lines)


def short(why: str) -> str:
    """The sizes in a compiler's refusal."""
    found = re.search(r"\(([\d.]+G)\) exceeds available HBM \(([\d.]+G)\)", why)
    return f"{found[1]} of {found[2]}" if found else why


def render(results: dict[str, Any]) -> None:
    """Puts the table into docs/flops.md, between its marks."""
    page = DOCS / "flops.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    page.write_text(f"{before}{MARK}\n\n{table(results)}\n\n{MARK}{after}", encoding="utf-8")


def main() -> None:
    """Counts the methods that are named, each in a process of its own, or renders what was counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; all if none")
    parser.add_argument("--render", action="store_true", help="only write the table again")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(counted(*options.names)))
        return
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"methods": {}}
    for name in [] if options.render else options.names or METHODS:
        call = [sys.executable, __file__, "--one", name]
        text = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
        results["methods"][name] = json.loads(text.splitlines()[-1])
        results["methods"] = {known: results["methods"][known] for known in METHODS if known in results["methods"]}
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    render(results)


if __name__ == "__main__":
    main()
