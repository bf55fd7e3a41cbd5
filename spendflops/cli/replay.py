"""spendflops replay runs/diverged

Runs a run that diverged again, from its last checkpoint to the step at which it did, and writes what went into it to
replay/<stage>-<step>.npz in its folder: the state, the batch and the key, which repeat the step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from spendflops.cli import recipe_flags
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """No flags of its own."""


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Replays a run."""
    if len(rest) != 1:
        raise errors.ConfigError("replay takes the folder of a run", fix="spendflops replay runs/NAME")
    folder = Path(rest[0])
    recipe = _recipe(folder)
    recipe_flags.use_cache()
    from spendflops.engine.replay import replay

    found = replay(recipe, folder)
    print(", ".join(f"{name} {value:.6g}" for name, value in found.metrics.items()))
    for what in ("before", "batch", "after"):
        names = getattr(found, what)
        told = f"{len(names)} arrays: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "none"
        print(f"not finite {what if what != 'batch' else 'in the batch'}: {told}")
    print(f"the step is in {found.file}; spendflops.engine.replay.again(recipe, file) takes it")
    return 0


def _recipe(folder: Path) -> Any:
    """The recipe of a run, by the configuration that is kept in its folder."""
    from spendflops import config

    given = folder / "config.gin"
    if not given.exists():
        raise errors.DataError(
            f"there is no {given}",
            why="the run was started from Python, or is none",
            fix="spendflops.engine.replay.replay(recipe, folder)",
        )
    composition = config.compose(gin_files=[str(given)])
    if not (folder.resolve().parents[1] / "study.json").exists():
        return config.load(composition, root="Recipe").object
    from spendflops.study.agenda import Agenda

    rows = {row.run_id: row.recipe for row in Agenda(config.load(composition, root="Study").object).planned}
    if folder.resolve().name not in rows:
        raise errors.ConfigError(
            f"{folder} depends on other rows of its study",
            why="its recipe is known once they have ended",
            fix="spendflops.engine.replay.replay(recipe, folder)",
        )
    return rows[folder.resolve().name]
