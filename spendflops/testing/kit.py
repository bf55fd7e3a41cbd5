"""What a check is, how it is run and reported: by pytest, or one by one by ``spendflops check``."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spendflops.contracts import conformity, errors, registry

MODULES = {group: f"spendflops.testing.{group}" for group in registry.GROUPS}
"""Each defines ``Subject``, what is checked, and ``CHECKS``, functions of a subject in order; all need the first."""


class CheckFailed(errors.SpendflopsError):
    """A check does not hold: what is wrong, why that matters, the likely fix."""


class Skipped(Exception):
    """A check does not apply; the argument says why."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """``status`` is ok, FAILED, skipped or expected (a failure that the plugin declares)."""

    status: str
    reason: str = ""


def needs(*names: str) -> Callable[[Callable], Callable]:
    """Marks a check that says nothing unless other checks hold, too."""

    def mark(function: Callable) -> Callable:
        function.needs = names
        return function

    return mark


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """One named check of one plugin; calling it gives the outcome, which is computed once."""

    function: Callable[[Any], None]
    subject: Any
    required: tuple[Check, ...] = ()
    expected: str | None = None

    @property
    def name(self) -> str:
        """The public name."""
        return self.function.__name__

    @property
    def about(self) -> str:
        """What is checked."""
        return " ".join(inspect.getdoc(self.function).split("\n\n")[0].split()).replace("``", "")

    def __call__(self) -> Outcome:
        return self._outcome

    @functools.cached_property
    def _outcome(self) -> Outcome:
        missing = [check.name for check in self.required if check().status != "ok"]
        if missing:
            return Outcome("skipped", f"says nothing while {missing[0]!r} does not hold")
        try:
            self.function(self.subject)
        except Skipped as skip:
            return Outcome("skipped", str(skip))
        except Exception as error:
            if self.expected is not None:
                return Outcome("expected", self.expected)
            return Outcome("FAILED", f"{self.about}\n{_explain(error)}")
        if self.expected is not None:
            return Outcome("FAILED", f"declared in expected_failures ({self.expected}), but it holds: remove the entry")
        return Outcome("ok")


def _explain(error: Exception) -> str:
    if isinstance(error, errors.SpendflopsError):
        return str(error)
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__)[-3:])
    return f"{type(error).__name__}: {str(error)[:2000]}\n{''.join(frames)}"


def checks(
    group: str, plugin: str | type, *, given: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[Check]:
    """The checks of a plugin, to be called in any order.

    Args:
        group: One of ``registry.GROUPS``.
        plugin: Name, ``name@distribution``, ``package.module:Class`` or the class.
        given: Keywords of the kit, see ``objective_tests`` and its sisters.
        options: The plugin's own.

    Raises:
        errors.PluginError: It cannot be loaded.
        errors.ConfigError: An option that it does not have, an expected failure of a check that there is not.
    """
    cls = _load(group, plugin)
    known = conformity.options(group, cls)
    options = {**getattr(cls, "kit_options", {}), **(options or {})}
    _known(options, known, f"{cls.__name__} has no option")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise errors.ConfigError(
            f"{cls.__name__} needs {', '.join(missing)}",
            why="there is no default",
            fix=f"{missing[0]}=... in the test, --option {missing[0]}=... on the command line, or its `kit_options`",
        )
    module = importlib.import_module(MODULES[group])
    expected = getattr(cls, "expected_failures", {})
    _known(expected, [f.__name__ for f in module.CHECKS], f"{cls.__name__}.expected_failures names no check")
    subject = module.Subject(cls, options=options, **{k: v for k, v in (given or {}).items() if v is not None})
    made: dict[str, Check] = {}
    for function in module.CHECKS:
        wanted = [*made][:1] + list(getattr(function, "needs", ()))
        name = function.__name__
        made[name] = Check(function, subject, tuple(made[n] for n in wanted), expected.get(name))
    yield from made.values()


def _known(names: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = errors.suggest(name, list(known))
            raise errors.ConfigError(f"{what} {name!r}{near}", why=f"known: {', '.join(known) or 'none'}")


def _load(group: str, plugin: str | type) -> type:
    if isinstance(plugin, str):
        return registry.load(group, plugin)
    conformity.check_signature(group, getattr(plugin, "__name__", repr(plugin)), plugin)
    return plugin


def tests(
    group: str, plugin: str | type, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Callable[[Check], None]:
    """A test function with one case a check."""
    import pytest

    found = list(checks(group, plugin, given=given, options=options))

    @pytest.mark.parametrize("check", found, ids=[check.name for check in found])
    def test(check: Check) -> None:
        outcome = check()
        if outcome.status == "FAILED":
            pytest.fail(f"{check.name}: {outcome.reason}", pytrace=False)
        if outcome.status == "skipped":
            pytest.skip(outcome.reason)
        if outcome.status == "expected":
            pytest.xfail(outcome.reason)

    test.__doc__ = f"The conformance kit on {group}.{plugin if isinstance(plugin, str) else plugin.__name__}."
    return test
