"""BERT's tokenizer: words, then pieces of words (Devlin et al. 2019, arXiv 1810.04805; Wu et al. 2016, 1609.08144).

Plain Python: words that were seen are remembered, so a caption costs a few lookups.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from spendflops.contracts.errors import DataError
from spendflops.parts.text.remember import ByWord

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 200
"""Words of more characters are unknown, as in the authors' code (Hugging Face: 100)."""

_PUNCTUATION = r"!-/:-@\[-`{-~"
_ASCII_WORDS = re.compile(rf"[{_PUNCTUATION}]|[^\s{_PUNCTUATION}]+")
_CJK = re.compile(
    "(["
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
    "])"
)


class WordPiece(ByWord):
    """Text to ids: ``[CLS]`` in front, ``[SEP]`` at the end.

    Args:
        tokens: The vocabulary; the place of a token is its id. With ``##`` in front it continues a word.
        lower: Whether text is put into lower case and loses its accents. By default it is unless an ordinary token has
            a capital letter.
        name: For error messages.

    Raises:
        DataError: A special token is missing.
    """

    def __init__(self, tokens: Sequence[str], *, lower: bool | None = None, name: str = "vocabulary"):
        self.index = {token: number for number, token in enumerate(tokens)}
        missing = [token for token in SPECIAL if token not in self.index]
        if missing:
            raise DataError(
                f"{name} has no token {missing[0]!r}",
                why="a WordPiece vocabulary has one token a line, [PAD], [UNK], [CLS] and [SEP] among them",
                fix="give the vocab.txt of a BERT model",
            )
        plain = (token for token in tokens if not re.fullmatch(r"\[.*\]", token))
        self.lower = all(token == token.lower() for token in plain) if lower is None else lower
        self.size = len(tokens)
        self.pad, self.unknown, self.first, self.last = (self.index[token] for token in SPECIAL)
        super().__init__()

    def ids(self, text: str) -> list[int]:
        """All ids, the two special ones included."""
        return self.joined(words(text, lower=self.lower))

    def pieces(self, word: str) -> tuple[int, ...]:
        """Ids of one word: the longest known piece from the left, again and again; unknown if one is missing."""
        if len(word) > LONGEST:
            return (self.unknown,)
        made, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.index), None)
            if end is None:
                return (self.unknown,)
            made.append(self.index[prefix + word[start:end]])
            start = end
        return tuple(made)


def words(text: str, *, lower: bool) -> Iterator[str]:
    """Words and punctuation marks, without control characters; every CJK character is a word of its own.

    Lower case comes before the canonical decomposition (NFD) and the removal of nonspacing marks (Mn). Punctuation is
    what in ASCII is neither letter, digit nor space (``$``, ``+`` and ``^``, too), and Unicode's P categories.
    """
    for chunk in text.split(" "):
        if chunk.isascii() and chunk.isprintable():
            yield from _ASCII_WORDS.findall(chunk.lower() if lower else chunk)
        else:
            yield from _unicode_words(chunk, lower=lower)


def _unicode_words(text: str, *, lower: bool) -> Iterator[str]:
    text = "".join(" " if _space(c) else c for c in text if not _control(c))
    for word in _CJK.sub(r" \1 ", text).split():
        if lower:
            decomposed = unicodedata.normalize("NFD", word.lower())
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        start = 0
        for at, c in enumerate(word):
            if _punctuation(c):
                if start < at:
                    yield word[start:at]
                yield c
                start = at + 1
        if start < len(word):
            yield word[start:]


def _space(c: str) -> bool:
    return c in " \t\n\r" or unicodedata.category(c) == "Zs"


def _control(c: str) -> bool:
    return c == "\ufffd" or (c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf"))


def _punctuation(c: str) -> bool:
    return re.match(f"[{_PUNCTUATION}]", c) is not None if c.isascii() else unicodedata.category(c).startswith("P")
