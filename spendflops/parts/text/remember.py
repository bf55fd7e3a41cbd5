"""What both tokenizers share: the pieces of a word are looked up once and remembered."""

from __future__ import annotations

from collections.abc import Iterable

LARGEST = 100_000


class ByWord:
    """A tokenizer whose pieces depend on one word at a time.

    A subclass sets ``first`` and ``last``, the ids that begin and end a text, and defines :meth:`pieces`.
    """

    first: int
    last: int

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, ...]] = {}

    def pieces(self, word: str) -> tuple[int, ...]:
        """Ids of one word."""
        raise NotImplementedError

    def joined(self, words: Iterable[str]) -> list[int]:
        """Ids of all words between ``first`` and ``last``; at most ``LARGEST`` words are remembered."""
        found = [self.first]
        for word in words:
            pieces = self._known.get(word)
            if pieces is None:
                if len(self._known) >= LARGEST:
                    self._known.clear()
                pieces = self._known[word] = self.pieces(word)
            found.extend(pieces)
        found.append(self.last)
        return found
