"""Weights in our own form: a folder with ``model.safetensors``, by path, and ``config.json``: what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spendflops.contracts import errors
from spendflops.weights import files

FORMAT = "spendflops weights 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """An open folder.

    Attributes:
        path: Of the folder.
        config: ``backbone``, ``objective`` (null for a backbone alone), ``info`` of the data, ``input``, ``weights``
            (online or teacher, null where nobody knows), ``step``, ``flops`` spent before (null for unknown),
            ``source``, ``sha256`` of the weights, ``versions``.
        content: The file.
    """

    path: Path
    config: Mapping[str, Any]
    content: files.Content

    @property
    def shapes(self) -> dict[str, Any]:
        """What has ``shape`` and ``dtype``, by path; nothing is read."""
        return dict(self.content.tensors)

    def read(self) -> dict[str, np.ndarray]:
        """The arrays by path.

        Raises:
            errors.DataError: They are not those that the folder was written with.
        """
        if self.content.digest() != self.config["sha256"]:
            raise errors.DataError(f"{self.content.path} is damaged", why="its content has another SHA-256")
        return {path: tensor.read() for path, tensor in self.content.tensors.items()}


def is_folder(path: str | Path) -> bool:
    """Whether there are weights in our form."""
    try:
        return json.loads((Path(path) / "config.json").read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def open_folder(path: str | Path) -> Weights:
    """Opens a folder of :func:`write`.

    Raises:
        errors.DataError: It is none, or its file is damaged.
    """
    if not is_folder(path):
        raise errors.DataError(
            f"{path} holds no weights in our form",
            why=f"there is no config.json of the format {FORMAT!r}",
            fix="make it: spendflops import FILE --backbone NAME --out DIR",
        )
    content = files.open_file(path)
    return Weights(path=Path(path), config=content.config, content=content)


def check_vacant(path: str | Path) -> None:
    """Raises a ConfigError where :func:`write` would overwrite something."""
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or (folder / "config.json").exists()):
        raise errors.ConfigError(f"{folder} is there already", fix="choose another --out, or remove it")


def write(path: str | Path, values: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Writes a folder; ``config.json`` comes last, so that half a folder is none.

    Raises:
        errors.ConfigError: There is something already.
        errors.DataError: The disk does not take it.
    """
    check_vacant(path)
    folder = Path(path)
    file = folder / files.NAMES[0]
    files.save(file, values)
    with open(file, "rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    body = {"format": FORMAT, **config, "sha256": digest}
    files.write_text(folder / "config.json", json.dumps(body, indent=1, sort_keys=True))
