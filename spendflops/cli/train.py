"""spendflops train --objective mae --backbone vit_b16 --dataset folder:photos --budget 3e18 --workdir runs/mae"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from spendflops.accounts import regions
from spendflops.cli import recipe_flags
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    recipe_flags.define_features(known)
    recipe_flags.define_region(known)
    text = "A finished run of this recipe with a smaller budget: goes on from the end of its constant rate."
    flags.DEFINE_string("trunk", None, text, flag_values=known)
    kwargs = {"flag_values": known}
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes, or auto.", **kwargs)
    flags.DEFINE_integer("num_processes", None, "How many processes train together.", **kwargs)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", **kwargs)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Runs one recipe."""
    if rest:
        raise errors.ConfigError(f"train takes flags only, not {rest[0]!r}")
    if not known.workdir:
        raise errors.ConfigError(
            "no --workdir given", fix="--workdir runs/NAME keeps checkpoints, metrics and the ledger"
        )
    from spendflops.engine import hosts

    hosts.join(known.coordinator, known.num_processes, known.process_id)
    region = regions.named(known.region).name
    base = None if known.gin_file else "recipes/pretrain.gin"
    loaded = recipe_flags.load(known, "Recipe", base)
    for line in loaded.chosen if hosts.first() else ():
        print(line)
    recipe_flags.use_cache()
    from spendflops.engine.build import build
    from spendflops.engine.loop import run_recipe
    from spendflops.study.plan import cautions

    for line in cautions(build(loaded.object), known.objective or "run") if hosts.first() else ():
        print(f"note: {line}")
    texts = {"config.gin": loaded.given, "operative.gin": loaded.operative}
    result = run_recipe(
        loaded.object,
        known.workdir,
        texts=texts,
        quiet=known.quiet,
        features=recipe_flags.features(known),
        region=region,
        shorter=None if known.trunk is None else str(Path(known.trunk).absolute()),
    )
    if not hosts.first():
        return 0
    print(json.dumps({"flops": result["flops"], "scores": result["scores"]}, indent=1))
    print(f"run directory: {known.workdir}")
    return 0
