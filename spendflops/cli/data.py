"""spendflops data verify NAME [PATH]         counts against the published ones, decodes samples; exit code 3 for faults
spendflops data prepare NAME PATH OUT      a copy as ArrayRecord files: fast random access, few files
spendflops data show NAME[:PATH]           a contact sheet; with --objective and --backbone, the views a method makes
spendflops data overlap NAME[:PATH][@SPLIT] ...   images that several sets have in common, by the hash of their bytes

Options of the data set are given with --option NAME=VALUE."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.cli import options, recipe_flags
from spendflops.contracts import errors

if TYPE_CHECKING:
    import PIL.Image
    from rich.progress import Progress

VERBS = ("verify", "prepare", "show", "overlap")


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    options.define(known)
    flags.DEFINE_string("split", None, "Split of the data: several, with commas, for verify.", flag_values=known)
    flags.DEFINE_integer("samples", 256, "verify: samples decoded in each split.", lower_bound=1, flag_values=known)
    flags.DEFINE_bool("all", False, "verify: decode every sample.", flag_values=known)
    flags.DEFINE_integer("count", 24, "show: samples, or rows of views.", lower_bound=1, flag_values=known)
    flags.DEFINE_string("out", "contact_sheet.png", "show: the file to write.", flag_values=known)
    flags.DEFINE_bool("check", False, "prepare: decode every image first.", flag_values=known)
    flags.DEFINE_integer("workers", None, "prepare: files written at a time.", lower_bound=1, flag_values=known)
    flags.DEFINE_bool("json", False, "verify, overlap: print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Runs one of :data:`VERBS`."""
    verb = rest[0] if rest else ""
    if verb not in VERBS:
        raise errors.ConfigError(
            f"spendflops data does not know {verb!r}{errors.suggest(verb, VERBS)}"
            if verb
            else "spendflops data needs a verb",
            fix=f"one of {', '.join(VERBS)}; spendflops data --help shows them",
        )
    return {"verify": _verify, "prepare": _prepare, "show": _show, "overlap": _overlap}[verb](known, rest[1:])


def _arguments(verb: str, rest: Sequence[str], least: int, most: int, usage: str) -> list[str]:
    if not least <= len(rest) <= most:
        raise errors.ConfigError(f"data {verb} takes {usage}, {len(rest)} given", fix=f"spendflops data {verb} {usage}")
    return list(rest)


def _verify(known: flags.FlagValues, rest: Sequence[str]) -> int:
    name, *path = _arguments("verify", rest, 1, 2, "NAME [PATH]")
    from spendflops.data.verify import verify

    head, _, tail = name.partition(":")
    place = path[0] if path else tail or None
    given = options.parse(known.option)
    cls = options.dataset_class(head, [*given, *(["path"] if place else [])])
    with _progress("reading", known.quiet or known.json) as bar:
        report = verify(
            cls,
            path=place,
            options=given,
            splits=known.split.split(",") if known.split else (),
            samples=None if known.all else known.samples,
            progress=bar,
        )
    if known.json:
        import dataclasses

        print(json.dumps({**dataclasses.asdict(report), "sound": report.sound}, indent=1))
    else:
        _print_report(report)
    return 0 if report.sound else errors.DataError.exit_code


def _print_report(report: Any) -> None:
    own, published = report.classes
    print(f"{report.name}: classes {own or 'none'}" + (" as published" if own == published and own else ""))
    print(f"  {'split':12} {'published':>12} {'found':>12} {'decoded':>12}")
    for row in report.splits:
        published, found = ("-" if n is None else format(n, ",") for n in (row.published, row.found))
        print(f"  {row.split:12} {published:>12} {found:>12} {row.read:12,}")
        for reason, count in row.left_out.items():
            print(f"    left out {count:,}: {reason}")
    faults = [*report.faults, *(f"{row.split}: {fault}" for row in report.splits for fault in row.faults)]
    for fault in faults[:SHOWN]:
        print(f"  wrong: {fault}")
    if len(faults) > SHOWN:
        print(f"  and {len(faults) - SHOWN} more; --json lists all")
    print("sound" if report.sound else f"NOT SOUND: {len(faults)} fault(s)")


SHOWN = 50
"""Faults that are printed."""


def _prepare(known: flags.FlagValues, rest: Sequence[str]) -> int:
    arguments = _arguments("prepare", rest, 2, 3, "NAME PATH OUT")
    name, out = arguments[0], arguments[-1]
    from spendflops.data.prepare import prepare
    from spendflops.data.verify import usual_splits

    text = f"{name}:{arguments[1]}" if len(arguments) == 3 else name
    dataset = options.dataset(text, known.option)
    with _progress("writing", known.quiet) as bar:
        summary = prepare(
            dataset,
            out,
            splits=known.split.split(",") if known.split else list(dataset.info.sizes) or usual_splits(dataset),
            workers=known.workers,
            check=known.check,
            progress=bar,
        )
    for line in summary:
        print(line)
    return 0


def _show(known: flags.FlagValues, rest: Sequence[str]) -> int:
    (text,) = _arguments("show", rest, 1, 1, "NAME[:PATH]")
    if bool(known.objective) != bool(known.backbone):
        raise errors.ConfigError("views need --objective and --backbone", fix="--objective dino --backbone vit_s16")
    if known.objective:
        sheet = _views_sheet(known, text)
    else:
        from spendflops.data.show import sample_sheet
        from spendflops.engine.build import open_source

        dataset = options.dataset(text, known.option)
        wanted = [f for f in SHEET if f in dataset.info.features]
        source = open_source(dataset, options.split_of(dataset, known.split), tuple(wanted))
        sheet = sample_sheet(source, dataset.info, count=known.count)
    out = Path(known.out)
    try:
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise errors.DataError(
            f"cannot write {out}", why=str(error), fix="--out NAME.png in a folder that is there"
        ) from error
    print(f"{out}: {sheet.width} x {sheet.height} pixels")
    return 0


SHEET = ("image", "label", "caption", "captions", "mask", "boxes", "box_labels")
"""The features that a contact sheet shows."""


def _views_sheet(known: flags.FlagValues, text: str) -> PIL.Image.Image:
    """The views of a recipe's first stage, of the data that the command names."""
    known["dataset"].value = text
    known["budget"].value = known.budget or "1 steps"
    loaded = recipe_flags.load(known, "Recipe", None if known.gin_file else "recipes/pretrain.gin")
    from spendflops.data.show import views_sheet
    from spendflops.engine.build import build_stage, open_source

    stage = loaded.object.stages[0]
    built = build_stage(stage)
    source = open_source(stage.dataset, known.split or stage.split, built.views.features)
    return views_sheet(source, built.views, built.spec, count=min(known.count, 8), seed=known.seed or 0)


def _overlap(known: flags.FlagValues, rest: Sequence[str]) -> int:
    texts = _arguments("overlap", rest, 2, 64, "NAME[:PATH][@SPLIT] NAME[:PATH][@SPLIT] ...")
    from spendflops.engine.build import open_source
    from spendflops.parts.splits import overlap

    sources = {}
    for text in texts:
        name, at, split = text.rpartition("@") if "@" in text else (text, "", "")
        dataset = options.dataset(name if at else text, known.option)
        sources[text] = open_source(dataset, options.split_of(dataset, split or None), ("image",))
    found = overlap(sources)
    if known.json:
        print(json.dumps([{"a": a, "b": b, "images": count} for (a, b), count in found.items()], indent=1))
    else:
        for (a, b), count in found.items():
            print(f"{a} ({len(sources[a]):,}) and {b} ({len(sources[b]):,}): {count:,} images in common")
    return 0


class _progress:
    """A bar on a terminal, nothing elsewhere: a callable of (done, all)."""

    def __init__(self, what: str, quiet: bool):
        self._what, self._bar, self._task = what, None, None
        self._wanted = not quiet and sys.stderr.isatty()

    def __enter__(self) -> _progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        if not self._wanted:
            return
        if self._bar is None:
            self._bar = _started(self._what)
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _started(what: str) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(file=sys.stderr))
    bar.start()
    return bar
