"""spendflops recommend --budget 3e18 --task accuracy --csv runs.csv

Answers from what was measured: the folder of a study (--study), any table of runs (--csv, with --column where its
columns have other names), or a reference study that comes with the package (--reference where_flops: Koppula et al.
2022). Where the data do not say, the answer is that."""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags

from spendflops.cli import runs
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("budget", None, "FLOPs: 3e18, 2h@1xH200, 5kgCO2@8xA100@europe-west4.", **kwargs)
    runs.define(known)
    flags.DEFINE_bool("equal_tuning", False, "As if all methods had tried as many settings.", **kwargs)
    flags.DEFINE_float("noise", None, "Standard deviation of a run over seeds, where none was measured.", **kwargs)
    flags.DEFINE_float("beyond", 2.0, "How many times beyond its runs a curve is believed.", **kwargs)
    flags.DEFINE_bool("json", False, "Print JSON.", **kwargs)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints the answer."""
    if rest:
        raise errors.ConfigError(f"recommend takes flags only, not {rest[0]!r}")
    if not known.budget:
        raise errors.ConfigError("no --budget given", fix="--budget 3e18, or 2h@1xH200")
    from spendflops.study import recommend

    budget = recommend.flops_of(known.budget)
    rows, notes = runs.read(known, "recommend")
    wanted = {name: known[name].value for name in recommend.FILTERS}
    # A study that is given is not misspelt by whoever asks about what it did not try.
    unsaid = recommend.missing(rows, wanted) if known.reference else ""
    if unsaid:
        print(json.dumps({"says": False, "reason": unsaid}) if known.json else f"The data do not say: {unsaid}.")
        return 0
    found = recommend.recommend(
        rows,
        budget,
        task=known.task,
        cost=known.cost,
        wanted=wanted,
        equal_tuning=known.equal_tuning,
        noise=known.noise,
        beyond=known.beyond,
        notes=notes,
    )
    if known.json:
        converted = None if budget.converted is None else budget.converted.to_json()
        print(json.dumps({**recommend.to_json(found), "converted": converted}, indent=1))
        return 0
    if budget.converted is not None:
        print(budget.converted)
    print(recommend.to_text(found))
    return 0
