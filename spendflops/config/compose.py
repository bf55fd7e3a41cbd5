"""Names on the command line, presets and user files, put together as one text that gin can read.

A name is first a preset (``gin/methods/mae.gin`` for the objective ``mae``), else an entry point with its defaults.
Later wins: recipe, model, method, data, user files, flags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spendflops.config import presets
from spendflops.config.cage import build
from spendflops.config.core import PLUGINS, string_selector
from spendflops.config.scan import FLAGS, Macro, Reference, Source, join, read, scan, split
from spendflops.contracts import errors, registry
from spendflops.engine.describe import describe

BASE = "recipes/pretrain.gin"
STAGE, DATASET, EVAL_DATASET = "STAGE", "DATASET", "EVAL_DATASET"
"""Macros of the recipes, which names on the command line define."""


@dataclasses.dataclass(frozen=True)
class Composition:
    """All text of a configuration, in order.

    Attributes:
        sources: Pieces of files and flags.
        chosen: Lines to print: what each name was taken for.
    """

    sources: tuple[Source, ...]
    chosen: tuple[str, ...] = ()

    @property
    def given(self) -> str:
        """The text as given, in one piece; a file with it is the same configuration."""
        return join(self.sources)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A configuration that was built.

    Attributes:
        object: The recipe or study; nothing of gin is left in it.
        given: The text as given.
        operative: What was used, defaults among it, as gin text.
        json: The description of ``object``.
        chosen: What each name was taken for.
    """

    object: Any
    given: str
    operative: str
    json: Any
    chosen: tuple[str, ...]


@dataclasses.dataclass
class _Choice:
    """A name of the command line: the files that it brings and the lines that select it."""

    said: str
    files: list[Source]
    lines: list[str]


def compose(
    *,
    objective: str | None = None,
    backbone: str | None = None,
    dataset: str | None = None,
    eval_dataset: str | None = None,
    budget: str | None = None,
    gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (),
    base: str | None = None,
) -> Composition:
    """Puts a configuration together; imports no plugin.

    Args:
        objective: Preset, entry point, ``name@distribution`` or ``package.module:Class``.
        backbone: Likewise.
        dataset: Likewise; ``name:path`` gives the constructor's ``path``.
        eval_dataset: Likewise.
        budget: ``3e18``, ``"20 epochs"``.
        gin_files: Files, or presets by their path below ``gin/``.
        bindings: Statements in gin.
        base: The recipe's file. By default ``recipes/pretrain.gin`` if there is an objective, else none.

    Raises:
        errors.ConfigError: An unknown name, a file that is not there, a syntax error.
    """
    base = base or (BASE if objective else None)
    named = [("backbone", backbone, _backbone), ("objective", objective, _objective), ("dataset", dataset, _dataset)]
    named += [("eval_dataset", eval_dataset, lambda name: _dataset(name, EVAL_DATASET))]
    choices = [(flag, name, choose(name)) for flag, name, choose in named if name]
    sources = _file(base) if base else []
    for _, _, choice in choices:
        sources += choice.files
    for flag, _, choice in choices:
        sources.append(Source(f"--{flag}", "\n".join(choice.lines) + "\n"))
    if dataset and not eval_dataset and EVAL_DATASET not in scan(sources).macros:
        sources.append(Source("--dataset", f"\n\n\n\n{EVAL_DATASET} = %{DATASET}\n", line=5, preset=True))
    for file in gin_files:
        sources += _file(file)
    if budget is not None:
        sources.append(Source("--budget", f"Recipe.budget = {str(budget)!r}\n"))
    if bindings:
        sources += split("\n".join(bindings) + "\n", name=FLAGS)
    return Composition(tuple(sources), tuple(f"{flag} {name}: {choice.said}" for flag, name, choice in choices))


def load(composition: Composition, *, root: str = "Recipe") -> Loaded:
    """Builds the recipe or the study; nothing is compiled and nothing of gin stays behind.

    Raises:
        errors.ConfigError: Any mistake, with its file and line.
    """
    built = build(composition.sources, root)
    return Loaded(
        object=built.object,
        given=composition.given,
        operative=built.operative,
        json=describe(built.object),
        chosen=composition.chosen,
    )


def _file(name: str) -> list[Source]:
    found = presets.resolve(name)
    if found is None:
        raise errors.ConfigError(
            f"there is no gin file {name!r}{errors.suggest(name, presets.relative_names())}",
            why="searched: " + ", ".join(presets.searched()),
        )
    path, shown, library = found
    return read(Path(path), name=shown, preset=library)


def _preset(group: str, name: str) -> list[Source]:
    """The files of a preset, or nothing where there is no such preset."""
    found = presets.resolve(f"{presets.KINDS[group]}/{name}.gin")
    return read(found[0], name=found[1], preset=True) if found else []


def _plugin(group: str, name: str) -> tuple[str, str, list[str]]:
    """(selector, what to print, the line that says where it comes from) of a plugin without a preset."""
    if ":" in name:
        selector = string_selector(group, name)
        return selector, f"the class {name} with its defaults", [_origin(selector, name)]
    known = sorted({*presets.names(presets.KINDS[group]), *(e.name for e in registry.entries((group,)))})
    try:
        entry = registry.find(group, name)
    except errors.PluginError as error:
        if name.partition("@")[0] in known:
            raise
        raise errors.PluginError(
            f"unknown {group.rstrip('s')} {name!r}{errors.suggest(name, known)}",
            why=f"presets in {presets.KINDS[group]}/ and installed {group}: {', '.join(known) or 'none'}",
            fix=error.fix,
        ) from None
    lines = [_origin(entry.selector, name)] if "@" in name else []
    return entry.selector, f"{entry.selector} of {entry.distribution} {entry.version} with its defaults", lines


def _origin(selector: str, string: str) -> str:
    return f"{PLUGINS}{selector} = {string!r}"


def _main(files: list[Source], group: str, key: tuple[str, str, str], distribution: str) -> tuple[Any, str, list[str]]:
    """What a preset binds ``key`` to, what to print, and the line that chooses a distribution."""
    binding = scan(files).effective.get(key)
    wanted = f"{key[0]}/Stage.{key[2]}".lstrip("/") if key[1] == "Stage" else key[0]
    if binding is None:
        raise errors.ConfigError(f"the preset {files[-1].name} does not bind {wanted}", fix=f"add `{wanted} = ...`")
    value, lines = binding.value, []
    if distribution:
        if not isinstance(value, Reference):
            raise errors.ConfigError(f"{binding.place}: no distribution can be chosen for {value!r}")
        plugin = f"{value.selector.removeprefix(group + '.')}@{distribution}"
        registry.find(group, plugin)
        lines = [_origin(value.selector, plugin)]
    return value, f"preset {files[-1].name}", lines


def _backbone(name: str) -> _Choice:
    bare, _, distribution = name.partition("@")
    if files := _preset("backbones", bare):
        value, said, lines = _main(files, "backbones", ("", "Stage", "backbone"), distribution)
        return _Choice(said, files, [*lines, f"Stage.backbone = {value!r}"])
    selector, said, lines = _plugin("backbones", name)
    return _Choice(said, [], [*lines, f"Stage.backbone = @{selector}"])


def _objective(name: str) -> _Choice:
    bare, _, distribution = name.partition("@")
    if files := _preset("objectives", bare):
        value, said, lines = _main(files, "objectives", (bare, "Stage", "objective"), distribution)
        return _Choice(said, files, [*lines, f"{STAGE} = @{bare}/Stage()", f"{bare}/Stage.objective = {value!r}"])
    selector, said, lines = _plugin("objectives", name)
    scope = selector.removeprefix("objectives.")
    lines += [f"{STAGE} = @{scope}/Stage()", f"{scope}/Stage.objective = @{selector}"]
    return _Choice(said, [], [*lines, f"{scope}/Stage.views = @{selector}.views()"])


def _dataset(name: str, macro: str = DATASET) -> _Choice:
    head, colon, path = name.partition(":")
    bare, _, distribution = head.partition("@")
    known = {e.name for e in registry.entries(("datasets",))}
    files = _preset("datasets", bare)
    if files:
        value, said, lines = _main(files, "datasets", (DATASET, "gin.macro", "value"), distribution)
        scope, selector = (value.scope, value.selector) if isinstance(value, Reference) else ("", "")
    else:
        # `folder:photos` is a data set and its path; `my.module:Class` is a class.
        with_path = bool(colon) and (bare in known or "." not in head)
        selector, said, lines = _plugin("datasets", head if with_path else name)
        scope = "data" if macro == DATASET else "eval_data"
        value, path = Reference(scope, selector, True), path if with_path else ""
    lines = [*lines, f"{macro} = {value!r}"]
    if path:
        if isinstance(value, Macro) or not selector:
            raise errors.ConfigError(f"{name!r}: this preset is no single data set, so it takes no path")
        lines.append(f"{scope + '/' if scope else ''}{selector}.path = {path!r}")
        said += f", path = {path!r}"
    return _Choice(said, files, lines)
