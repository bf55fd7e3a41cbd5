"""Names on the command line, presets and user files, put together as one text that gin can read.

A name is first a preset (``gin/methods/mae.gin`` for the objective ``mae``), else an entry point with its defaults.
Later wins: recipe, model, method, data, user files, flags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from spendflops.config import presets
from spendflops.config.cage import build
from spendflops.config.core import PLUGINS, selector_of, unbuilt
from spendflops.config.scan import MACRO, Key, Reference, Source, join, label, read, scan, split
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


def compose(
    *,
    objective: str | None = None,
    backbone: str | None = None,
    dataset: str | None = None,
    eval_dataset: str | None = None,
    budget: str | float | None = None,
    gin_files: Sequence[str] = (),
    bindings: Sequence[str] = (),
    base: str | None = None,
) -> Composition:
    """Puts a configuration together; imports no plugin.

    Args:
        objective: Preset, entry point, ``name@distribution`` or ``package.module:Class``.
        backbone: Likewise.
        dataset: Likewise; ``name:path`` gives the constructor's ``path``.
        eval_dataset: Likewise; by default the preset's own, else the data set.
        budget: ``3e18``, ``"20 epochs"``.
        gin_files: Files, or presets by their path below ``gin/``.
        bindings: Statements in gin.
        base: The recipe's file. By default ``recipes/pretrain.gin`` if there is an objective, else none.

    Raises:
        errors.ConfigError: An unknown name, a file that is not there, a syntax error.
    """
    base = base or (BASE if objective else None)
    named = (
        ("backbone", backbone, _backbone),
        ("objective", objective, _objective),
        ("dataset", dataset, _dataset),
        ("eval_dataset", eval_dataset, _eval_dataset),
    )
    choices = [(flag, name, *choose(name)) for flag, name, choose in named if name]
    sources = read(base) if base else []
    for _, _, choice, _ in choices:
        sources += choice.files
    defines_eval = eval_dataset or EVAL_DATASET in scan(sources).macros
    # What a name selects stands after all presets, under the name of its flag: a flag without effect is an error.
    sources += [Source(f"--{flag}", "\n".join([*choice.lines, *lines]) + "\n") for flag, _, choice, lines in choices]
    if dataset and not defines_eval:
        sources.append(Source("--dataset", f"{EVAL_DATASET} = %{DATASET}\n", preset=True))
    for file in gin_files:
        sources += read(file)
    if budget is not None:
        sources.append(Source("--budget", f"Recipe.budget = {str(budget)!r}\n"))
    sources += split("\n".join(bindings) + "\n", name="--gin") if bindings else []
    return Composition(tuple(sources), tuple(f"{flag} {name}: {choice.said}" for flag, name, choice, _ in choices))


def load(composition: Composition, *, root: str = "Recipe") -> Loaded:
    """Builds the recipe or the study; nothing is compiled and nothing of gin stays behind.

    Raises:
        errors.ConfigError: Any mistake, with its file and line.
    """
    made, operative = build(composition.sources, root)
    return Loaded(made, composition.given, operative, describe(made), composition.chosen)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What a name stands for: the value that it selects, a preset's files, what to print, where a plugin comes from."""

    value: Any
    files: list[Source]
    said: str
    lines: list[str]


def _choose(group: str, name: str, key: Key) -> _Choice:
    """A preset, in which ``key`` is bound to the value, or else a plugin."""
    bare, _, distribution = name.partition("@")
    kind, file = presets.KINDS[group], f"{presets.KINDS[group]}/{bare}.gin"
    if ":" in name:
        selector = selector_of(group, name)
        said, origin = f"the class {name} with its defaults", name
    elif presets.resolve(file):
        files = [dataclasses.replace(source, preset=True) for source in read(file)]
        binding = scan(files).effective.get(key)
        if binding is None:
            wanted = key[0] if key[1] == MACRO else label(*key)
            raise errors.ConfigError(f"the preset {files[-1].name} does not bind {wanted}", fix=f"add `{wanted} = ...`")
        selector = binding.value.selector if isinstance(binding.value, Reference) else ""
        origin = f"{selector.partition('.')[2]}@{distribution}" if distribution else ""
        if origin:
            registry.find(group, origin)
        lines = [f"{PLUGINS}{selector} = {origin!r}"] if origin else []
        return _Choice(binding.value, files, f"preset {files[-1].name}", lines)
    else:
        known = sorted({*presets.names(kind), *(e.name for e in registry.entries((group,)))})
        if bare not in known:
            raise errors.PluginError(
                f"unknown {group.rstrip('s')} {name!r}{errors.suggest(bare, known)}",
                why=f"presets in {kind}/ and installed {group}: {', '.join(known) or 'none'}",
                fix="a plugin that was just added needs `pip install -e .` again",
            )
        entry = registry.find(group, name)
        selector, origin = entry.selector, name if distribution else ""
        said = f"{selector} of {entry.distribution} {entry.version} with its defaults"
    lines = [f"{PLUGINS}{selector} = {origin!r}"] if origin else []
    return _Choice(Reference("", selector, not unbuilt(selector)), [], said, lines)


def _backbone(name: str) -> tuple[_Choice, list[str]]:
    choice = _choose("backbones", name, ("", "Stage", "backbone"))
    return choice, [f"Stage.backbone = {choice.value!r}"]


def _objective(name: str) -> tuple[_Choice, list[str]]:
    bare = name.partition("@")[0]
    choice = _choose("objectives", name, (bare, "Stage", "objective"))
    scope = bare if choice.files else choice.value.selector.partition(".")[2]
    views = [] if choice.files else [f"{scope}/Stage.views = @{choice.value.selector}.views()"]
    return choice, [f"{STAGE} = @{scope}/Stage()", f"{scope}/Stage.objective = {choice.value!r}", *views]


def _dataset(name: str, macro: str = DATASET) -> tuple[_Choice, list[str]]:
    head, _, path = name.partition(":")
    known = {*presets.names("data"), *(e.name for e in registry.entries(("datasets",)))}
    # `folder:photos` is a data set and its path, `my_module:Class` is a class.
    if path and head.partition("@")[0] not in known and ("." in head or (path.isidentifier() and path[0].isupper())):
        head, path = name, ""
    choice = _choose("datasets", head, (DATASET, MACRO, "value"))
    value = choice.value if choice.files else dataclasses.replace(choice.value, scope=macro.lower())
    lines = [f"{macro} = {value!r}"]
    if path and not isinstance(value, Reference):
        raise errors.ConfigError(f"{name!r}: this preset is no single data set, so it takes no path")
    if path:
        choice = dataclasses.replace(choice, said=f"{choice.said}, path = {path!r}")
        lines.append(f"{label(value.scope, value.selector, 'path')} = {path!r}")
    return choice, lines


def _eval_dataset(name: str) -> tuple[_Choice, list[str]]:
    return _dataset(name, EVAL_DATASET)
