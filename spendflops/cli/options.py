"""What verbs that take plugins share: options of a plugin, and data by name, path and split."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.contracts.dataset import Dataset


def define(known: flags.FlagValues) -> None:
    """Adds ``--option``."""
    flags.DEFINE_multi_string("option", [], "An option of the plugin, NAME=VALUE; may be repeated.", flag_values=known)


def parse(texts: Sequence[str]) -> dict[str, Any]:
    """The options that ``--option NAME=VALUE`` gave: Python literals, or text without quotes."""
    return dict(_option(text) for text in texts)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise errors.ConfigError(f"--option {text!r} has no value", fix="--option NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # text without quotes


def dataset_class(name: str, given: Sequence[str]) -> type[Dataset]:
    """The class of a data set that takes the options ``given``.

    Raises:
        errors.ConfigError: Unknown, or an option that it does not have.
    """
    from spendflops.contracts import conformity, registry

    cls = registry.load("datasets", name)
    known = list(conformity.options("datasets", cls))
    for option in given:
        if option not in known:
            raise errors.ConfigError(
                f"data set {name!r} has no option {option!r}{errors.suggest(option, known)}",
                why=f"its options are {', '.join(known) or 'none'}",
            )
    needed = inspect.signature(cls).parameters
    absent = [n for n, p in needed.items() if p.default is p.empty and n not in given]
    if absent:
        path = " (its path: write NAME:PATH)" if absent == ["path"] else ""
        raise errors.ConfigError(f"data set {name!r} needs {', '.join(absent)}{path}", fix=f"--option {absent[0]}=...")
    return cls


def dataset(text: str, options: Sequence[str] = ()) -> Dataset:
    """The data set that ``NAME`` or ``NAME:PATH`` means."""
    name, _, path = text.partition(":")
    given = parse(options) | ({"path": path} if path else {})
    return dataset_class(name, list(given))(**given)


def split_of(data: Dataset, wanted: str | None) -> str:
    """``wanted``, else the only split of the data."""
    # A folder does not state its sizes: its only split is `all`, and it says itself if it has others.
    names = list(data.info.sizes) or ["all"]
    if wanted is None and len(names) != 1:
        raise errors.ConfigError(f"{data.info.name} has the splits {', '.join(names)}", fix="choose one with --split")
    return wanted or names[0]
