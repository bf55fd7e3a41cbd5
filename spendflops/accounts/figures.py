"""Numbers with where they are from, and the tables of them that come with the package."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that somebody published, or that is assumed.

    Attributes:
        value: The number.
        source: Who says so, or why it is assumed.
        date: Of the number, or of the day it was read.
        tag: ``"vendor"``, ``"published"``, ``"compiled"`` or ``"second-hand"``, see ``data/README.md``; ``"given"`` by
            the user, ``"assumed"``.
        low, high: Between what it may be; the value itself where no more is known than it.
    """

    value: float
    source: str
    date: str = ""
    tag: str = "given"
    low: float | None = None
    high: float | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest that it may be."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def times(self, factor: float) -> Figure:
        """The figure of ``factor`` such things."""
        low, high = self.range
        return dataclasses.replace(self, value=self.value * factor, low=low * factor, high=high * factor)

    def __str__(self) -> str:
        return f"{self.source} ({', '.join(part for part in (self.date, self.tag) if part)})"


def given(value: float) -> Figure:
    """A number of the user's own."""
    return Figure(value=value, source="given by the user")


def spread(figures: list[Figure], main: Figure) -> Figure:
    """``main`` between the least and the largest of ``figures``."""
    values = [figure.value for figure in figures]
    return dataclasses.replace(main, low=min(values), high=max(values))


@functools.cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of ``data/NAME.csv``."""
    text = importlib.resources.files("spendflops.accounts").joinpath(f"data/{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
