"""spendflops doctor [FOLDER]

Looks at versions, devices, fast paths, memory, counters of energy, and at how the file system of FOLDER (here, if not
given) behaves. Ends with 1 if something will break runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from absl import flags

from spendflops.cli import recipe_flags
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints what was found."""
    if len(rest) > 1:
        raise errors.ConfigError("doctor takes one folder", fix="spendflops doctor runs")
    folder = Path(rest[0] if rest else ".")
    if not folder.is_dir():
        raise errors.ConfigError(f"there is no folder {folder}")
    recipe_flags.use_cache()
    from spendflops.engine.checkup import checkup

    found = checkup(folder)
    if known.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        for part, findings in groupby(found, key=lambda finding: finding.part):
            print(part)
            for finding in findings:
                print(_line(finding))
    return int(any(finding.ok is False for finding in found))


def _line(finding: Any) -> str:
    value = finding.value
    if value is None or isinstance(value, bool):
        value = {None: "none", True: "yes", False: "no"}[value]
    elif isinstance(value, float):
        value = f"{value:.4g}"
    note = f"  ({finding.note})" if finding.note else ""
    return f"  {finding.name}: {value}{note}{'  PROBLEM' if finding.ok is False else ''}"
