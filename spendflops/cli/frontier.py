"""spendflops frontier --csv runs.csv --task accuracy

All that runs say on one task: the front, methods over their variants and sizes, where curves cross, saturating laws,
the best size at given FLOPs, differences seed by seed, whether the order of methods holds on other tasks, and what
choosing settings has cost. From the folder of a study (--study), any table (--csv), or a reference study (--reference).
What the data do not say is said, too."""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags

from spendflops.cli import runs
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    runs.define(known)
    flags.DEFINE_string("budget", None, "FLOPs at which methods are ranked over tasks.", flag_values=known)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints what is found."""
    if rest:
        raise errors.ConfigError(f"frontier takes flags only, not {rest[0]!r}")
    from spendflops.study import findings
    from spendflops.study.recommend import question

    budget = None if known.budget is None else float(question.flops_of(known.budget).amount)
    rows, notes = runs.read(known, "frontier")
    kept = question.only(rows, {name: known[name].value for name in question.FILTERS})
    axis = question.axis_of(kept, known.task)
    found = findings.find(kept, axis, cost=known.cost, budget=budget)
    if known.json:
        print(json.dumps({**findings.to_json(found), "notes": list(notes)}, indent=1))
        return 0
    print(findings.to_text(found))
    for note in notes:
        print(f"note: {note}")
    return 0
