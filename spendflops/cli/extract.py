"""spendflops extract RUN folder:photos out.npz [--stage NAME]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    flags.DEFINE_string("stage", None, "Stage whose model is used; the last by default.", flag_values=known)
    flags.DEFINE_string("split", None, "Split of the data; all of a folder by default.", flag_values=known)
    flags.DEFINE_integer("batch_size", 64, "Images at a time.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Writes ``summary``, ``mean_tokens`` [N D], ``digest`` [N] and, where there are labels, ``label`` and ``classes``."""
    if len(rest) != 3:
        raise errors.ConfigError(
            "extract takes a run, data and an output file", fix="spendflops extract runs/mae folder:photos out.npz"
        )
    run, data, out = rest
    if not out.endswith(".npz"):
        raise errors.ConfigError(f"the output is {out!r}", fix="a name that ends with .npz")
    from spendflops.contracts import registry
    from spendflops.engine.extract import extract
    from spendflops.engine.load import load

    name, _, path = data.partition(":")
    cls = registry.load("datasets", name)
    dataset = cls(path=path) if path else cls()
    written = extract(
        load(run, stage=known.stage), dataset, split=known.split, batch_size=known.batch_size, out=Path(out)
    )
    print(f"{out}: " + ", ".join(f"{k} {list(v)}" for k, v in written.items()))
    return 0
