"""Evaluators: predictions in, scores out, under a versioned protocol."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.described import Described
from spendflops.contracts.registry import API_VERSION
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Sample

INDEX = "_index"
"""The row of every role that the core adds: int64 [examples], the place of an example in the data of its role."""
PICTURES = r"example.*\.(jpg|png)"
"""Names of the files of an evaluator that reports show."""
Opened = Callable[[str, tuple[str, ...]], Source]
"""(role, features) -> the samples of that role with these features alone."""


class Preprocess(abc.ABC):
    """Sample -> batch entries of an evaluator, on the host, without randomness. Frozen dataclasses."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return ("image", "label")

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Entry -> dtype and shape of one example: with them an evaluation is planned without opening its data."""
        raise NotImplementedError(f"{type(self).__name__} must state its entries")

    @property
    def kept(self) -> tuple[str, ...]:
        """Entries that stay on the host, beside ``entries``: any object, such as ground truth of varying length.

        They never reach the device. They come back among the rows of the evaluator, as object arrays [examples].
        """
        return ()

    @abc.abstractmethod
    def __call__(self, sample: Sample) -> dict[str, Any]:
        """One example. Its ``image`` is [H W C], or [K H W C] for K images an example (crops, windows)."""


class Evaluator(Described, abc.ABC):
    """Scores a model on data in one or two roles.

    The core calls ``predict`` once and feeds every evaluator that shares data and preprocessing. The last batch is
    padded; ``batch["_mask"]`` bool [B] says which examples count. The core removes rows of padding; metrics must use
    the mask.

    The rows of a role are those of :meth:`step`, what its preprocessing kept on the host, and ``_index``, int64: the
    place of each example in the data of the role.
    """

    api_version: ClassVar[int] = API_VERSION
    requires: tuple[str, ...] = ("features",)
    """The outputs of ``predict`` that are read. They may depend on options: then an instance has its own."""
    roles: ClassVar[tuple[str, ...]] = ("eval",)
    """``("eval",)``, or ``("bank", "query")`` for evaluators that fit on one set and score on another."""
    protocol: str
    """A versioned id of everything that changes the meaning of a score. Two ids never share an axis."""
    primary: str
    """The key of the result that ranks models."""
    higher_is_better: ClassVar[bool] = True
    unit: ClassVar[str] = "%"
    """``"%"``: ``primary`` is a fraction, shown in per cent; empty: a plain number."""
    maps_classes: bool = False
    """Whether it says itself what the model's classes are in the data that it scores."""
    spread: str = ""
    """What ``primary + "_sd"`` in the result is the spread of, e.g. ``"3 label subsets"``; empty if there is none."""

    @abc.abstractmethod
    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Preprocess:
        """The preprocessing of a role."""

    def wants(self, role: str) -> tuple[str, ...]:
        """The outputs that :meth:`step` reads in a role: by default all of ``requires``."""
        return self.requires

    def supplies(self, data: Mapping[str, tuple[Dataset, str]]) -> Mapping[str, tuple[Dataset, str]]:
        """(data set, split) of roles that are not given, made of those that are: prompts of the names of classes."""
        return {}

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Opened) -> None:
        """Raises a DataError for data that cannot be scored. Called before anything is trained.

        Args:
            data: Role -> (data set, split).
            opened: (role, features) -> samples of that role with these features alone.
        """
        return None

    @abc.abstractmethod
    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """A pure function of arrays, compiled: ``{"metrics": {name: sums}, "rows": {name: [B ...]}}``.

        Of an example with K images every prediction is [B K ...].

        Metrics are summed over batches in integers or float64 on the host; rows are streamed there without padding.
        """

    def compact(self, role: str, rows: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The rows of one batch without padding, on the host, as they are kept until the end.

        Large rows (masks of objects) become small here, as they stream; by default nothing changes.

        Args:
            role: Which role they are of.
            rows: Name -> [examples ...].

        Returns:
            Name -> arrays that are put together along their first axis.
        """
        return rows

    @abc.abstractmethod
    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict:
        """Scores by name. ``merged[role][name]`` are summed metrics, ``rows[role][name]`` are [examples ...]."""

    def files(
        self, rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo, opened: Opened
    ) -> Mapping[str, bytes]:
        """Files to keep beside the score, by their names: results in a format of the field, pictures. By default none.

        Reports show those called ``example*.jpg`` and ``example*.png``: a few, small, in the order of their names, and
        the same examples whatever the model, so that they can be compared.

        Args:
            rows: As for :meth:`result`.
            info: As for :meth:`result`.
            opened: As for :meth:`check`; ``opened(role, features)[i]`` is the sample of the row whose ``_index`` is i.
        """
        return {}
