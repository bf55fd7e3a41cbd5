"""What gin can name: the core's own configurables, and the plugins that a configuration names.

A plugin's constructor is never shown to gin. gin sees a factory with the plugin's own options; calling it gives, for
backbones and objectives, a ``functools.partial`` of the class (the core builds those), for all else an instance.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from spendflops.config import types
from spendflops.config.scan import Binding, Macro, Scan
from spendflops.contracts import conformity, errors, registry

CORE = {
    "Recipe": "spendflops.engine.recipe:Recipe",
    "Stage": "spendflops.engine.recipe:Stage",
    "Evaluation": "spendflops.engine.recipe:Evaluation",
    "InitFrom": "spendflops.engine.recipe:InitFrom",
    "Study": "spendflops.study.grid:Study",
    "optim.adamw": "spendflops.engine.optim:adamw",
    "optim.sgd": "spendflops.engine.optim:sgd",
    "optim.lars": "spendflops.engine.optim:lars",
    "optim.clip": "spendflops.engine.optim:Clip",
    "optim.group": "spendflops.contracts.objective:Group",
    "schedules.constant": "spendflops.engine.schedules:Constant",
    "schedules.warmup_cosine": "spendflops.engine.schedules:WarmupCosine",
    "schedules.warmup_poly": "spendflops.engine.schedules:WarmupPoly",
    "schedules.scaled_lr": "spendflops.engine.schedules:scaled_lr",
}
"""Selector -> ``module:name``; imported when a configuration names it."""

SLOTS = {
    ("Stage", "backbone"): "backbones",
    ("Stage", "objective"): "objectives",
    ("Stage", "dataset"): "datasets",
    ("Evaluation", "evaluator"): "evaluators",
}
"""Where a string ``'package.module:Class'`` or ``'name@distribution'`` names a plugin, and of which group."""

PLUGINS = "plugins."
"""``plugins.objectives.NAME = 'package.module:Class'`` says where ``objectives.NAME`` comes from."""

UNBUILT = ("backbones", "objectives")
"""Groups that the core builds itself: referenced without ``()``."""


@dataclasses.dataclass(frozen=True)
class Configurable:
    """One thing that gin can call.

    Attributes:
        selector: Its full name.
        group: Of a plugin, else ``"core"``.
        target: Class or function.
        parameters: What a binding can set.
        hints: Their annotations, as far as they can be resolved.
    """

    selector: str
    group: str
    target: Any
    parameters: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]

    @property
    def unbuilt(self) -> bool:
        return self.group in UNBUILT

    @property
    def required(self) -> list[str]:
        """Parameters without a default."""
        return [name for name, p in self.parameters.items() if p.default is p.empty]

    def make(self, options: Mapping[str, Any]) -> Any:
        return functools.partial(self.target, **options) if self.unbuilt else self.target(**options)


def is_unbuilt(selector: str) -> bool:
    """Whether references to ``selector`` go without ``()``."""
    group, _, name = selector.partition(".")
    return group in UNBUILT and "." not in name


def load_named(scan: Scan) -> tuple[dict[str, Configurable], dict[tuple[str, str], str]]:
    """The configurables that the statements name, and the selectors of plugins that are named by strings.

    Returns:
        Configurables by selector, and (group, string) -> selector.

    Raises:
        errors.ConfigError: An unknown selector, with its place.
        errors.PluginError: A plugin that is unknown, ambiguous, broken or no plugin.
    """
    strings = _strings(scan)
    origins = _declared(scan)
    for (group, string), binding in strings.items():
        selector = string_selector(group, string)
        other = origins.setdefault(selector, (string, binding))
        if other[0] != string:
            raise errors.ConfigError(
                f"{binding.place}: {string!r} and {other[0]!r} would both be called {selector}",
                why=f"the other is at {other[1].place}",
                fix=f"give one another name: {PLUGINS}{group}.NAME = {string!r}, and reference NAME",
            )
    found: dict[str, Configurable] = {}
    for selector, binding in {**scan.selectors, **{s: b for s, (_, b) in origins.items()}}.items():
        try:
            if selector.startswith(PLUGINS):
                found[selector] = _declaration(selector, scan)
            else:
                origin = origins.get(".".join(selector.split(".")[:2]))
                found[selector] = _load(selector, origin[0] if origin else None)
        except errors.ConfigError as error:
            raise type(error)(f"{binding.place}: {error.what}", why=error.why, fix=error.fix) from error
    return found, {key: string_selector(*key) for key in strings}


def _declared(scan: Scan) -> dict[str, tuple[str, Binding]]:
    """Selector -> the string that names its class, and the line that says so."""
    found = {}
    for binding in scan.effective.values():
        if not binding.selector.startswith(PLUGINS):
            continue
        selector = f"{binding.selector.removeprefix(PLUGINS)}.{binding.parameter}"
        if selector not in scan.selectors and f"{selector}.views" not in scan.selectors:
            raise errors.ConfigError(
                f"{binding.place}: {binding} is never used", fix=f"reference it as @{selector}, or delete the line"
            )
        if not isinstance(binding.value, str) or not (":" in binding.value or "@" in binding.value):
            raise errors.ConfigError(
                f"{binding.place}: {binding} cannot be {binding.value!r}",
                fix="write 'package.module:Class' or 'name@distribution'",
            )
        found[selector] = (binding.value, binding)
    return found


def _declaration(selector: str, scan: Scan) -> Configurable:
    group = selector.removeprefix(PLUGINS)
    if group not in registry.GROUPS:
        raise errors.ConfigError(f"nothing is called {selector!r}{errors.suggest(group, registry.GROUPS)}")
    keyword = inspect.Parameter.KEYWORD_ONLY
    names = {b.parameter: inspect.Parameter(b.parameter, keyword) for b in scan.bindings if b.selector == selector}
    return Configurable(selector, "core", dict, names, {})


def string_selector(group: str, string: str) -> str:
    """``objectives.MyMethod`` for ``'package.module:MyMethod'``, ``objectives.mae`` for ``'mae@distribution'``."""
    name = string.rpartition(":")[2].rpartition(".")[2] if ":" in string else string.partition("@")[0]
    return f"{group}.{name}"


def _strings(scan: Scan) -> dict[tuple[str, str], Binding]:
    macros, found = scan.macros, {}
    for binding in scan.effective.values():
        group = SLOTS.get((binding.selector, binding.parameter))
        value, seen = binding.value, set()
        while isinstance(value, Macro) and value.name in macros and value.name not in seen:
            seen.add(value.name)
            value = macros[value.name].value
        if group and isinstance(value, str) and (":" in value or "@" in value):
            found.setdefault((group, value), binding)
    return found


def _load(selector: str, given: str | None) -> Configurable:
    """One configurable; ``given`` is the string that names the class of a plugin outside the entry points."""
    if selector in CORE:
        module, _, name = CORE[selector].partition(":")
        target = getattr(importlib.import_module(module), name)
        return _configurable(selector, "core", target, inspect.signature(target).parameters)
    group, *names = selector.split(".")
    is_views = group == "objectives" and names[1:] == ["views"]
    if group not in registry.GROUPS or not (len(names) == 1 or is_views):
        raise errors.ConfigError(
            f"nothing is called {selector!r}{_nearest(selector)}",
            fix="selectors are written in full, as `spendflops plugins` lists them",
        )
    plugin = registry.load(group, given or names[0])
    if is_views:
        return _configurable(selector, "views", plugin.views, inspect.signature(plugin.views).parameters)
    return _configurable(selector, group, plugin, conformity.options(group, plugin))


def _configurable(selector: str, group: str, target: Any, parameters: Mapping[str, Any]) -> Configurable:
    return Configurable(selector, group, target, dict(parameters), types.hints(target))


def _nearest(selector: str) -> str:
    known = [*CORE, *(e.selector for e in registry.entries())]
    known += [f"{name}.views" for name in known if name.startswith("objectives.")]
    tails = [name for name in known if name.endswith(f".{selector}")]
    return f" (did you mean {tails[0]!r}?)" if tails else errors.suggest(selector, known)
