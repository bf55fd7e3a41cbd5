"""spendflops export RUN_OR_WEIGHTS --layout timm --out FILE_OR_DIR [--weights teacher]

--out ends with .safetensors, or is a folder for model.safetensors, config.json and the model card README.md. The layout
`spendflops` is our own form, which `spendflops import` writes, too."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("layout", None, "Whose names to write: timm, mae, hf_vit, ... or spendflops.", **kwargs)
    flags.DEFINE_string("stage", None, "Stage of the run; the last by default.", **kwargs)
    flags.DEFINE_enum("weights", None, ["online", "teacher"], "Which; by default the method's own choice.", **kwargs)
    flags.DEFINE_string("dtype", "float32", "float32, float16 or bfloat16.", **kwargs)
    flags.DEFINE_string("out", None, "Folder to make, or a file NAME.safetensors.", **kwargs)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Exports one model."""
    if len(rest) != 1 or not known.out or not known.layout:
        raise errors.ConfigError(
            "export takes a run or a folder of weights, --layout and --out",
            fix="spendflops export runs/mae --layout timm --out vit.safetensors",
        )
    from spendflops.engine import convert
    from spendflops.engine.load import load
    from spendflops.weights.folder import is_folder

    model = load(rest[0], stage=known.stage, weights=known.weights)
    run = None if is_folder(rest[0]) else rest[0]
    print("\n".join(convert.export(model, using=known.layout, out=known.out, dtype=known.dtype, run=run)))
    return 0
