"""PyTorch's zip files, read without PyTorch: a pickle, ``data.pkl``, and the bytes of each storage.

Files of TorchScript name classes of their own, ``__torch__...``: these become inert objects with attributes, and their
code is not read. Storages are read when a tensor is; until then only their sizes are known, and checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from spendflops.contracts import errors
from spendflops.weights import pickles
from spendflops.weights.pickles import Inert, Name, Refused

LARGEST_PICKLE = 16 * 2**20
"""Bytes; the pickle of a model with ten thousand tensors has two million."""
CONVERT = "where you trust it, with PyTorch: safetensors.torch.save_file(torch.load('{0}')[...], 'x.safetensors')"

STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """Bytes in a file, a number of values of one type."""

    archive: Archive
    name: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; strides and offset count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of its values."""
        return self.storage.dtype

    def read(self) -> np.ndarray:
        """Its values, in an array of its own."""
        data = np.frombuffer(self.storage.archive.read(self.storage.name), self.dtype)
        strides = [s * self.dtype.itemsize for s in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides), order="C")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *gradients: Any) -> Tensor:
    """``torch._utils._rebuild_tensor_v2``."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers) or len(numbers) > 33:
        raise Refused(f"a tensor has the offset {offset}, the shape {shape} and the strides {strides}")
    count = math.prod(shape)
    # An axis of one is never stepped along, whatever its stride.
    strides = [s if n > 1 else 0 for n, s in zip(shape, strides, strict=True)]
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # With a stride of 0 a few bytes could claim to be any number of values.
    if count > storage.count or (count and last >= storage.count):
        raise Refused(f"a tensor {shape} with strides {strides} at {offset} in a storage of {storage.count} values")
    return Tensor(storage, offset if count else 0, tuple(shape), tuple(strides))


def _inert(name: str) -> Callable[..., Any]:
    return lambda *arguments: Inert(name, arguments)


SCALARS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "_codecs.encode")
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *gradients: tensor,
    "torch.Size": lambda sizes: tuple(sizes),
    **{f"torch.jit._pickle.{name}": lambda values, *kind: values for name in LISTS},
    **{name: _inert(name) for name in (*SCALARS, "torch.device")},
}
"""The names that a pickle may call, and what that does here."""


def _known(name: str) -> bool:
    return name in STORAGES or name == "argparse.Namespace" or name.startswith("__torch__.")


class Archive:
    """An open file.

    Attributes:
        torchscript: Whether it is a module of TorchScript.
        leaves: (key, value) of everything in it that is no container; tensors are :class:`Tensor`.

    Raises:
        errors.DataError: Damaged, hostile or of another kind.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._explained():
            self._zip = zipfile.ZipFile(path)
            self._entries = self._checked(path.stat().st_size)
            self._folder = self._only_pickle()
            if f"{self._folder}byteorder" in self._entries and self.read("byteorder") != b"little":
                raise Refused("its numbers are big-endian")
            self.torchscript = any(name.startswith(f"{self._folder}code/") for name in self._entries)
            root = pickles.run(self.read("data.pkl"), calls=CALLS, known=_known, persistent=self._storage)
            self.leaves = pickles.leaves(root)

    def read(self, name: str) -> bytes:
        """The bytes of an entry, its checksum compared."""
        with self._explained():
            return self._zip.read(self._entries[f"{self._folder}{name}"])

    def _storage(self, description: tuple) -> Storage:
        """A storage: it must be there, with exactly the bytes that its values need."""
        kind, storage, key, _, count = description
        if kind != "storage" or not isinstance(storage, Name) or storage.full not in STORAGES:
            raise Refused(f"its pickle refers to {kind!r} of type {getattr(storage, 'full', storage)}")
        dtype, name = STORAGES[storage.full], f"data/{key}"
        entry = self._entries.get(f"{self._folder}{name}")
        if entry is None or type(count) is not int or entry.file_size != count * dtype.itemsize:
            there = "not in the file" if entry is None else f"{entry.file_size} bytes"
            raise Refused(f"the storage {key!r} is {there}, not {count} values of {dtype}")
        return Storage(self, name, dtype, count)

    def _checked(self, size: int) -> dict[str, zipfile.ZipInfo]:
        """The entries by name: what they claim fits into the file, so that reading one cannot take more memory."""
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            name = entry.filename
            if name in found or entry.flag_bits & 1:
                raise Refused(f"{name} is in it twice" if name in found else f"{name} is encrypted")
            if "/data/" in name and (entry.compress_type or entry.file_size != entry.compress_size):
                raise Refused(f"{name} is compressed, which PyTorch does not do")
            if name.endswith("/data.pkl") and entry.file_size > LARGEST_PICKLE:
                raise Refused(f"{name} has {entry.file_size:,} bytes, over {LARGEST_PICKLE:,}")
            found[name] = entry
        if sum(entry.compress_size for entry in found.values()) > size:
            raise Refused("its parts are together larger than the file")
        return found

    def _only_pickle(self) -> str:
        folders = [name[: -len("data.pkl")] for name in self._entries if name.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1:
            raise Refused("it is a zip file, but not one of PyTorch")
        return folders[0]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
            raise errors.DataError(
                f"{self.path} is damaged", why=str(error) or type(error).__name__, fix="copy or download it again"
            ) from error
        except OSError as error:
            raise errors.DataError(f"{self.path} cannot be read", why=error.strerror or str(error)) from error
        except errors.DataError:
            raise
        # Refused, and whatever a malformed pickle or zip makes the standard library raise.
        except Exception as error:
            reason = str(error) if isinstance(error, Refused) else f"not well formed ({type(error).__name__}: {error})"
            raise errors.DataError(
                f"{self.path} was not read: {reason}",
                why="a pickle can run any code; only what rebuilds tensors is known here, and nothing of it was run",
                fix=f"save the plain state dict, or convert it {CONVERT.format(self.path.name)}",
            ) from error
