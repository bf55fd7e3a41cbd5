"""What a run does not read: broken examples, kept in ``logs/skipped-NAME.json``, and what its data leave out."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Source
from spendflops.engine import hosts
from spendflops.engine.metrics import MetricsLog
from spendflops.engine.recipe import Stage
from spendflops.engine.rundir import read_json, write_atomically


class Skipped:
    """The broken examples of a stage: which they were, and how many may be.

    Args:
        source: Where they come from.
        limit: Different examples that may be broken; one more is an error.
        known: Indices that earlier attempts found.
        shared: Whether other hosts read other examples: the limit is then that of all, and :meth:`agree` looks at it.
    """

    def __init__(self, source: Source, *, limit: int, known: Mapping[int, str] | None = None, shared: bool = False):
        self._source, self.limit, self.shared = source, limit, shared
        self.found: dict[int, str] = dict(known or {})
        self.new: list[str] = []

    def note(self, broken: np.ndarray) -> None:
        """Takes the column ``data.BROKEN`` of a batch; what was not known before is added to ``found`` and ``new``.

        Raises:
            errors.DataError: More than the limit.
        """
        self._add(np.unique(broken[broken >= 0]))
        if not self.shared:
            self._check()

    def agree(self, union: Callable[[Collection[int], int], Iterable[int]]) -> None:
        """Takes what all hosts have found: the same on all of them, and the same error.

        Args:
            union: The numbers that any host has, of which each gives at most so many.

        Raises:
            errors.DataError: More than the limit.
        """
        if self.shared:
            self._add(union(self.found, self.limit + 1))
            self._check()

    def _add(self, indices: Iterable[int]) -> None:
        for index in (int(i) for i in indices):
            if index not in self.found:
                self.found[index] = _fault(self._source, index)
                self.new.append(self.found[index])

    def _check(self) -> None:
        if len(self.found) > self.limit:
            shown = "; ".join(list(self.found.values())[:5])
            raise errors.DataError(
                f"{len(self.found)} of {len(self._source):,} examples are broken, {self.limit} may be",
                why=shown,
                fix="repair or leave out these files, or allow more with skip_broken",
            )


def _fault(source: Source, index: int) -> str:
    """What is wrong with an example, as its error says it."""
    try:
        sample = source[index]
        if "image" in sample:
            sample["image"].decode()
    except errors.DataError as error:
        return f"{error.what}: {error.why}"
    return f"example {index} of {source!r}: another part of it than the image"


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
    known = read(folder, stage.label)
    return Skipped(source, limit=stage.skip_broken, known=known, shared=hosts.several())


def tell_left_out(log: MetricsLog, name: str, source: Source) -> None:
    """Shows what a source leaves out of what its files hold."""
    for reason, count in getattr(source, "left_out", {}).items():
        if count:
            log.say(f"{name}: left out {count:,}: {reason}")


def tell(folder: Path, log: MetricsLog, name: str, skipped: Skipped) -> None:
    """Keeps what was skipped and shows what is new, if anything is."""
    if not skipped.new:
        return
    keep(folder, name, skipped.found)
    for text in skipped.new:
        log.say(f"{name}: skipped, {len(skipped.found)} of at most {skipped.limit}: {text}")
    skipped.new.clear()
