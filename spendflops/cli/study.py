"""spendflops study --gin_file gin/studies/quickstart.gin --workdir runs/quickstart"""

from __future__ import annotations

import shlex
import sys
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
    flags.DEFINE_bool("retry", False, "Run rows that failed before again.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Runs the rows of a study that are not finished, prints the table and writes the report."""
    if rest:
        raise errors.ConfigError(f"study takes flags only, not {rest[0]!r}")
    if not known.gin_file:
        raise errors.ConfigError("no --gin_file given", fix="--gin_file gin/studies/quickstart.gin")
    if not known.workdir:
        raise errors.ConfigError("no --workdir given", fix="--workdir runs/NAME keeps the rows and the report")
    region = regions.named(known.region).name
    loaded = recipe_flags.load(known, "Study")
    for line in loaded.chosen:
        print(line)
    recipe_flags.use_cache()
    from spendflops.engine.rundir import locked, storage_error, write_atomically
    from spendflops.study.launch import Launch
    from spendflops.study.report import terminal_table, write

    folder = Path(known.workdir)
    command = shlex.join(["spendflops", *sys.argv[1:]])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    with locked(folder):
        texts = {"config.gin": loaded.given, "operative.gin": loaded.operative}
        for name, text in texts.items():
            write_atomically(folder / name, text)
        launch = Launch(
            study=loaded.object,
            folder=folder,
            retry=known.retry,
            quiet=known.quiet,
            region=region,
            command=command,
            texts=texts,
            features=recipe_flags.features(known),
        )
        report = launch.run()
        paths = write(report, folder)
    print()
    print(terminal_table(report))
    for kind, path in paths.items():
        print(f"{kind}: {path}")
    if report.failed:
        print(f"{len(report.failed)} of {len(report.rows)} rows failed; --retry runs them again", file=sys.stderr)
        return 1
    return 0
