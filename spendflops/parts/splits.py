"""Splits and parts of splits, written as text: ``train``, ``train[0/2]``, ``train[:512]``, ``train[0/2][:10%]``.

``train[0/2]`` is part 0 of 2 disjoint parts of a fixed permutation, ``[:512]`` the first 512 examples of what stands
before it, in the order of that permutation, ``[:10%]`` its first tenth. So ``train[:512]`` lies in ``train[:1024]``,
and ``train[0/2][:512]`` shares nothing with ``train[1/2]``. The permutation depends on the number of examples and on a
seed alone, 0 unless one is written: ``train[:512][seed=3]``.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fractions
import itertools
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from spendflops.contracts.dataset import Source
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import Sample

_SYNTAX = re.compile(
    r"(?P<name>[A-Za-z0-9_.\-]+)(?:\[(?P<part>\d+)/(?P<parts>\d+)\])?"
    r"(?:\[:(?:(?P<count>\d+)|(?P<percent>\d+(?:\.\d+)?)%)\])?(?:\[seed=(?P<seed>\d+)\])?"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A named split and the part of it that is meant: part ``part`` of ``parts``, of that the first examples.

    Attributes:
        name: Of the whole split.
        part, parts: Which of how many disjoint parts.
        count: Examples; or
        percent: Part of the examples, in percent, above 0 and at most 100; a text, so that it is exact.
        seed: Of the permutation.
    """

    name: str
    part: int = 0
    parts: int = 1
    count: int | None = None
    percent: str = ""
    seed: int = 0

    def __str__(self) -> str:
        part = f"[{self.part}/{self.parts}]" if self.parts > 1 else ""
        first = f"[:{self.percent}%]" if self.percent else "" if self.count is None else f"[:{self.count}]"
        return self.name + part + first + (f"[seed={self.seed}]" if self.seed else "")

    @property
    def whole(self) -> bool:
        """Whether it is all of the split, in its own order."""
        return self.parts == 1 and self.count is None and not self.percent and not self.seed

    def bounds(self, total: int) -> tuple[int, int]:
        """Where it begins and ends in a permutation of ``total`` examples.

        Raises:
            DataError: More examples than there are, or none.
        """
        begin, end = total * self.part // self.parts, total * (self.part + 1) // self.parts
        wanted = end - begin if self.count is None else self.count
        if self.percent:
            wanted = int((end - begin) * fractions.Fraction(self.percent) / 100)
        if not 0 < wanted <= end - begin:
            raise DataError(
                f"split {self} asks for {wanted} examples of {end - begin}",
                why=f"{self.name} has {total} examples in {self.parts} part(s)",
                fix="ask for at least one example, and for no more than there are, or for fewer parts",
            )
        return begin, begin + wanted


def parse_split(text: str) -> Split:
    """Reads ``name``, then any of ``[i/n]``, ``[:k]`` or ``[:p%]``, ``[seed=s]``, in this order.

    Raises:
        ConfigError: Another syntax, a part that does not exist, or no examples at all.
    """
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"split {text!r} cannot be read",
            why="a split is name, then any of [i/n], [:k] or [:p%], [seed=s], in this order",
            fix="write for example train[0/2][:512] or train[:10%][seed=3]",
        )
    part, parts = int(match["part"] or 0), int(match["parts"] or 1)
    count = None if match["count"] is None else int(match["count"])
    percent = match["percent"] or ""
    if part >= parts:
        raise ConfigError(f"split {text!r}: there is no part {part} of {parts}", fix="parts count from 0")
    if count == 0 or (percent and not 0 < fractions.Fraction(percent) <= 100):
        raise ConfigError(f"split {text!r} has no examples or too many", fix="at least one, [:1]; at most all, [:100%]")
    return Split(name=match["name"], part=part, parts=parts, count=count, percent=percent, seed=int(match["seed"] or 0))


def permutation(count: int, seed: int = 0) -> Int64[np.ndarray, " count"]:
    """A permutation of 0..count-1 that stays the same for ever.

    The order of Philox words: NumPy promises the stream of a bit generator, but not that of its ``permutation``.

    Args:
        count: How many.
        seed: 0 or more.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")


def label_subsets(count: int, *, labels: int | None, subsets: int, seed: int = 0) -> list[np.ndarray]:
    """Random subsets of ``labels`` among ``count`` examples, for scores on few labels; all examples, once, for None.

    Subset i is the beginning of its own permutation: a smaller number of labels is part of a larger one.

    Raises:
        DataError: More labels than examples.
    """
    if labels is None:
        return [np.arange(count)]
    if labels > count:
        raise DataError(
            f"{labels} labelled examples are asked for, the bank has {count}",
            fix="ask for fewer labels, or give a larger bank",
        )
    return [permutation(count, (seed + 1 << 64) + index)[:labels] for index in range(subsets)]


class Subset:
    """The examples ``indices`` of a source, in that order; ``left_out`` is what the source left out."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.left_out: Mapping[str, int] = getattr(source, "left_out", {})

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self._indices):
            raise IndexError(f"index {index} of {len(self._indices)} examples")
        return self._source[int(self._indices[index])]

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self._source!r})"


def select(source: Source, split: Split | str) -> Source:
    """The part of ``source`` that ``split`` means, the source itself where that is all; the name is not looked at.

    Raises:
        ConfigError: A text that is not a split.
        DataError: More examples than there are, or a part without any.
    """
    split = parse_split(split) if isinstance(split, str) else split
    if split.whole:
        return source
    begin, end = split.bounds(len(source))
    return Subset(source, permutation(len(source), split.seed)[begin:end])


def overlap(sources: Mapping[str, Source], *, threads: int | None = None) -> dict[tuple[str, str], int]:
    """How many different images each pair of sources has in common, by the digest of their stored bytes.

    Reads every image once. A copy that was encoded again counts as another image.

    Args:
        sources: By name.
        threads: Readers; by default two a core.
    """
    digests = {name: image_digests(source, threads=threads) for name, source in sources.items()}
    return {(a, b): len(digests[a] & digests[b]) for a, b in itertools.combinations(sources, 2)}


def image_digests(source: Source, *, threads: int | None = None) -> frozenset[str]:
    """The digests of the stored bytes of all images; every image is read once."""
    with concurrent.futures.ThreadPoolExecutor(threads or 2 * (os.cpu_count() or 1)) as pool:
        return frozenset(pool.map(lambda index: source[index]["image"].digest(), range(len(source))))
