"""What gin 0.5.0 accepts in silence, as errors with the line, the reason and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spendflops.config.core import Configurable, is_unbuilt
from spendflops.config.scan import MACRO, Binding, Macro, Reference, Scan, label, within
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
    nearer. Bindings of presets are defaults: one that a nearer binding hides is overridden, as it would be by an equal
    key, and one for a plugin or a scope that this run does not use is idle.
    """
    effective = scan.effective
    used = {winner(effective, scope, selector, p) for scope, selector in calls for p in _bound(effective, selector)}
    idle = [b for key, b in effective.items() if key not in used]
    complaints = [c for b in idle if (c := _complaint(b, scan, calls))]
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


def _complaint(binding: Binding, scan: Scan, calls: Calls) -> tuple[str, str] | None:
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
    if binding.preset and _excused(binding, scan, scopes, calls):
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


def _excused(binding: Binding, scan: Scan, scopes: Sequence[str], calls: Calls) -> bool:
    """Whether a preset's binding is idle because its plugin, or the scope that the file is about, is not in this run."""
    if not binding.scope:
        return True
    first = binding.scope.split("/")[0]
    if any(_covers(first, scope) for scope, _ in calls):
        return not scopes
    stem = binding.place.file.rpartition("/")[2].removesuffix(".gin")
    named = {r.scope.split("/")[0] for b in scan.bindings for r in within(b.value, Reference)}
    return first == stem or first in named


def _idle_macro(binding: Binding, scan: Scan) -> tuple[str, str] | None:
    name = binding.scope
    users = [b for b in scan.bindings if any(m.name == name for m in within(b.value, Macro))]
    used = sorted({m.name for b in scan.effective.values() for m in within(b.value, Macro)})
    hint = errors.suggest(name, used)
    if binding.preset and not (not users and _near(name, used)):
        return None
    for user in users:
        by = scan.effective[user.key]
        if by is not user:
            return (
                f"{binding.place}: the macro {name} is used by {user.place} ({user}) alone, which {by.place} overrides",
                f"delete one of the two lines, or write {by} = %{name}",
            )
    if users:
        return f"{binding.place}: the macro {name} is used by {users[0].place} ({users[0]}) alone, which is not", ""
    return (
        f"{binding.place}: the macro {name} is defined and never referenced{hint}",
        f"reference it as %{name}; a parameter is written selector.parameter = ...",
    )


def _near(name: str, known: Sequence[str]) -> bool:
    import difflib

    return bool(difflib.get_close_matches(name, known, n=1, cutoff=_NEAR))


def macro_of(binding: Binding, scan: Scan) -> str:
    """``", which is NAME of file:line"`` where a value is a macro, else an empty string."""
    macro = binding.value
    if not isinstance(macro, Macro) or macro.name not in scan.macros:
        return ""
    return f", which is the macro {macro.name} of {scan.macros[macro.name].place}"


__all__ = ["MACRO", "check_macros", "check_parameters", "check_parentheses", "check_used", "macro_of", "winner"]
