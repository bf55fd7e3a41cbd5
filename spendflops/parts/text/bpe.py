"""CLIP's tokenizer: byte pair encoding in lower case (Radford et al. 2021, arXiv 2103.00020; Sennrich et al. 2016).

The merges are OpenAI's (``bpe_simple_vocab_16e6.txt.gz``, MIT licence); the user gives the file.

Deviation: of ``ftfy``, which repairs text first, only the canonical composition (NFC) is done.
Deviation: a caption that holds the name of a special token does not hold the token.
"""

from __future__ import annotations

import functools
import html
import itertools
import re
import sys
import unicodedata

from spendflops.contracts.errors import DataError
from spendflops.parts.text.remember import ByWord

MERGES = 49_152 - 256 - 2


class BytePairs(ByWord):
    """Text to ids: start of text in front, end of text at the end, padded with 0, which is also the id of ``!``.

    Args:
        lines: Of the file of merges: a heading, then two symbols a line, the earliest merge first.
        name: For error messages.

    Raises:
        DataError: A line that does not hold two symbols.
    """

    pad = 0

    def __init__(self, lines: list[str], *, name: str = "merges"):
        merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
        bad = next((number for number, merge in enumerate(merges, 2) if len(merge) != 2), None)
        if bad is not None or not merges:
            raise DataError(
                f"{name} is no file of merges",
                why=f"line {bad} does not hold two symbols" if bad else "it holds nothing below its heading",
                fix="give OpenAI's bpe_simple_vocab_16e6.txt.gz",
            )
        self.rank = {merge: number for number, merge in enumerate(merges)}
        self.symbols = byte_symbols()
        single = list(self.symbols.values())
        tokens = [*single, *(f"{s}</w>" for s in single), *("".join(merge) for merge in merges)]
        self.index = {token: number for number, token in enumerate(tokens)}
        self.first, self.last, self.size = len(tokens), len(tokens) + 1, len(tokens) + 2
        super().__init__()

    def ids(self, text: str) -> list[int]:
        """All ids, the two special ones included."""
        text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
        text = " ".join(text.split()).lower()
        return self.joined(_pattern().findall(text))

    def pieces(self, word: str) -> tuple[int, ...]:
        """Ids of one word: of all neighbours the pair that was merged first is joined, until none is left."""
        parts = [self.symbols[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.rank.get(pair, sys.maxsize))
            if best not in self.rank:
                break
            joined, at = [], 0
            while at < len(parts):
                found = tuple(parts[at : at + 2]) == best
                joined.append("".join(best) if found else parts[at])
                at += 2 if found else 1
            parts = joined
        return tuple(self.index[part] for part in parts)


@functools.cache
def byte_symbols() -> dict[int, str]:
    """Byte -> a visible character for it, in the order of the ids: Latin-1's visible ones stand for themselves."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


@functools.cache
def _pattern() -> re.Pattern[str]:
    r"""Contractions, runs of letters, single digits, runs of all else.

    The authors' ``[\p{L}]+`` and ``[\p{N}]`` in terms of ``re``: its ``\w`` is letters, all numerals and the
    underscore, its ``\d`` decimal digits alone.
    """
    numerals = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Nl", "No"))
    return re.compile(rf"'(?:s|t|re|ve|m|ll|d)|[^\W\d_{numerals}]+|[\d{numerals}]|(?:[^\s\w]|_)+")
