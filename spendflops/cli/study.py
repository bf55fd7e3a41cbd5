"""spendflops study [run] --gin_file gin/studies/quickstart.gin --workdir runs/quickstart

study run     works on the rows of a study until none is left; any number of such workers may share a folder
study plan    prints what the study costs, before anything is spent
study launch  says what the study costs, asks, and starts workers: on this machine, or as Slurm jobs
study status  FOLDER: how far the study is
study retry   FOLDER [RUN ...]: lets failed rows run again
study report  FOLDER: writes the report of the rows that are finished"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from spendflops.accounts import regions
from spendflops.cli import launch, recipe_flags, terms
from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    recipe_flags.define_features(known)
    recipe_flags.define_region(known)
    terms.define(known)
    launch.define(known)
    flags.DEFINE_bool("retry", False, "run: first let rows run again that failed before.", flag_values=known)
    flags.DEFINE_string("reason", "", "retry: why they may run again; kept beside what broke.", flag_values=known)
    flags.DEFINE_bool("json", False, "plan, status: print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Does what the first word says; runs the study without one."""
    word, *more = rest or ["run"]
    if word not in VERBS:
        raise errors.ConfigError(
            f"study does not know {word!r}{errors.suggest(word, list(VERBS))}", fix=f"one of {', '.join(VERBS)}"
        )
    return VERBS[word](known, more)


def _run(known: flags.FlagValues, more: Sequence[str]) -> int:
    """Runs the rows of a study that nobody has finished, prints the table and writes the report."""
    _flags_alone("run", more)
    region = regions.named(known.region).name
    loaded = load(known)
    recipe_flags.use_cache()
    from spendflops.study.launch import Launch

    texts = {"config.gin": loaded.given, "operative.gin": loaded.operative}
    report = Launch(
        study=loaded.object,
        folder=keep(known, loaded),
        retry=known.retry,
        quiet=known.quiet,
        region=region,
        command=shlex.join(["spendflops", *sys.argv[1:]]),
        texts=texts,
        features=recipe_flags.features(known),
    ).run()
    return _written(report, Path(known.workdir))


def load(known: flags.FlagValues) -> Any:
    """The study that the flags name."""
    if not known.gin_file:
        raise errors.ConfigError("no --gin_file given", fix="--gin_file gin/studies/quickstart.gin")
    if not known.workdir:
        raise errors.ConfigError("no --workdir given", fix="--workdir runs/NAME keeps the rows and the report")
    loaded = recipe_flags.load(known, "Study")
    for line in loaded.chosen:
        print(line)
    return loaded


def keep(known: flags.FlagValues, loaded: Any) -> Path:
    """The folder of the study, with its configuration."""
    from spendflops.engine.rundir import storage_error, write_atomically

    folder = Path(known.workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    before = folder / "config.gin"
    if before.exists() and before.read_text(encoding="utf-8") != loaded.given:
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        kept = logs / f"config-{len(list(logs.glob('config-*.gin'))) + 1}.gin"
        write_atomically(kept, before.read_text(encoding="utf-8"))
        print(f"{folder} held another study, now {kept}: rows that both have are not run again, the others stay there")
    for name, text in (("config.gin", loaded.given), ("operative.gin", loaded.operative)):
        write_atomically(folder / name, text)
    return folder


def _written(report: Any, folder: Path) -> int:
    """Writes a report, shows its table, and gives the exit code."""
    from spendflops.study.report import terminal_table, write

    paths = write(report, folder)
    print()
    print(terminal_table(report))
    for kind, path in paths.items():
        print(f"{kind}: {path}")
    if report.failed:
        print(f"{len(report.failed)} of {len(report.rows)} rows failed; --retry runs them again", file=sys.stderr)
        return 1
    return 0


def _plan(known: flags.FlagValues, more: Sequence[str]) -> int:
    _flags_alone("plan", more)
    priced = terms.read(known)
    known.workdir = known.workdir or "."
    loaded = load(known)
    from spendflops.study.plan_study import plan_study
    from spendflops.study.report import planned

    body = plan_study(loaded.object, terms=priced)
    print(json.dumps(body, indent=1) if known.json else planned.study(body))
    return 0


def _launch(known: flags.FlagValues, more: Sequence[str]) -> int:
    _flags_alone("launch", more)
    loaded = load(known)
    return launch.start(known, loaded.object, lambda: keep(known, loaded))


def _status(known: flags.FlagValues, more: Sequence[str]) -> int:
    from spendflops.study import status

    found = status.status(_folder("status", more))
    print(json.dumps(found.to_json(), indent=1) if known.json else status.text(found))
    return 0


def _retry(known: flags.FlagValues, more: Sequence[str]) -> int:
    from spendflops.study import failures
    from spendflops.study.status import ROWS

    folder = _folder("retry", more[:1])
    cleared = failures.clear(folder / ROWS, more[1:], reason=known.reason)
    for run_id, what in cleared.items():
        print(f"{run_id} may run again; it had failed: {what}")
    print(f"{len(cleared)} rows; `spendflops study run`, or a worker that is there, takes them up")
    return 0


def _report(known: flags.FlagValues, more: Sequence[str]) -> int:
    folder = _folder("report", more)
    if not (folder / "config.gin").exists():
        raise errors.DataError(f"there is no {folder / 'config.gin'}", fix="run the study first")
    known.gin_file, known.workdir = [str(folder / "config.gin")], str(folder)
    loaded = load(known)
    from spendflops.study.launch import Launch

    return _written(Launch(study=loaded.object, folder=folder, say=lambda line: None).look(), folder)


def _flags_alone(verb: str, more: Sequence[str]) -> None:
    if more:
        raise errors.ConfigError(f"study {verb} takes flags only, not {more[0]!r}")


def _folder(verb: str, more: Sequence[str]) -> Path:
    if len(more) != 1:
        raise errors.ConfigError(f"study {verb} takes the folder of a study", fix=f"spendflops study {verb} runs/NAME")
    return Path(more[0])


VERBS = {"run": _run, "plan": _plan, "launch": _launch, "status": _status, "retry": _retry, "report": _report}
