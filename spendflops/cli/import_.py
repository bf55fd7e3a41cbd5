"""spendflops import FILE --backbone vit_b16 [--objective mae] [--layout mae] --out DIR

FILE is safetensors, PyTorch's zip (.pth), or a folder with model.safetensors. The model is the one that you name; every
tensor of the file is used or ignored with a printed reason, and every parameter of the model is filled."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from spendflops.contracts import errors

BARE, UNOPENED = "spendflops.engine.bare:Bare", "spendflops.engine.bare:Unopened"


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("backbone", None, "Model: a preset or a plugin, e.g. vit_b16.", **kwargs)
    flags.DEFINE_string("objective", None, "Method, for a file with its head; else the backbone alone.", **kwargs)
    flags.DEFINE_string("dataset", None, "Data whose classes a classifier has.", **kwargs)
    flags.DEFINE_integer("classes", None, "Instead: how many classes it has.", **kwargs)
    flags.DEFINE_multi_string("gin_file", [], "A gin file; may be repeated, later files win.", **kwargs)
    flags.DEFINE_multi_string("gin", [], "A gin binding, e.g. \"backbones.vit.positions = 'learned'\".", **kwargs)
    flags.DEFINE_string("layout", None, "Whose names the file has; by default the layout that fits.", **kwargs)
    flags.DEFINE_enum("weights", None, ["online", "teacher"], "Which, in files that hold both.", **kwargs)
    flags.DEFINE_string("resize", None, "Rule that resamples positions for another image size.", **kwargs)
    flags.DEFINE_string("flops", None, "FLOPs that were spent on these weights; unknown by default.", **kwargs)
    flags.DEFINE_string("out", None, "Folder to make.", **kwargs)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Imports one file."""
    if len(rest) != 1 or not known.out or not known.backbone:
        raise errors.ConfigError(
            "import takes a file, --backbone and --out",
            fix="spendflops import FILE --backbone vit_b16 --out DIR",
        )
    if known.dataset and known.classes is not None:
        raise errors.ConfigError("--dataset and --classes are two ways to say how many classes there are")
    from spendflops import config
    from spendflops.engine import convert

    data = f"datasets.Unopened.classes = {known.classes}"
    composition = config.compose(
        objective=known.objective or BARE,
        backbone=known.backbone,
        dataset=known.dataset or UNOPENED,
        budget="1 step",
        gin_files=known.gin_file,
        bindings=[*known.gin, *([data] if known.classes is not None else [])],
        base="recipes/weights.gin",
    )
    loaded = config.load(composition)
    stage = loaded.object.stages[0]
    for line in (line for line in loaded.chosen if BARE not in line and UNOPENED not in line):
        print(line)
    lines = convert.import_file(
        rest[0],
        backbone=stage.backbone,
        objective=stage.objective if known.objective else None,
        info=stage.dataset.info,
        out=known.out,
        using=known.layout,
        weights=known.weights,
        resize=known.resize,
        flops=None if known.flops is None else _flops(known.flops),
    )
    print("\n".join(lines))
    print(f"written   {known.out}")
    return 0


def _flops(text: str) -> int:
    from spendflops.accounts import budget

    parsed = budget.parse(text)
    if parsed.unit != "flops":
        raise errors.ConfigError(f"--flops {text!r} are {parsed.unit}", fix="a number of FLOPs, e.g. 3e18")
    return int(parsed.amount)
