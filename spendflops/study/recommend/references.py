"""Studies of others that come with the package: scores as published, FLOPs computed where the length is stated."""

from __future__ import annotations

import importlib.resources

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.study.frontier import table
from spendflops.study.points import Row

NAMES = {"where_flops": "Koppula et al. 2022 (arXiv 2209.15589), tables 1 and 2"}


def text(name: str) -> str:
    """The CSV of a reference study.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in NAMES:
        known = "; ".join(f"{known}: {what}" for known, what in NAMES.items())
        raise ConfigError(f"no reference study {name!r}{suggest(name, list(NAMES))}", why=known)
    file = importlib.resources.files("spendflops.study.recommend").joinpath(f"data/{name}.csv")
    return file.read_text(encoding="utf-8")


def rows(name: str) -> tuple[Row, ...]:
    """The rows of a reference study.

    Raises:
        ConfigError: There is none of this name.
    """
    return table.parse(text(name), name=name)
