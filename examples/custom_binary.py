"""A binary of one's own: its flags, a recipe composed from presets and gin, and code around the run.

    python examples/custom_binary.py --method simclr --budget "20 steps" --workdir runs/mine \
        --gin "simclr/BATCH_SIZE = 64"
"""

from __future__ import annotations

from absl import app, flags

import spendflops
from spendflops import config

METHOD = flags.DEFINE_string("method", "mae", "A preset or a plugin.")
BUDGET = flags.DEFINE_string("budget", "1e12", "FLOPs, steps or epochs.")
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory.", required=True)
GIN = flags.DEFINE_multi_string("gin", [], "Bindings; may be repeated.")


def main(argv: list[str]) -> None:
    """Runs one recipe and prints what it cost."""
    del argv
    names = {"objective": METHOD.value, "backbone": "vit_nano", "dataset": "shapes"}
    loaded = config.load(config.compose(**names, budget=BUDGET.value, bindings=GIN.value))
    texts = {"config.gin": loaded.given, "operative.gin": loaded.operative}
    result = spendflops.run_recipe(loaded.object, WORKDIR.value, texts=texts)
    for stage in result["stages"]:
        print(f"{stage['name']}: {stage['steps']} steps, {stage['epochs']:.2f} epochs")
    print(f"{result['flops']['pretrain']:.3e} FLOPs in {result['seconds']['pretrain']:.0f} s")


if __name__ == "__main__":
    app.run(main)
