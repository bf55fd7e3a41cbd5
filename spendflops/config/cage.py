"""The cage: gin with a state of its own, which is gone when a configuration has been built."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config as gin_config
from gin import selector_map

from spendflops.config import strict, types
from spendflops.config.core import PLUGINS, SLOTS, UNBUILT, Configurable, load_named
from spendflops.config.scan import Binding, Scan, Source, scan
from spendflops.contracts import errors

_LOCK = threading.RLock()
_BUILTINS = tuple(gin_config._REGISTRY.items())
_HOOKS = tuple(hook for hook in gin_config._FINALIZE_HOOKS if hook.__module__ == gin_config.__name__)


class _Escape(BaseException):
    """Carries an error through gin, which wraps every ``Exception`` in its own words."""

    def __init__(self, error: errors.SpendflopsError):
        super().__init__(error)
        self.error = error


class _ExactMap(selector_map.SelectorMap):
    """Selectors in full only: which part of one is enough depends on the plugins that happen to be loaded."""

    def matching_selectors(self, partial_selector: str) -> list[str]:
        return [partial_selector] if partial_selector in self else []

    def minimal_selector(self, complete_selector: str) -> str:
        return complete_selector


@contextlib.contextmanager
def cage() -> Iterator[None]:
    """A fresh gin inside the block; whatever gin held before is back afterwards, whoever put it there."""
    registry, constants = _ExactMap(), _ExactMap()
    for selector, configurable in _BUILTINS:
        registry[selector] = configurable
    constants["gin.REQUIRED"] = gin_config.REQUIRED
    fresh = {
        "_REGISTRY": registry,
        "_INVERSE_REGISTRY": {c.wrapped: c for _, c in _BUILTINS},
        "_RENAMED_SELECTORS": {},
        "_CONFIG": {},
        "_IMPORTS": set(),
        "_OPERATIVE_CONFIG": {},
        "_SCOPE_MANAGER": gin_config._ScopeManager(),
        "_FINALIZE_HOOKS": list(_HOOKS),
        "_CONFIG_IS_LOCKED": False,
        "_CONSTANTS": constants,
        "_PARSE_CONTEXTS": [gin_config.ParseContext()],
        "_SINGLETONS": {},
        "_ARG_SPEC_CACHE": {},
    }
    with _LOCK:
        before = {name: getattr(gin_config, name) for name in fresh}
        vars(gin_config).update(fresh)
        try:
            yield
        finally:
            vars(gin_config).update(before)


@dataclasses.dataclass(frozen=True)
class Built:
    """The root object and gin's account of how it was made."""

    object: Any
    operative: str


def build(sources: tuple[Source, ...], root: str) -> Built:
    """Parses, checks and builds; nothing is compiled.

    Raises:
        errors.ConfigError: Any mistake, with its place.
    """
    scanned = scan(sources)
    strict.check_macros(scanned)
    known, strings = load_named(scanned)
    if root not in known:
        raise errors.ConfigError(
            f"nothing sets a parameter of {root}",
            why=f"read {', '.join(dict.fromkeys(s.name for s in sources)) or 'no file'}",
            fix=f"give a gin file with lines `{root}.parameter = ...`",
        )
    strict.check_parameters(scanned, known)
    strict.check_parentheses(scanned)
    with cage():
        session = _Session(scanned, known, strings)
        for configurable in known.values():
            session.register(configurable)
        try:
            for source in sources:
                gin_config.parse_config(io.StringIO(source.text))
            gin_config.finalize()
            for selector in known:
                if selector.startswith(PLUGINS):  # So that the operative configuration says it, too.
                    gin_config.get_configurable(selector)()
            made = gin_config.get_configurable(root)()
        except _Escape as escape:
            raise escape.error from escape.error.__cause__
        except RecursionError:
            raise errors.ConfigError("the references go round in a circle", why="gin calls them without end") from None
        strict.check_used(scanned, gin_config._OPERATIVE_CONFIG)
        return Built(made, gin_config.operative_config_str(max_line_length=120))


@dataclasses.dataclass(frozen=True)
class _Session:
    scan: Scan
    known: Mapping[str, Configurable]
    strings: Mapping[tuple[str, str], str]

    def register(self, configurable: Configurable) -> None:
        """Shows gin a factory that has the options of the configurable as its signature."""

        def factory(**options: Any) -> Any:
            try:
                return self._make(configurable, options)
            except errors.SpendflopsError as error:
                raise _Escape(error) from error

        keyword = inspect.Parameter.KEYWORD_ONLY
        factory.__signature__ = inspect.Signature([p.replace(kind=keyword) for p in configurable.parameters.values()])
        factory.__module__ = None  # gin would put it before the selector.
        factory.configurable = configurable  # functools.wraps carries it to what gin hands out.
        gin_config.external_configurable(factory, name=configurable.selector)

    def _make(self, configurable: Configurable, options: Mapping[str, Any]) -> Any:
        selector = configurable.selector
        ready = {name: self._ready(configurable, name, value) for name, value in options.items()}
        missing = [name for name in configurable.required if name not in ready]
        if missing:
            scope = gin_config.current_scope_str()
            inside = f" in scope {scope!r}" if scope else ""
            lines = " ".join(f"`{scope + '/' if scope else ''}{selector}.{name} = ...`" for name in missing)
            raise errors.ConfigError(
                f"{selector}{inside} needs {', '.join(missing)}", why="there is no default", fix=f"add {lines}"
            )
        try:
            return configurable.make(ready)
        except errors.SpendflopsError:
            raise
        except Exception as error:
            raise errors.ConfigError(
                f"{selector} cannot be made with {', '.join(f'{k}={v!r}' for k, v in ready.items()) or 'its defaults'}",
                why=f"{type(error).__name__}: {error}; bound at {self._places(selector, ready)}",
            ) from error

    def _ready(self, configurable: Configurable, name: str, value: Any) -> Any:
        """A value as the constructor takes it: references called, strings that name plugins looked up, types right."""
        group = SLOTS.get((configurable.selector, name))
        if group and isinstance(value, str):
            selector = self.strings.get((group, value)) or f"{group}.{value}"
            if selector not in self.known:
                binding = self._binding(configurable.selector, name)
                right = f"@{group}.{value}{'' if group in ('backbones', 'objectives') else '()'}"
                raise errors.ConfigError(
                    f"{binding.place}: {binding} = {value!r} names no plugin",
                    why="a string names a class as 'package.module:Class', or a distribution as 'name@distribution'",
                    fix=f"write {right}",
                )
            value = gin_config.get_configurable(selector)()
        else:
            value = _called(value)
        made = getattr(value, "func", None) if group in UNBUILT else None
        wrong = made and next((c for c in self.known.values() if c.target is made and c.group != group), None)
        if wrong:
            binding = self._binding(configurable.selector, name)
            raise errors.ConfigError(
                f"{binding.place}: {binding} wants one of the {group}", why=f"{wrong.selector} is none of them"
            )
        if name not in configurable.hints:
            return value
        try:
            return types.conform(value, configurable.hints[name])
        except types.Mismatch as mismatch:
            raise self._mismatch(configurable, name, mismatch) from None

    def _mismatch(self, configurable: Configurable, name: str, mismatch: types.Mismatch) -> errors.ConfigError:
        binding = self._binding(configurable.selector, name)
        shown = mismatch.value if isinstance(mismatch.value, (str, int, float, tuple, list, dict, type(None))) else None
        what = repr(shown) if shown is mismatch.value else f"a {type(mismatch.value).__name__}"
        return errors.ConfigError(
            f"{binding.place}: {binding} cannot be {what}{strict.macro_of(binding, self.scan)}",
            why=f"{configurable.selector} takes {name}: {types.spell(configurable.hints[name])}",
            fix=types.repair(mismatch.value, mismatch.hint),
        )

    def _binding(self, selector: str, parameter: str) -> Binding:
        effective = self.scan.effective
        return effective[strict.winner(effective, gin_config.current_scope_str(), selector, parameter)]

    def _places(self, selector: str, options: Mapping[str, Any]) -> str:
        return ", ".join(str(self._binding(selector, name).place) for name in options) or "no line: all are defaults"


def _called(value: Any) -> Any:
    """Calls the references without ``()``, under the scope of whoever takes them, so that nothing of gin is left."""
    if isinstance(getattr(value, "configurable", None), Configurable):
        return value()
    if isinstance(value, (tuple, list)):
        return type(value)(_called(v) for v in value)
    if isinstance(value, dict):
        return {key: _called(v) for key, v in value.items()}
    return value
