"""spendflops recommend --budget 3e18 --task accuracy --csv runs.csv

Answers from what was measured: the folder of a study (--study), any table of runs (--csv, with --column where its
columns have other names), or a reference study that comes with the package (--reference where_flops: Koppula et al.
2022). Where the data do not say, the answer is that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.study.points import Row


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("budget", None, "FLOPs: 3e18, 2h@1xH200, 5kgCO2@8xA100@europe-west4.", **kwargs)
    flags.DEFINE_string("task", None, "What is to be good: an evaluator, a protocol, a metric or data.", **kwargs)
    flags.DEFINE_string("study", None, "Folder of a study.", **kwargs)
    flags.DEFINE_string("csv", None, "A table of runs.", **kwargs)
    flags.DEFINE_multi_string("column", [], "OURS=THEIRS, flops=gmacs*2e9; may be repeated.", **kwargs)
    flags.DEFINE_string("reference", None, "A study that comes with the package: where_flops.", **kwargs)
    flags.DEFINE_multi_string("method", [], "Only this method; may be repeated.", **kwargs)
    flags.DEFINE_multi_string("model", [], "Only this model; may be repeated.", **kwargs)
    flags.DEFINE_multi_string("data", [], "Only this data set of pre-training; may be repeated.", **kwargs)
    flags.DEFINE_enum("cost", "paid", ["paid", "pretrain"], "FLOPs that count: with or without transfer.", **kwargs)
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
    rows, notes = _rows(known)
    found = recommend.recommend(
        rows,
        budget,
        task=known.task,
        cost=known.cost,
        wanted={name: known[name].value for name in recommend.FILTERS},
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


def _rows(known: flags.FlagValues) -> tuple[Sequence[Row], Sequence[str]]:
    """The runs that answer, and what has to be known of them."""
    given = [name for name in ("study", "csv", "reference") if known[name].value]
    if len(given) != 1:
        raise errors.ConfigError(
            "recommend answers from one of --study, --csv and --reference",
            why=f"{' and '.join(f'--{name}' for name in given) or 'none of them'} given",
            fix="--reference where_flops is there without a file",
        )
    if known.column and not known.csv:
        raise errors.ConfigError("--column without --csv", why="only a table of others has other columns")
    if known.csv:
        from spendflops.study.frontier import table

        columns = dict(_column(text) for text in known.column)
        read = table.read(known.csv, columns)
        return read.rows, read.notes
    if known.reference:
        from spendflops.study.recommend import references

        return references.rows(known.reference), ()
    path = Path(known.study) / "report.json"
    if not path.exists():
        raise errors.DataError(
            f"{known.study} is no folder of a study that has ended",
            why=f"there is no {path}",
            fix="run the study, or write its report from what has ended: spendflops study report",
        )
    from spendflops.study.points import Report

    return Report.from_json(json.loads(path.read_text(encoding="utf-8"))).rows, ()


def _column(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or not theirs:
        raise errors.ConfigError(f"--column {text!r} names no column", fix="--column flops=total_flops")
    return ours.strip(), theirs.strip()
