"""Lists of classes as text files: one name a line, in label order."""

from __future__ import annotations

import os

from spendflops.contracts.errors import DataError


def read_class_file(path: str) -> tuple[str, ...]:
    """The names in a file; ``~`` is the home directory, empty lines at its end do not count.

    Raises:
        DataError: Unreadable, an empty line, a name twice; the message names the line.
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        with open(path, encoding="utf-8") as file:
            names = file.read().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"list of classes {path} cannot be read", why=str(error), fix="check the path") from error
    while names and not names[-1].strip():
        names.pop()
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name.strip() or lines.setdefault(name, line) != line:
            raise DataError(
                f"line {line} of {path} is no new class",
                why=f"{name!r} stands in line {lines[name]}, too" if name.strip() else "it is empty",
                fix="write one name a line, all different",
            )
    return tuple(names)
