"""Text on the host: captions to token ids. Nothing is downloaded.

A tokenizer is known by a name, which an objective states, a recipe records and :class:`InputSpec` carries to the views:

- ``builtin``: WordPiece with the 6,144 tokens in ``vocabulary.txt`` beside this file, made by ``make_vocabulary``;
- ``path/vocab.txt``: WordPiece with the vocabulary of a BERT model;
- ``path/bpe_simple_vocab_16e6.txt.gz``: OpenAI's byte pairs;
- ``path/tokenizer.json``: any tokenizer of Hugging Face's library ``tokenizers``, which must be installed.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int32

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.text.bpe import BytePairs
from spendflops.parts.text.wordpiece import WordPiece

__all__ = ["BUILTIN", "BytePairs", "Tokenizer", "WordPiece", "encode", "pseudo_caption", "tokenizer"]

BUILTIN = "builtin"


class Tokenizer(Protocol):
    """What all of them have.

    Attributes:
        size: Ids are below it.
        pad: Fills a sequence up; never the last id of a text.
    """

    size: int
    pad: int

    def ids(self, text: str) -> list[int]:
        """All ids of a text, with those that mark its beginning and its end."""


@functools.lru_cache(maxsize=8)
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer called ``name``, read once in each process.

    Raises:
        ConfigError: No such name, or a library that is missing.
        DataError: A file that cannot be read or is not what its name says.
    """
    if name == BUILTIN:
        return WordPiece(_lines(resources.files(__package__).joinpath("vocabulary.txt").read_text("utf-8")))
    suffix = Path(name).suffix
    if suffix not in _FORMATS:
        raise ConfigError(
            f"unknown tokenizer {name!r}",
            why=f"a tokenizer is {BUILTIN!r}, or a file that ends in {', '.join(_FORMATS)}",
            fix=f"use {BUILTIN!r}, a BERT vocab.txt, OpenAI's bpe_simple_vocab_16e6.txt.gz or a tokenizer.json",
        )
    try:
        return _FORMATS[suffix](name)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"the tokenizer {name} cannot be read",
            why=getattr(error, "strerror", None) or str(error),
            fix=f"correct the path, or use {BUILTIN!r}",
        ) from error


def encode(name: str, text: str, length: int) -> Int32[np.ndarray, " L"]:
    """The ids of ``text``, cut on the right so that the last id stays, padded to ``length``."""
    found = tokenizer(name)
    ids = found.ids(text)
    if len(ids) > length:
        ids = ids[: length - 1] + ids[-1:]
    return np.array(ids + [found.pad] * (length - len(ids)), np.int32)


def pseudo_caption(names: Sequence[str]) -> str:
    """ "This is a photo of A and B." (Koppula et al. 2022, A.3)."""
    return f"This is a photo of {' and '.join(names)}."


def _lines(text: str) -> list[str]:
    # Not splitlines(): a token may hold one of Unicode's other line breaks.
    return text.removesuffix("\n").split("\n")


class _Library:
    """A tokenizer of the library ``tokenizers``, with the post-processor that its file describes."""

    def __init__(self, path: str):
        try:
            import tokenizers
        except ImportError as error:
            raise ConfigError(
                f"{path} needs the library tokenizers",
                why="it is not installed",
                fix=f"pip install 'spendflops[text]', or use {BUILTIN!r} or a BERT vocab.txt, which need no library",
            ) from error
        try:
            self._engine = tokenizers.Tokenizer.from_str(Path(path).read_text("utf-8"))
        except OSError:
            raise
        except Exception as error:  # the library raises no other class
            raise DataError(f"{path} is no tokenizer of the library tokenizers", why=str(error)) from error
        self._engine.no_truncation()
        self._engine.no_padding()
        self.size = self._engine.get_vocab_size(with_added_tokens=True)
        known = (self._engine.token_to_id(token) for token in ("[PAD]", "<pad>"))
        self.pad = next((number for number in known if number is not None), 0)

    def ids(self, text: str) -> list[int]:
        return self._engine.encode(text).ids


_FORMATS: dict[str, Callable[[str], Any]] = {
    ".txt": lambda path: WordPiece(_lines(Path(path).read_text("utf-8")), name=path),
    ".gz": lambda path: BytePairs(_lines(gzip.decompress(Path(path).read_bytes()).decode()), name=path),
    ".json": _Library,
}
