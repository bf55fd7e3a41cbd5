"""What gin 0.5.0 accepts in silence, as errors with the line, the reason and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from typing import Any

from spendflops.config.core import CORE, SLOTS, Configurable, unbuilt
from spendflops.config.scan import Binding, Key, Macro, Reference, Scan, label, within
from spendflops.contracts import errors

Calls = Mapping[tuple[str, str], Any]
"""(scope, selector) of everything that was built."""

_FLAGS = {"DATASET": "give --dataset", "EVAL_DATASET": "give --eval_dataset", "STAGE": "give --objective"}
"""Macros of recipes that names on the command line define."""

_NEAR = 0.75
"""Similarity from which an unused macro of a preset is taken for a misspelling of one that is used."""


def check_parameters(scan: Scan, known: Mapping[str, Configurable]) -> None:
    """Every bound parameter exists."""
    for binding in scan.bindings:
        names = [] if binding.is_macro else list(known[binding.selector].parameters)
        if not binding.is_macro and binding.parameter not in names:
            near = errors.suggest(binding.parameter, names)
            raise errors.ConfigError(
                f"{binding.place}: {binding.selector} has no parameter {binding.parameter!r}{near}",
                why=f"it has {', '.join(names) or 'none'}",
            )


def check_references(scan: Scan) -> None:
    """Backbones and objectives are referenced without ``()``, all else with it, and each plugin in its place."""
    for binding in scan.bindings:
        group = SLOTS.get((binding.selector, binding.parameter))
        if group and isinstance(binding.value, Reference) and binding.value.selector.split(".")[0] != group:
            raise errors.ConfigError(f"{binding.place}: {binding} = {binding.value!r} is none of the {group}")
        for reference in within(binding.value, Reference):
            if reference.evaluated is not unbuilt(reference.selector):
                continue
            right = Reference(reference.scope, reference.selector, not reference.evaluated)
            raise errors.ConfigError(
                f"{binding.place}: {reference!r} has {'extra' if reference.evaluated else 'no'} ()",
                why="the core builds backbones and objectives itself, from their options"
                if reference.evaluated
                else "without () it is the class, with () an instance of it; the core wants the instance",
                fix=f"write {right!r}",
            )


def check_macros(scan: Scan) -> None:
    """Every macro that is referenced is defined, and everything that must be overridden is."""
    uses = [(b, m.name) for b in scan.effective.values() for m in within(b.value, Macro)]
    unset = [b for b, name in uses if name in ("gin.REQUIRED", "REQUIRED")]
    if unset:
        raise errors.ConfigError(
            f"not given: {', '.join(map(str, unset))}",
            why="; ".join(f"{b.place} asks for {b}" for b in unset),
            fix=" ".join(f"--gin '{b} = ...'" for b in unset),
        )
    for binding, name in uses:
        if name not in scan.macros:
            raise errors.ConfigError(
                f"{binding.place}: the macro %{name} is not defined{errors.suggest(name, [*scan.macros])}",
                why=f"macros that are defined: {', '.join(sorted(scan.macros)) or 'none'}",
                fix=f"{_FLAGS[name]}, or a line `{name} = ...`" if name in _FLAGS else f"add a line `{name} = ...`",
            )


def winner(effective: Mapping[Key, Binding], scope: str, selector: str, parameter: str) -> Binding | None:
    """The binding that a call in ``scope`` takes ``parameter`` from: the deepest that holds there."""
    steps = scope.split("/") if scope else []
    keys = (("/".join(steps[:depth]), selector, parameter) for depth in range(len(steps), -1, -1))
    return next((effective[key] for key in keys if key in effective), None)


def check_used(scan: Scan, calls: Calls) -> None:
    """Every effective binding had an effect on something that was built.

    A binding in scope S serves calls in S and below, unless a binding of the same parameter in a deeper scope is
    nearer. Bindings of presets are defaults. One that a nearer binding hides is overridden, as it would be by an equal
    key; one for a scope that this run does not use, or for a plugin that only a statement without effect references,
    is idle.
    """
    effective = scan.effective
    used = [winner(effective, scope, *key[1:]) for scope, selector in calls for key in effective if key[1] == selector]
    idle = [b for b in scan.bindings if b not in used]
    dropped = {r.selector for b in idle for r in within(b.value, Reference)}
    found = [(_macro(b, scan) if b.is_macro else _idle(b, scan, calls, dropped)) for b in idle if effective[b.key] is b]
    whys, fixes = [why for why, _ in filter(None, found)], [fix for _, fix in filter(None, found)]
    if whys:
        what = "a binding has no effect" if len(whys) == 1 else f"{len(whys)} bindings have no effect"
        raise errors.ConfigError(what, why="\n       ".join(whys), fix="\n       ".join(fixes))


def _covers(scope: str, inner: str) -> bool:
    return not scope or inner == scope or inner.startswith(scope + "/")


def _idle(binding: Binding, scan: Scan, calls: Calls, dropped: Set[str]) -> tuple[str, str] | None:
    """(why, fix) for a binding without effect; None where that is no mistake."""
    scopes = sorted({scope for scope, selector in calls if selector == binding.selector})
    served = [scope for scope in scopes if _covers(binding.scope, scope)]
    if binding.preset and (served or _excused(binding, scan, calls, dropped)):
        return None
    if served:
        nearer = {b.key: b for s in served if (b := winner(scan.effective, s, *binding.key[1:]))}.values()
        shown = ", ".join(f"{b.place} ({b} = {b.value!r})" for b in nearer)
        why = f"{binding.place}: {binding} is hidden by {shown}, which is nearer"
        return why, "write " + " ".join(f"{b} = {binding.value!r}" for b in nearer)
    if not scopes:
        why = f"{binding.place}: {binding}: nothing in this run builds {binding.selector}"
        right = Reference("", binding.selector, not unbuilt(binding.selector))
        return why, f"delete the line, or reference {right!r}"
    near = errors.suggest(binding.scope, [s for s in scopes if s])
    places = ", ".join(repr(s) if s else "no scope" for s in scopes)
    why = f"{binding.place}: {binding}: nothing builds {binding.selector} in scope {binding.scope!r}{near}"
    rights = " or ".join(label(s, binding.selector, binding.parameter) for s in scopes)
    return f"{why}; it is built in {places}", f"write {rights} = {binding.value!r}"


def _excused(binding: Binding, scan: Scan, calls: Calls, dropped: Set[str]) -> bool:
    """Whether a preset's binding is idle because its plugin or the scope of its file is not in this run."""
    first = binding.scope.split("/")[0]
    if any(_covers(first, scope) for scope, _ in calls):
        absent = all(selector != binding.selector for _, selector in calls) and binding.selector not in CORE
        return absent or binding.selector in dropped
    stem = binding.file.rpartition("/")[2].removesuffix(".gin")
    return first == stem or first in {r.scope.split("/")[0] for b in scan.bindings for r in within(b.value, Reference)}


def _macro(binding: Binding, scan: Scan) -> tuple[str, str] | None:
    name = binding.scope
    users = [b for b in scan.bindings if any(m.name == name for m in within(b.value, Macro))]
    used = {m.name for b in scan.effective.values() for m in within(b.value, Macro)}
    beside = {b.scope for b in scan.bindings if b.is_macro and b.file == binding.file}
    if binding.preset and (users or not difflib.get_close_matches(name, used - beside, n=1, cutoff=_NEAR)):
        return None
    if not users:
        return (
            f"{binding.place}: the macro {name} is defined and never referenced{errors.suggest(name, sorted(used))}",
            f"reference it as %{name}; a parameter is written selector.parameter = ...",
        )
    by = scan.effective[users[0].key]
    reason = "has no effect itself" if by is users[0] else f"{by.place} overrides"
    why = f"{binding.place}: the macro {name} is used only by {users[0].place} ({users[0]}), which {reason}"
    return why, f"delete the line, or write {by} = %{name}"
