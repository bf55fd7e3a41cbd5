"""Which labels of an image are kept, and prepared copies with those."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import Sample
from spendflops.parts.sources.arrayrecord import ArrayRecordSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Which labels are kept."""

    max_labels: int
    min_prob: float
    classes: int

    def __call__(
        self, labels: np.ndarray, probs: np.ndarray | None, counts: np.ndarray
    ) -> tuple[Int32[np.ndarray, " kept"], Float32[np.ndarray, " kept"] | None, Int64[np.ndarray, " rows"]]:
        """Labels of several images, one image after the other, and how many each has: what is kept, the same way.

        Raises:
            ValueError: A label or a probability that cannot be; the row that has it comes after the message.
        """
        rows = np.repeat(np.arange(len(counts)), counts)
        wrong = (labels < 0) | (labels >= self.classes)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"label {labels[at]} is not one of the {self.classes:,} classes", int(rows[at]))
        if probs is not None:
            wrong = ~((probs >= 0) & (probs <= 1))
            if wrong.any():
                at = int(np.argmax(wrong))
                raise ValueError(f"{probs[at]} is not a probability", int(rows[at]))
            order = np.lexsort((-probs, rows))  # stable: equal ones in the order in which they are given
            order = order[probs[order] >= self.min_prob]
            rows, labels, probs = rows[order], labels[order], probs[order].astype(np.float32)
        counts = np.bincount(rows, minlength=len(counts))
        rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
        keep = rank < self.max_labels
        probs = None if probs is None else probs[keep]
        return labels[keep].astype(np.int32), probs, np.minimum(counts, self.max_labels)

    def check_within(self, root: str, source: Any) -> None:
        """Raises a DataError where a copy was prepared with fewer labels than are asked for."""
        for option, less in (("min_prob", lambda own, its: own < its), ("max_labels", lambda own, its: own > its)):
            own, its = getattr(self, option), source.get(option) if isinstance(source, dict) else None
            if isinstance(its, (int, float)) and less(own, its):
                raise DataError(
                    f"{root} was prepared with {option}={its}, asked for is {own}",
                    why="the labels between are not in the copy",
                    fix=f"set {option}={its}, or prepare it again",
                )


class PreparedLabels:
    """Samples of a prepared copy with the labels that are kept.

    Args:
        source: Reads the copy.
        limits: Chooses labels.
        features: What samples hold.
        published: How many there should be, for ``repr``.
    """

    def __init__(self, source: ArrayRecordSource, limits: Limits, features: Sequence[str], published: int):
        self._source, self._limits, self._features, self._published = source, limits, tuple(features), published

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        found = dict(self._source[index])
        if "labels" in found or "label_probs" in found:
            labels, probs = found.get("labels"), found.get("label_probs")
            if labels is None:
                labels = np.zeros(len(probs), np.int32)
            place = self._source.records.place(index)
            if probs is not None and len(probs) != len(labels):
                raise DataError(
                    f"{place} has {len(labels)} labels with {len(probs)} probabilities",
                    fix="prepare the data set again",
                )
            try:
                found["labels"], found["label_probs"], _ = self._limits(labels, probs, np.asarray([len(labels)]))
            except ValueError as error:
                raise DataError(f"{place}: {error.args[0]}", fix="prepare the data set again") from error
        return {name: found[name] for name in self._features}

    def __repr__(self) -> str:
        return f"PreparedLabels({self._source!r}, {len(self):,} of {self._published:,} published images)"
