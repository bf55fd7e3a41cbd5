"""A file of weights, opened by what it holds and not by its name: safetensors, or PyTorch's zip."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from spendflops.contracts import errors
from spendflops.weights import pth

NAMES = ("model.safetensors", "pytorch_model.bin")
"""Of the file in a folder."""
DTYPES = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
}
OTHERS = (
    (b"\x80", "a bare pickle, as PyTorch wrote before version 1.6", f"save it again, or convert it {pth.CONVERT}"),
    (b"version https://git-lfs", "the pointer to a file of Git LFS, not the file", "git lfs pull"),
    (b"<", "a web page or XML", "download the file itself"),
    (b"\x89HDF", "HDF5", "convert it to safetensors"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
)
"""(beginning, what that is, what to do)."""


class Tensor(Protocol):
    """An array in a file, read when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """The array."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """An array in a safetensors file."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """The array."""
        with _explained(self.path), safetensors.safe_open(self.path, "np") as file:
            return file.get_tensor(self.key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What a file holds.

    Attributes:
        path: Of the file.
        kind: "safetensors", "PyTorch" or "TorchScript".
        tensors: By key; nested dicts have their keys joined by dots.
        values: Everything else: numbers, strings.
        config: ``config.json`` beside it, and ``preprocessor_config.json``, where there are such files.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Hex SHA-256 of the file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(path: str | os.PathLike[str]) -> Content:
    """Opens a file, or the one in a folder; no array is read.

    Raises:
        errors.DataError: Nothing there, of another kind, damaged, or hostile.
    """
    file = _in_folder(Path(path)) if Path(path).is_dir() else Path(path)
    try:
        with open(file, "rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise errors.DataError(f"{file} cannot be read", why=error.strerror or str(error)) from error
    config = _config(file.parent)
    if start[:4] == b"PK\x03\x04":
        archive = pth.Archive(file)
        kind = "TorchScript" if archive.torchscript else "PyTorch"
        split: dict[bool, dict[str, Any]] = {True: {}, False: {}}
        for key, value in archive.leaves:
            found = split[isinstance(value, pth.Tensor)]
            if key in found:
                raise errors.DataError(f"{file} has two values called {key}", why="a key with a dot and a nested one")
            found[key] = value
        return Content(path=file, kind=kind, tensors=split[True], values=split[False], config=config)
    if start[8:9] == b"{":
        return Content(path=file, kind="safetensors", tensors=_slices(file), config=config)
    for beginning, what, fix in OTHERS:
        if start.startswith(beginning):
            raise errors.DataError(
                f"{file} is {what}", why="only safetensors and PyTorch's zip are read", fix=fix.format(file.name)
            )
    raise errors.DataError(f"{file} is no file of weights", why="neither safetensors nor PyTorch's zip")


def _slices(file: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with _explained(file), safetensors.safe_open(file, "np") as opened:
        for key in opened.keys():  # noqa: SIM118
            part = opened.get_slice(key)
            if part.get_dtype() not in DTYPES:
                raise errors.DataError(f"{file}: {key} is {part.get_dtype()}", why=f"known are {', '.join(DTYPES)}")
            found[key] = Slice(file, key, tuple(part.get_shape()), DTYPES[part.get_dtype()])
    return found


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except safetensors.SafetensorError as error:
        raise errors.DataError(f"{file} is damaged", why=str(error), fix="copy or download it again") from error


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    sharded = list(folder.glob("*.index.json"))
    raise errors.DataError(
        f"{folder} holds no {' or '.join(NAMES)}",
        why="its weights are in several files" if sharded else "",
        fix="save them in one file" if sharded else "give the file itself",
    )


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (folder / "preprocessor_config.json", folder / "config.json"):
        try:
            body = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise errors.DataError(f"{path} is no JSON", why=str(error)) from error
        found |= body if isinstance(body, dict) else {}
    return found


def save(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        errors.DataError: The disk does not take it.
    """
    # The library writes the memory of an array in its order, whatever its strides say.
    plain = {key: np.array(value, order="C") for key, value in arrays.items()}
    with _whole(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # What this user's files have; the library's are for their owner alone.
        safetensors.numpy.save_file(plain, temporary, metadata={"format": "pt", **(metadata or {})})
        temporary.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all; see :func:`save`."""
    with _whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise errors.DataError(
            f"cannot write {path}", why=str(error), fix="make room, or choose another place"
        ) from error
