"""The flags that say which runs answer: a study, a table or a reference study, and which of them count."""

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
    """Adds the flags."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("task", None, "What is to be good: an evaluator, a protocol, a metric or data.", **kwargs)
    flags.DEFINE_string("study", None, "Folder of a study.", **kwargs)
    flags.DEFINE_string("csv", None, "A table of runs.", **kwargs)
    flags.DEFINE_multi_string("column", [], "OURS=THEIRS, flops=gmacs*2e9; may be repeated.", **kwargs)
    flags.DEFINE_string("reference", None, "A study that comes with the package: where_flops.", **kwargs)
    flags.DEFINE_multi_string("method", [], "Only this method; may be repeated.", **kwargs)
    flags.DEFINE_multi_string("model", [], "Only this model; may be repeated.", **kwargs)
    flags.DEFINE_multi_string("data", [], "Only this data set of pre-training; may be repeated.", **kwargs)
    flags.DEFINE_enum("cost", "paid", ["paid", "pretrain"], "FLOPs that count: with or without transfer.", **kwargs)


def read(known: flags.FlagValues, verb: str) -> tuple[Sequence[Row], Sequence[str]]:
    """The runs that answer, and what has to be known of them."""
    given = [name for name in ("study", "csv", "reference") if known[name].value]
    if len(given) != 1:
        raise errors.ConfigError(
            f"{verb} answers from one of --study, --csv and --reference",
            why=f"{' and '.join(f'--{name}' for name in given) or 'none of them'} given",
            fix="--reference where_flops is there without a file",
        )
    if known.column and not known.csv:
        raise errors.ConfigError("--column without --csv", why="only a table of others has other columns")
    if known.csv:
        from spendflops.study.frontier import table

        columns = dict(_column(text) for text in known.column)
        found = table.read(known.csv, columns)
        return found.rows, found.notes
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
