"""What a run does not read: broken examples, kept in ``logs/skipped-NAME.json``, and what its data leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from spendflops.contracts.dataset import Source
from spendflops.engine.data import Skipped
from spendflops.engine.metrics import MetricsLog
from spendflops.engine.recipe import Stage
from spendflops.engine.rundir import read_json, write_atomically


def _place(folder: Path, name: str) -> Path:
    return folder / "logs" / f"skipped-{name.replace('/', '-')}.json"


def read(folder: Path, name: str) -> dict[int, str]:
    """What was kept under a name; empty if nothing was skipped."""
    path = _place(folder, name)
    return {int(index): text for index, text in read_json(path).items()} if path.exists() else {}


def keep(folder: Path, name: str, found: Mapping[int, str]) -> None:
    """Writes what was skipped."""
    write_atomically(_place(folder, name), json.dumps(dict(found), indent=1))


def known(folder: Path, stage: Stage, source: Source) -> Skipped:
    """The broken examples of a stage, with those that an earlier attempt found."""
    return Skipped(source, limit=stage.skip_broken, known=read(folder, stage.label))


def tell_left_out(log: MetricsLog, name: str, source: Source) -> None:
    """Shows what a source leaves out of what its files hold."""
    for reason, count in getattr(source, "left_out", {}).items():
        if count:
            log.say(f"{name}: left out {count:,}: {reason}")


def tell(folder: Path, log: MetricsLog, name: str, skipped: Skipped) -> None:
    """Keeps what was skipped and shows what is new."""
    keep(folder, name, skipped.found)
    for text in skipped.new:
        log.say(f"{name}: skipped, {len(skipped.found)} of at most {skipped.limit}: {text}")
    skipped.new.clear()
