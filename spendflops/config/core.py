"""What gin can name: the core's own configurables, and the plugins that a configuration names."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from spendflops.config import types
from spendflops.config.scan import Macro, Reference, Scan, Source
from spendflops.contracts import conformity, errors, registry

CORE = {
    "Recipe": "spendflops.engine.recipe:Recipe",
    "Stage": "spendflops.engine.recipe:Stage",
    "Evaluation": "spendflops.engine.recipe:Evaluation",
    "Probe": "spendflops.engine.recipe:Probe",
    "InitFrom": "spendflops.engine.recipe:InitFrom",
    "Mesh": "spendflops.engine.sharding:Mesh",
    "Study": "spendflops.study.grid:Study",
    "Transfer": "spendflops.study.transfers:Transfer",
    "sweep": "spendflops.study.transfers:sweep",
    "halving": "spendflops.study.halving:Rule",
    "optim.adamw": "spendflops.engine.optim:adamw",
    "optim.sgd": "spendflops.engine.optim:sgd",
    "optim.lars": "spendflops.engine.optim:lars",
    "optim.clip": "spendflops.engine.optim:Clip",
    "optim.group": "spendflops.contracts.objective:Group",
    "optim.layer_decay": "spendflops.engine.layer_decay:layer_decay",
    "schedules.constant": "spendflops.parts.schedules:Constant",
    "schedules.warmup_cosine": "spendflops.parts.schedules:WarmupCosine",
    "schedules.cosine": "spendflops.parts.schedules:Cosine",
    "schedules.multistep": "spendflops.parts.schedules:MultiStep",
    "schedules.warmup_poly": "spendflops.parts.schedules:WarmupPoly",
    "schedules.wsd": "spendflops.parts.schedules:WarmupStableDecay",
    "schedules.scaled_lr": "spendflops.parts.schedules:scaled_lr",
}
"""Selector -> ``module:name``; imported when a configuration names it."""

SLOTS = {
    ("Stage", "backbone"): "backbones",
    ("Stage", "objective"): "objectives",
    ("Stage", "dataset"): "datasets",
    ("Evaluation", "evaluator"): "evaluators",
}
"""Parameters that take a plugin, and of which group."""

PLUGINS = "plugins."
"""``plugins.objectives.NAME = 'package.module:Class'`` (or ``'name@distribution'``) says where a plugin comes from."""


@dataclasses.dataclass(frozen=True)
class Configurable:
    """One thing that gin can call: it has the options of a class or function, without what the core gives.

    Attributes:
        selector: Its full name.
        target: Class or function.
        parameters: What a binding can set.
        hints: Their annotations, as far as they can be resolved.
    """

    selector: str
    target: Any
    parameters: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]

    def make(self, options: Mapping[str, Any]) -> Any:
        """An instance; of a backbone or an objective, which the core builds, the class with its options bound."""
        return functools.partial(self.target, **options) if unbuilt(self.selector) else self.target(**options)


def unbuilt(selector: str) -> bool:
    """Whether the core builds it: then it is referenced without ``()``."""
    group, _, name = selector.partition(".")
    return group in ("backbones", "objectives") and "." not in name


def selector_of(group: str, string: str) -> str:
    """``objectives.MyMethod`` for ``'package.module:MyMethod'``, ``objectives.mae`` for ``'mae@distribution'``."""
    return f"{group}.{string.rpartition(':')[2].rpartition('.')[2].partition('@')[0]}"


def named_by_strings(scan: Scan) -> Iterator[Source]:
    """Strings in the place of a plugin, as a declaration and a reference at the same line.

    Raises:
        errors.ConfigError: Two strings that stand for two plugins of one name.
    """
    names: dict[str, str] = {}
    for binding in scan.effective.values():
        group, origin = SLOTS.get((binding.selector, binding.parameter)), binding
        for _ in scan.macros:  # A macro of a macro; the number bounds a circle.
            is_macro = isinstance(origin.value, Macro)
            origin = scan.macros.get(origin.value.name, origin) if is_macro else origin
        if group and isinstance(origin.value, str) and {":", "@"} & set(origin.value):
            selector = selector_of(group, origin.value)
            if names.setdefault(selector, origin.value) != origin.value:
                raise errors.ConfigError(
                    f"{origin.place}: {names[selector]!r} and {origin.value!r} would both be called {selector}",
                    fix=f"write {PLUGINS}{group}.NAME = {origin.value!r} and reference @{group}.NAME",
                )
            reference = Reference("", selector, not unbuilt(selector))
            before = "\n" * (origin.line - 1)
            yield Source(origin.file, f"{before}{PLUGINS}{selector} = {origin.value!r}\n", origin.line, origin.preset)
            yield Source(origin.file, f"{before}{origin} = {reference!r}\n", origin.line, origin.preset)


def load_named(scan: Scan) -> dict[str, Configurable]:
    """The configurables that the statements name, by selector; no other plugin is imported.

    Raises:
        errors.ConfigError: An unknown selector, with its place.
        errors.PluginError: A plugin that is unknown, ambiguous, broken or no plugin.
    """
    origins = {f"{b.selector[len(PLUGINS) :]}.{b.parameter}": b for b in scan.effective.values() if _declares(b)}
    found: dict[str, Configurable] = {}
    for selector, binding in {**scan.selectors, **origins}.items():
        origin = origins.get(".".join(selector.split(".")[:2]))
        try:
            if origin is binding and not {selector, f"{selector}.views"} & set(scan.selectors):
                raise errors.ConfigError(f"{binding} is never used", fix=f"delete the line, or reference @{selector}")
            found[selector] = _load(selector, origin.value if origin else None, scan)
        except errors.ConfigError as error:
            raise type(error)(f"{binding.place}: {error.what}", why=error.why, fix=error.fix) from error
    return found


def _declares(binding: Any) -> bool:
    return binding.selector.startswith(PLUGINS)


def _load(selector: str, origin: str | None, scan: Scan) -> Configurable:
    """One configurable; ``origin`` is the string that says where its plugin comes from."""
    group, *names = selector.split(".")
    target: Any
    if selector in CORE:
        module, _, name = CORE[selector].partition(":")
        target = getattr(importlib.import_module(module), name)
    elif selector in [PLUGINS + g for g in registry.GROUPS]:
        declared = [b.parameter for b in scan.bindings if b.selector == selector]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return Configurable(
            selector, dict, {n: inspect.Parameter(n, keyword) for n in declared}, dict.fromkeys(declared, str)
        )
    elif group in registry.GROUPS and len(names) == 1:
        target = registry.load(group, names[0] if origin is None else str(origin))
        return Configurable(selector, target, conformity.options(group, target), types.hints(target))
    elif group == "objectives" and names[1:] == ["views"]:
        plugin: Any = registry.load(group, names[0] if origin is None else str(origin))
        target = plugin.views
    else:
        known = [*CORE, *(e.selector for e in registry.entries())]
        known += [f"{name}.views" for name in known if name.startswith("objectives.")]
        tail = next((f" (did you mean {name!r}?)" for name in known if name.endswith(f".{selector}")), None)
        raise errors.ConfigError(
            f"nothing is called {selector!r}{tail or errors.suggest(selector, known)}",
            fix="selectors are written in full, as `spendflops plugins` lists them",
        )
    return Configurable(selector, target, dict(inspect.signature(target).parameters), types.hints(target))
