"""The cage: gin with a state of its own, which is gone when a configuration has been built."""

from __future__ import annotations

import contextlib
import inspect
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gin import config as gin_config
from gin import selector_map

from spendflops.config import strict, types
from spendflops.config.core import PLUGINS, SLOTS, Configurable, load_named, named_by_strings, unbuilt
from spendflops.config.scan import Binding, Macro, Reference, Scan, Source, label, scan
from spendflops.contracts import errors

_LOCK = threading.RLock()
_BUILTINS = tuple(gin_config._REGISTRY.items())
_HOOKS = tuple(hook for hook in gin_config._FINALIZE_HOOKS if hook.__module__ == gin_config.__name__)


class _Escape(BaseException):
    """Carries an error through gin, which wraps every ``Exception`` in its own words."""

    def __init__(self, error: errors.SpendflopsError):
        super().__init__(error)
        self.error = error


class _FullNames(selector_map.SelectorMap):
    """Writes selectors in full: which part of one is enough depends on the plugins that happen to be loaded."""

    def minimal_selector(self, complete_selector: str) -> str:
        return complete_selector


@contextlib.contextmanager
def cage() -> Iterator[None]:
    """A fresh gin inside the block; whatever gin held before is back afterwards, whoever put it there."""
    registry, constants = _FullNames(), selector_map.SelectorMap()
    constants["gin.REQUIRED"] = gin_config.REQUIRED
    for selector, builtin in _BUILTINS:
        registry[selector] = builtin
    fresh = {
        "_REGISTRY": registry,
        "_INVERSE_REGISTRY": {builtin.wrapped: builtin for _, builtin in _BUILTINS},
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


def build(sources: Sequence[Source], root: str) -> tuple[Any, str]:
    """Parses, checks and builds; nothing is compiled.

    Returns:
        The root object, which holds nothing of gin, and gin's operative configuration.

    Raises:
        errors.ConfigError: Any mistake, with its place.
    """
    sources = [*sources, *named_by_strings(scan(sources))]
    scanned = scan(sources)
    strict.check_macros(scanned)
    strict.check_references(scanned)
    known = load_named(scanned)
    strict.check_parameters(scanned, known)
    if root not in known:
        files = ", ".join(dict.fromkeys(s.name for s in sources)) or "no file"
        fix = f"name an objective, or give a gin file with lines `{root}.parameter = ...`"
        raise errors.ConfigError(f"nothing sets a parameter of {root}", why=f"read {files}", fix=fix)
    with cage():
        for configurable in known.values():
            _register(configurable, scanned)
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
        return made, gin_config.operative_config_str(max_line_length=120)


def _register(configurable: Configurable, scanned: Scan) -> None:
    """Shows gin a factory with the options of the configurable, in the place of its class."""

    def factory(**options: Any) -> Any:
        try:
            return _make(configurable, options, scanned)
        except errors.SpendflopsError as error:
            raise _Escape(error) from error

    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([p.replace(kind=keyword) for p in configurable.parameters.values()])
    # gin would put the module before the selector; functools.wraps carries `configurable` to what gin hands out.
    vars(factory).update(__signature__=signature, configurable=configurable)
    factory.__module__ = None  # type: ignore[assignment]
    gin_config.external_configurable(factory, name=configurable.selector)


def _make(configurable: Configurable, options: Mapping[str, Any], scanned: Scan) -> Any:
    selector, scope = configurable.selector, gin_config.current_scope_str()
    bound = {p: b for p in options if (b := strict.winner(scanned.effective, scope, selector, p))}
    ready = {
        name: _conform(configurable, name, _called(value), bound[name], scanned) for name, value in options.items()
    }
    missing = [n for n, p in configurable.parameters.items() if p.default is p.empty and n not in ready]
    if missing:
        lines = ", ".join(f"`{label(scope, selector, name)} = ...`" for name in missing)
        inside = f" in scope {scope!r}" if scope else ""
        raise errors.ConfigError(f"{selector}{inside} needs {', '.join(missing)}", why="no default", fix=f"add {lines}")
    try:
        return configurable.make(ready)
    except errors.SpendflopsError:
        raise
    except Exception as error:
        raise errors.ConfigError(
            f"{selector} cannot be made with {', '.join(f'{k}={v!r}' for k, v in ready.items()) or 'its defaults'}",
            why=f"{type(error).__name__}: {error}",
            fix=f"see {', '.join(b.place for b in bound.values())}" if bound else "",
        ) from error


def _called(value: Any) -> Any:
    """Calls the references without ``()``, under the scope of whoever takes them, so that nothing of gin is left."""
    if isinstance(getattr(value, "configurable", None), Configurable):
        return value()
    if isinstance(value, (tuple, list)):
        return type(value)(_called(v) for v in value)
    return {key: _called(v) for key, v in value.items()} if isinstance(value, dict) else value


def _conform(configurable: Configurable, name: str, value: Any, binding: Binding, scanned: Scan) -> Any:
    try:
        return types.conform(value, configurable.hints[name]) if name in configurable.hints else value
    except types.Mismatch as mismatch:
        wrong, fix = mismatch.value, types.repair(mismatch.value, mismatch.hint)
    group = SLOTS.get((configurable.selector, name))
    if group and isinstance(wrong, str):
        fix = f"write {Reference('', f'{group}.{wrong}', not unbuilt(f'{group}.{wrong}'))!r}"
    literal = isinstance(wrong, (str, int, float, tuple, list, dict, type(None)))
    macro = scanned.macros.get(binding.value.name) if isinstance(binding.value, Macro) else None
    raise errors.ConfigError(
        f"{binding.place}: {binding} cannot be {repr(wrong) if literal else f'a {type(wrong).__name__}'}"
        + (f", the value of the macro {macro} at {macro.place}" if macro else ""),
        why=f"{configurable.selector} takes {name}: {types.spell(configurable.hints[name])}",
        fix=fix,
    )
