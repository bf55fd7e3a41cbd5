"""The tars that a path, a pattern or a list stands for."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from spendflops.contracts.errors import ConfigError, DataError

COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
MOST_SHARDS = 1_000_000
"""More than any set has (Re-LAION-5B: 553,000): a range beyond it is a typing error, and would fill the memory."""


def find_shards(path: str | os.PathLike | Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of tar shards, sorted.

    Args:
        path: A folder (every ``*.tar`` in it), a tar, a pattern with ``*``, ``?``, ``{0000..1023}`` or ``{a,b}``, or a
            list of these. What lies beside shards (``.parquet``, ``_stats.json``, ``.npz``) is ignored.

    Raises:
        DataError: Nothing there, shards of a range are missing, compressed tars in a folder, a shard named twice.
        ConfigError: A range that runs backwards or is too large.
    """
    if not isinstance(path, (str, os.PathLike)):
        found = [shard for one in path for shard in find_shards(one)]
    else:
        found = _find(os.path.abspath(os.path.expanduser(os.fspath(path))))
    found.sort()
    for one, other in itertools.pairwise(found):
        if one == other:
            raise DataError(f"shard {one} is named twice", why="its samples would count twice", fix="name it once")
    return tuple(found)


def _find(path: str) -> list[str]:
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.exists(path):
        return [path]
    wanted = list(itertools.islice(_braces(path), MOST_SHARDS + 1))
    if len(wanted) > MOST_SHARDS:
        raise ConfigError(f"{path} names more than {MOST_SHARDS:,} shards", fix="correct the range")
    found: list[str] = []
    missing: list[str] = []
    for pattern in wanted:
        here = [pattern] if os.path.isfile(pattern) else []
        if not here and re.search(r"[*?]", pattern):
            matches = glob.glob(pattern.replace("[", "[[]"))
            here = [match for match in matches if match.endswith(".tar") and os.path.isfile(match)]
        found += here
        missing += [] if here else [pattern]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(wanted):,} shards are missing, the first is {missing[0]}"
            if len(wanted) > 1
            else f"there is no shard {path}",
            fix="fetch them, or correct the path",
        )
    return found


def _in_folder(path: str) -> list[str]:
    try:
        names = [name for name in os.listdir(path) if not name.startswith(".")]
    except OSError as error:
        raise DataError(f"folder {path} cannot be read", why=error.strerror or str(error)) from error
    if packed := sorted(name for name in names if name.endswith(COMPRESSED)):
        raise DataError(
            f"{path} has compressed shards, the first is {packed[0]}",
            why="a compressed tar has no random access",
            fix="unpack them, or name the others by a pattern",
        )
    found = [os.path.join(path, name) for name in names if name.endswith(".tar")]
    if not found:
        holds = f"it holds {', '.join(sorted(names)[:3])}" if names else "it is empty"
        raise DataError(f"{path} has no tar shards", why=holds, fix="check the path; *.tar is expected right in it")
    return found


def _braces(path: str) -> Iterator[str]:
    """Every path that the braces stand for; zeros at the front say how many digits a number has."""
    found = re.search(r"\{([0-9]+)\.\.([0-9]+)\}|\{([^{}]*,[^{}]*)\}", path)
    if found is None:
        yield path
        return
    first, last, names = found.groups()
    choices: Iterable[str] = ()
    if names is not None:
        choices = names.split(",")
    else:
        if int(first) > int(last):
            raise ConfigError(f"the range {found.group()} of {path} runs backwards", fix="write the smaller one first")
        padded = any(number.startswith("0") and len(number) > 1 for number in (first, last))
        digits = max(len(first), len(last)) if padded else 0
        choices = (f"{number:0{digits}d}" for number in range(int(first), int(last) + 1))
    for choice in choices:
        yield from (path[: found.start()] + choice + rest for rest in _braces(path[found.end() :]))
