"""The whole grid of Koppula et al. 2022 planned: seconds, memory, what it costs, and what the paper says of the same.

Runs `spendflops plan` on gin/studies/paper.gin in a process of its own; then plans MAE with other ratios and decoders.
Nothing is trained and no parameter is allocated. Writes docs/paper_plan.json and the tables of docs/paper_plan.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

DOCS = Path(__file__).parents[1] / "docs"
RESULT, PAGE = DOCS / "paper_plan.json", DOCS / "paper_plan.md"
COMMAND = ("plan", "--root", "Study", "--gin_file", "studies/paper.gin", "--machine", "32xTPUv3@europe-west1", "--json")
RATIOS = (0.55, 0.65, 0.75, 0.85)
DEPTHS = (8, 1)
METHODS = ("mae", "simclr", "byol", "dino", "clip", "supervised")


def planned() -> tuple[dict[str, Any], dict[str, float]]:
    """What the command says, and what it took: seconds, seconds of processors, bytes at most."""
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "spendflops", *COMMAND], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise RuntimeError(f"plan ended with {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        body = json.load(out)
    took = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}
    return body, {name: round(value, 2) for name, value in took.items()}


def row(found: dict[str, Any]) -> dict[str, Any]:
    """A row of the plan without what others repeat."""
    footprint = found["price"]["footprint"]
    kept = {name: value for name, value in found.items() if name not in ("price", "total")}
    return {**kept, "hours": found["price"]["hours"], "kwh": footprint["kwh"], "kg": footprint["kg"]}


def decoders() -> list[dict[str, Any]]:
    """MAE on ViT-B/16 by ratio and decoder: FLOPs an image, and the decoder's part of a forward pass."""
    from spendflops import config
    from spendflops.engine.build import build
    from spendflops.parts.masking import kept_tokens

    rows = []
    for ratio in RATIOS:
        for depth in DEPTHS:
            options = [f"mask_ratio = {ratio}", f"decoder_depth = {depth}"]
            composition = config.compose(
                objective="mae",
                backbone="vit_b16",
                dataset="imagenet1k",
                budget="1 steps",
                gin_files=["paper/mae.gin"],
                bindings=[f"mae/objectives.mae.{option}" for option in options],
                base="recipes/pretrain.gin",
            )
            stage = build(config.load(composition, root="Recipe").object).stages[0]
            backbone, kept = stage.definition.example.backbone, kept_tokens(196, ratio)
            total = stage.train.cost().total // stage.train.examples
            encoder = backbone.flops((224, 224), kept=kept)
            # Every product of the decoder has two gradients.
            decoder = (total - backbone.flops((224, 224), kept=kept, train=True)) // 3
            rows.append({"ratio": ratio, "depth": depth, "train": total, "encoder": encoder, "decoder": decoder})
    return rows


def table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = rows
    line = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, line, *body))


def cells(results: dict[str, Any], label: str, dataset: str) -> list[dict[str, Any]]:
    """The lengths of a method on a data set, the shortest first."""
    found = [r for r in results["rows"] if (r["kind"], r["label"], r["dataset"]) == ("method", label, dataset)]
    return sorted(found, key=lambda r: r["steps"])


def ranged(rows: list[dict[str, Any]], name: str) -> str:
    """The least and the largest."""
    if not rows:
        return "none"
    values = list(dict.fromkeys((f"{rows[0][name]:.3g}", f"{rows[-1][name]:.3g}")))
    return " to ".join(values)


def grid(results: dict[str, Any]) -> str:
    """Pre-training by method and size."""
    lines = [
        [
            *("method", "steps x batch on ImageNet", "GFLOP an image", "FLOPs a step", "x supervised B"),
            *("ImageNet, each of two", "COCO", "JFT-300M", "ALIGN", "hours on ImageNet"),
        ]
    ]
    base = cells(results, "supervised B", "imagenet1k")[0]
    for size in "BL":
        for method in METHODS:
            label = f"{method} {size}"
            one = cells(results, label, "imagenet1k")[0]
            image, unit = (r["flops_per_step"] * r["steps"] / r["examples"] for r in (one, base))
            lines.append(
                [
                    *(label, f"{one['steps'] // 1000}K x {one['examples'] // one['steps']}", f"{image / 1e9:.2f}"),
                    *(f"{one['flops_per_step']:.3g}", f"{image / unit:.2f}"),
                    *(ranged(cells(results, label, d), "pretrain") for d in ("imagenet1k", "coco", "jft", "align")),
                    f"{one['hours']:.1f}",
                ]
            )
    return table(lines)


def kinds(results: dict[str, Any]) -> str:
    """What the runs cost by kind."""
    names = {
        "method": "pre-training",
        "tuning": "searching ADE20K's settings, 12 a method and data set",
        "transfer": "fine-tuning on ADE20K, 5 seeds from every row",
        "baseline": "ADE20K without pre-training, 5 seeds",
    }
    lines = [["what", "runs", "training FLOPs", "scoring FLOPs", "hours", "kWh", "kg CO2e"]]
    for kind, name in names.items():
        rows = [r for r in results["rows"] if r["kind"] == kind]
        flops = [sum(r["runs"] * r[role] for r in rows) for role in ("pretrain", "transfer", "evaluate")]
        priced = [f"{sum(r[unit] for r in rows):,.0f}" for unit in ("hours", "kwh", "kg")]
        runs = sum(r["runs"] for r in rows)
        lines.append([name, f"{runs:,}", f"{flops[0] + flops[1]:.3g}", f"{flops[2]:.3g}", *priced])
    return table(lines)


def by_ratio(results: dict[str, Any]) -> str:
    """MAE's decoders."""
    lines = [["hidden", "8 layers, GFLOP an image", "1 layer", "8 / 1", "decoder's part, 8 layers", "1 layer"]]
    for ratio in RATIOS:
        deep, flat = (next(r for r in results["decoders"] if (r["ratio"], r["depth"]) == (ratio, d)) for d in DEPTHS)
        parts = [f"{r['decoder'] / (r['decoder'] + r['encoder']):.1%}" for r in (deep, flat)]
        costs = [f"{r['train'] / 1e9:.2f}" for r in (deep, flat)]
        lines.append([f"{ratio:.0%}", *costs, f"{deep['train'] / flat['train']:.2f}", *parts])
    return table(lines)


def axis(results: dict[str, Any]) -> str:
    """CLIP on ALIGN: FLOPs of all, of one of 32, of one of 64."""
    lines = [["CLIP on ALIGN", "steps", "all devices", "a 32nd", "a 64th"]]
    for size in "BL":
        for one in cells(results, f"clip {size}", "align"):
            values = [f"{one['pretrain'] / parts:.3g}" for parts in (1, 32, 64)]
            lines.append([f"ViT-{size}", f"{one['steps']:,}", *values])
    return table(lines)


def measured(results: dict[str, Any]) -> str:
    """How long it took."""
    took, machine = results["took"], results["machine"]
    packages = machine["packages"]
    return (
        f"Here it took {took['seconds']:.0f} s ({took['cpu_seconds']:.0f} s of processor time) and at most "
        f"{took['peak_bytes'] / 2**30:.2f} GiB for {results['runs']:,} runs, on {machine['cores_used']} of the "
        f"{machine['cores']} cores of an {machine['cpu']}, load {machine['load']} at the start; Python "
        f"{machine['python']}, jax {packages['jax']}."
    )


def render(results: dict[str, Any]) -> None:
    """Puts each table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name in (measured, grid, kinds, by_ratio, axis):
        mark = f"<!-- {name.__name__}: benchmarks/paper_plan.py -->"
        before, _, rest = text.partition(mark)
        _, _, after = rest.partition(mark)
        text = f"{before}{mark}\n\n{name(results)}\n\n{mark}{after}"
    PAGE.write_text(text, encoding="utf-8")


def store(results: dict[str, Any]) -> None:
    """JSON with a line a row."""
    long = {"rows", "decoders"}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in results.items() if name not in long]
    for name in sorted(long):
        lines = ",\n".join(json.dumps(line) for line in results[name])
        parts.append(f'"{name}": [\n{lines}\n]')
    RESULT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Plans and writes, or writes what was planned."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the tables again")
    if not parser.parse_args().render:
        machine = harness.machine()
        body, took = planned()
        facts = {"command": " ".join(("spendflops", *COMMAND)), "machine": machine, "took": took}
        told = {name: body[name] for name in ("runs", "totals", "hours_from", "price")}
        store({**facts, **told, "rows": [row(r) for r in body["rows"]], "decoders": decoders()})
    render(json.loads(RESULT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
