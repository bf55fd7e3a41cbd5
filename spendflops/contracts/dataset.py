"""Data sets: random access to undecoded samples, without randomness."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, Protocol

from spendflops.contracts.described import Described
from spendflops.contracts.registry import API_VERSION
from spendflops.contracts.types import DatasetInfo, Sample


class Source(Protocol):
    """Random access: thread-safe, picklable, the same index always gives the same sample.

    A source that leaves out what its files hold counts it in ``left_out``, reason -> how many; runs and
    ``spendflops data verify`` say it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Dataset(Described, abc.ABC):
    """A data set. ``info`` is static; ``source`` may touch the disk."""

    api_version: ClassVar[int] = API_VERSION
    info: DatasetInfo

    @abc.abstractmethod
    def source(self, split: str, *, features: tuple[str, ...]) -> Source:
        """Samples of ``split`` with (at least) the given features.

        Raises:
            errors.DataError: Unknown split, nothing there, unreadable.
            errors.ConfigError: A feature that this set does not have.
        """

    def composition(self, split: str) -> Mapping[str, tuple[int, float]]:
        """What a split is made of, where it is made of several sets: name -> (examples, part of what is drawn)."""
        return {}
