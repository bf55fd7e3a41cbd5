"""spendflops plan --objective mae --backbone vit_b16 --dataset shapes --budget 3e18 [--compile] [--json]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from spendflops.cli import recipe_flags
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    flags.DEFINE_bool("compile", False, "Also compile: counter C, memory, and D.", flag_values=known)
    flags.DEFINE_bool("strict", False, "With --compile: fail where C and B differ by over 1 %.", flag_values=known)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=known)
    flags.DEFINE_enum("root", "Recipe", ["Recipe", "Study"], "What the gin file describes.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints the programs with their prices."""
    if rest:
        raise errors.ConfigError(f"plan takes flags only, not {rest[0]!r}")
    base = None if known.gin_file else "recipes/pretrain.gin"
    loaded = recipe_flags.load(known, known.root, base)
    from spendflops.engine.build import build
    from spendflops.study.plan import cautions, check_counters, plan

    plans = {}
    if known.root == "Study":
        recipes = {p.run_id: p.recipe for p in loaded.object.pretraining()}
    else:
        recipes = {known.objective or "run": loaded.object}
    for name, recipe in recipes.items():
        built = build(recipe)
        plans[name] = {**plan(built, compiled=known.compile), "notes": cautions(built, name)}
        if known.strict:
            check_counters(plans[name]["programs"])
    if known.json:
        print(json.dumps(plans if known.root == "Study" else next(iter(plans.values())), indent=1))
        return 0
    for line in loaded.chosen:
        print(line)
    for name, body in plans.items():
        _show(name, body)
    if known.root == "Study":
        total = sum(sum(b["totals"].values()) for b in plans.values())
        print(f"\n{len(plans)} rows (baselines that depend on them come on top): {total:.4g} FLOPs")
    return 0


def _show(name: str, body: dict[str, Any]) -> None:
    print(f"\n{name}: " + ", ".join(f"{stage} {count:,} parameters" for stage, count in body["parameters"].items()))
    print(f"  {'program':34} {'role':9} {'calls':>9} {'FLOPs a call':>22} {'FLOPs an example':>20} {'FLOPs':>12}")
    for row in body["programs"]:
        print(
            f"  {row['program'][:34]:34} {row['role']:9} {row['calls']:9} {row['flops_per_call']:22,} "
            f"{row['flops_per_example']:20,} {row['flops']:12.4e}"
        )
        print("    " + ", ".join(f"{phase} {flops:.3e}" for phase, flops in row["phases"].items()))
        if formula := row["closed_form_per_call"]:
            print(f"    closed form: {formula:,} FLOPs (B/A {row['flops_per_call'] / formula:.6f})")
        if "hardware_flops_per_call" in row:
            memory = row["memory_bytes_per_device"]
            hardware = row["hardware_flops_per_call"]
            print(
                f"    compiled: {hardware if hardware is None else format(hardware, ',')} FLOPs (C/B "
                f"{row['hardware_over_model']}), compiler's own figure {row['raw_compiler_flops']}, "
                f"memory {'unknown' if memory is None else f'{memory / 2**20:.0f} MiB a device'}"
            )
    for row in body["data"]:
        print(
            f"  data: {row['stage']} sees {row['seen']:,} examples of {row['data']} ({row['examples']:,}): "
            f"this budget repeats them {row['repeats']:.3g} times"
        )
    totals = ", ".join(f"{role} {flops:.4e}" for role, flops in body["totals"].items() if flops)
    print(f"  total: {totals}    ({body['counter']}, 2 FLOPs a multiply-add, all devices)")
    for note in body["notes"]:
        print(f"  note: {note}")
