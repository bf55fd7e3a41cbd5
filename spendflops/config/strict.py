"""What gin 0.5.0 accepts in silence, as errors with the line, the reason and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from typing import Any

from spendflops.config.core import CORE, Configurable, is_unbuilt
from spendflops.config.scan import Binding, Macro, Reference, Scan, label, within
from spendflops.contracts import errors

Calls = Mapping[tuple[str, str], Any]
"""(scope, selector) of everything that was built."""

_NEAR = 0.8
"""Similarity from which an unused macro of a preset is taken for a misspelling of one that is used."""


def check_parameters(scan: Scan, known: Mapping[str, Configurable]) -> None:
    """Every bound parameter exists."""
    for binding in scan.bindings:
        if binding.is_macro or binding.parameter in known[binding.selector].parameters:
            continue
        names = list(known[binding.selector].parameters)
        raise errors.ConfigError(
            f"{binding.place}: {binding.selector} has no parameter {binding.parameter!r}"
            f"{errors.suggest(binding.parameter, names)}",
            why=f"it has {', '.join(names) or 'none'}",
        )


def check_parentheses(scan: Scan) -> None:
    """Backbones and objectives are referenced without ``()``, everything else with it."""
    for binding in scan.bindings:
        for reference in within(binding.value, Reference):
            if reference.evaluated is not is_unbuilt(reference.selector):
                continue
            right = Reference(reference.scope, reference.selector, not reference.evaluated)
            why = (
                "the core builds backbones and objectives itself, from their options"
                if reference.evaluated
                else "without () it is the class, with () an instance of it; the core wants the instance"
            )
            raise errors.ConfigError(
                f"{binding.place}: {binding} = {reference!r} has {'extra' if reference.evaluated else 'no'} ()",
                why=why,
                fix=f"write {right!r}",
            )


def check_macros(scan: Scan) -> None:
    """Every macro that is referenced is defined, and everything that must be overridden is."""
    effective = scan.effective
    unset = [b for b in effective.values() if any(m.required for m in within(b.value, Macro))]
    if unset:
        raise errors.ConfigError(
            f"{', '.join(str(b) for b in unset)}: not given",
            why="; ".join(f"{b.place} asks for {b}" for b in unset),
            fix=" ".join(f"--gin '{b} = ...'" for b in unset),
        )
    for binding in effective.values():
        for macro in within(binding.value, Macro):
            if macro.name not in scan.macros:
                raise errors.ConfigError(
                    f"{binding.place}: the macro {macro!r} is not defined{errors.suggest(macro.name, [*scan.macros])}",
                    why=f"macros that are defined: {', '.join(sorted(scan.macros)) or 'none'}",
                    fix=f"add a line `{macro.name} = ...`",
                )


def check_used(scan: Scan, calls: Calls) -> None:
    """Every effective binding had an effect on something that was built.

    A binding in scope S serves calls in S and below, unless a binding of the same parameter in a deeper scope is
    nearer. Bindings of presets are defaults. One that a nearer binding hides is overridden, as it would be by an equal
    key; one for a scope that this run does not use, or for a plugin that only a statement without effect references,
    is idle.
    """
    effective = scan.effective
    used = {winner(effective, scope, selector, p) for scope, selector in calls for p in _bound(effective, selector)}
    idle = [b for b in scan.bindings if effective[b.key] is not b or b.key not in used]
    dropped = {r.selector for b in idle for r in within(b.value, Reference)}
    complaints = [_complaint(b, scan, calls, dropped) for b in idle if effective[b.key] is b]
    complaints = [c for c in complaints if c]
    if complaints:
        what = "a binding has" if len(complaints) == 1 else f"{len(complaints)} bindings have"
        whys, fixes = zip(*complaints, strict=True)
        raise errors.ConfigError(
            f"{what} no effect", why="\n       ".join(whys), fix="\n       ".join(dict.fromkeys(filter(None, fixes)))
        )


def winner(
    effective: Mapping[tuple[str, str, str], Binding], scope: str, selector: str, parameter: str
) -> tuple[str, str, str] | None:
    """The key of the binding that a call in ``scope`` takes ``parameter`` from: the deepest that holds."""
    steps = scope.split("/") if scope else []
    for depth in range(len(steps), -1, -1):
        key = ("/".join(steps[:depth]), selector, parameter)
        if key in effective:
            return key
    return None


def _bound(effective: Mapping[tuple[str, str, str], Binding], selector: str) -> set[str]:
    return {parameter for _, other, parameter in effective if other == selector}


def _covers(scope: str, inner: str) -> bool:
    return not scope or inner == scope or inner.startswith(scope + "/")


def _complaint(binding: Binding, scan: Scan, calls: Calls, dropped: Set[str]) -> tuple[str, str] | None:
    """(why, fix) for a binding without effect; None where that is no mistake."""
    if binding.is_macro:
        return _idle_macro(binding, scan)
    effective = scan.effective
    served = [scope for scope, selector in calls if selector == binding.selector and _covers(binding.scope, scope)]
    if served:
        nearer = [effective[winner(effective, scope, binding.selector, binding.parameter)] for scope in served]
        if binding.preset:
            return None
        shown = ", ".join(dict.fromkeys(f"{b.place} ({b} = {b.value!r})" for b in nearer))
        fixes = " ".join(dict.fromkeys(f"{b} = {binding.value!r}" for b in nearer))
        return f"{binding.place}: {binding} is hidden by {shown}, which is nearer", f"write {fixes}"
    scopes = sorted({scope for scope, selector in calls if selector == binding.selector})
    if binding.preset and _excused(binding, scan, calls, dropped):
        return None
    if not scopes:
        return f"{binding.place}: {binding}: nothing in this run builds {binding.selector}", (
            f"delete the line, or reference @{binding.selector}{'' if is_unbuilt(binding.selector) else '()'}"
        )
    hint = errors.suggest(binding.scope, [s for s in scopes if s])
    places = ", ".join(repr(s) if s else "no scope" for s in scopes)
    reason = f"{binding.place}: {binding}: nothing builds {binding.selector} in scope {binding.scope!r}{hint}"
    fixes = " or ".join(dict.fromkeys(label(s, binding.selector, binding.parameter) for s in scopes))
    return f"{reason}; it is built in {places}", f"write {fixes} = {binding.value!r}"


def _excused(binding: Binding, scan: Scan, calls: Calls, dropped: Set[str]) -> bool:
    """Whether a preset's binding is idle because its plugin or the scope of its file is not in this run."""
    first = binding.scope.split("/")[0]
    if any(_covers(first, scope) for scope, _ in calls):
        absent = all(selector != binding.selector for _, selector in calls) and binding.selector not in CORE
        return absent or binding.selector in dropped
    stem = binding.place.file.rpartition("/")[2].removesuffix(".gin")
    return first == stem or first in {r.scope.split("/")[0] for b in scan.bindings for r in within(b.value, Reference)}


def _idle_macro(binding: Binding, scan: Scan) -> tuple[str, str] | None:
    name = binding.scope
    users = [b for b in scan.bindings if any(m.name == name for m in within(b.value, Macro))]
    beside = {b.scope for b in scan.bindings if b.is_macro and b.place.file == binding.place.file}
    used = sorted({m.name for b in scan.effective.values() for m in within(b.value, Macro)})
    if binding.preset and (users or not difflib.get_close_matches(name, set(used) - beside, n=1, cutoff=_NEAR)):
        return None
    if not users:
        return (
            f"{binding.place}: the macro {name} is defined and never referenced{errors.suggest(name, used)}",
            f"reference it as %{name}; a parameter is written selector.parameter = ...",
        )
    by = scan.effective[users[0].key]
    reason = "has no effect itself" if by is users[0] else f"{by.place} overrides"
    return f"{binding.place}: the macro {name} is used only by {users[0].place} ({users[0]}), which {reason}", (
        f"delete the line, or write {by} = %{name}"
    )


def macro_of(binding: Binding, scan: Scan) -> str:
    """``", which is NAME of file:line"`` where a value is a macro, else an empty string."""
    macro = binding.value
    if not isinstance(macro, Macro) or macro.name not in scan.macros:
        return ""
    return f", which is the macro {macro.name} of {scan.macros[macro.name].place}"

