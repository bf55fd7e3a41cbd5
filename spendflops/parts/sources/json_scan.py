"""A JSON file element by element: the entries of long lists one at a time, each with the bytes where it lies."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from spendflops.contracts.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def elements(path: str, lists: Collection[str]) -> Iterator[tuple[str, int, Any, int, int]]:
    """The elements of some lists in the object that a file holds, in the order of the file.

    The text is held once, a byte a character; of the elements only the one that is being looked at exists.

    Args:
        path: A JSON file, UTF-8.
        lists: Keys of the object; other keys are read over.

    Yields:
        Key, number in its list, value, and the bytes [start, end) of the file.

    Raises:
        DataError: Missing, unreadable, not an object, a key twice, cut short or otherwise no JSON: with the place.
    """
    scanner = _Scanner(path)
    scanner.expect("{")
    seen: set[str] = set()
    inside = scanner.enter("}")
    while inside:
        scanner.peek()
        key = scanner.value()
        if not isinstance(key, str) or key in seen:
            raise scanner.broken(f"a key that is {'there twice' if isinstance(key, str) else 'no text'}: {key!r}")
        seen.add(key)
        scanner.expect(":")
        if key in lists:
            yield from _entries(scanner, key)
        else:
            scanner.place = f"{key!r}"
            scanner.peek()
            scanner.value()
        inside = scanner.more("}")
    if scanner.peek():
        raise scanner.broken("something after the end")


def _entries(scanner: _Scanner, key: str) -> Iterator[tuple[str, int, Any, int, int]]:
    scanner.place = f"{key!r}"
    scanner.expect("[")
    number, inside = 0, scanner.enter("]")
    while inside:
        scanner.place = f"entry {number} of {key!r}"
        scanner.peek()
        start = scanner.at
        value = scanner.value()
        yield key, number, value, start, scanner.at
        number, inside = number + 1, scanner.more("]")


class _Scanner:
    """A place in a text."""

    def __init__(self, path: str):
        self.path, self.at, self.place = path, 0, "its beginning"
        try:
            with open(path, "rb") as file:
                # A character for every byte, whatever it encodes: JSON's own signs are ASCII, and places are bytes.
                self.text = file.read().decode("latin-1")
        except OSError as error:
            raise DataError(
                f"{path} cannot be read", why=error.strerror or str(error), fix="check the path of the data set"
            ) from error
        self.ascii = self.text.isascii()
        if self.text.startswith("\xef\xbb\xbf"):
            self.at = 3

    def broken(self, why: str, at: int | None = None) -> DataError:
        place = f"at byte {self.at if at is None else at:,} of {len(self.text):,}, in {self.place}"
        return DataError(f"{self.path} is not a whole JSON file", why=f"{why} {place}", fix="fetch it again")

    def peek(self) -> str:
        """The next character that is no space, empty at the end."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        if (found := self.peek()) != character:
            raise self.broken(f"{found or 'the end'!r} in place of {character!r}")
        self.at += 1

    def enter(self, end: str) -> bool:
        """Whether there is something before ``end``, which is passed if there is not."""
        if self.peek() != end:
            return True
        self.at += 1
        return False

    def more(self, end: str) -> bool:
        """Passes a comma and is true, or ``end`` and is false."""
        if self.peek() == ",":
            self.at += 1
            return True
        self.expect(end)
        return False

    def value(self) -> Any:
        """The value that begins here."""
        start = self.at
        try:
            value, self.at = _DECODER.raw_decode(self.text, start)
            if not self.ascii and not (part := self.text[start : self.at]).isascii():
                value = json.loads(part.encode("latin-1").decode())
        except (ValueError, RecursionError) as error:
            # The error of the library holds the whole text: it is not chained.
            at = getattr(error, "pos", None) if isinstance(error, json.JSONDecodeError) else start
            raise self.broken(getattr(error, "msg", "") or str(error), at) from None
        return value
