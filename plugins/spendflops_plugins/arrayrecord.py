"""A data set in ArrayRecord files, as ``spendflops data prepare`` writes it."""

from __future__ import annotations

import functools
import os

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.arrayrecord import ArrayRecordSource, Prepared, read_prepared


class ArrayRecord(Dataset):
    """A prepared copy: the samples, classes and splits of the data set that it was made of, under its name.

    Args:
        path: The folder with ``dataset_info.json``; ``~`` is the home directory.
    """

    def __init__(self, *, path: str):
        self._path = os.path.abspath(os.path.expanduser(path))

    @property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # read when first asked for
        """As of the data set that was prepared, with the sizes of the splits that are here.

        Raises:
            DataError: No manifest, an unfinished folder, a manifest that is damaged or was edited.
        """
        return self._prepared.info

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> ArrayRecordSource:
        """Samples of ``split``, equal to those of the data set that was prepared.

        Raises:
            ConfigError: A feature that was not prepared.
            DataError: An unknown split, a shard that is missing or strange, other counts than the manifest's.
        """
        return self._prepared.open(split, features)

    @functools.cached_property
    def _prepared(self) -> Prepared:
        if not os.path.isdir(self._path):
            raise DataError(f"folder {self._path} is not there", fix="check the path of the data set")
        return read_prepared(self._path)
