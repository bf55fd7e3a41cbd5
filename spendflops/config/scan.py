"""Reads gin text without gin: every statement with its place, before anything is imported or registered.

gin's own parser does the reading, with a delegate that records references and macros instead of resolving them. Files
are taken apart at their ``include`` statements, so that what is left is one list of sources without includes.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from spendflops.config import presets
from spendflops.contracts import errors

MACRO = "gin.macro"
"""The selector under which gin keeps a macro; its name is the scope, its parameter is ``value``."""
_SECTION = re.compile(r"^# >>> (.+):(\d+)( preset)?$")
_ARITHMETIC = re.compile(r"[\w)]\s*(\*\*?|//?|\+|-|%)\s*[\w(]")
_WORDS = {"true": "True", "false": "False", "null": "None", "none": "None"}

Key = tuple[str, str, str]
"""Scope, selector and parameter of a binding."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/selector`` or, evaluated, ``@scope/selector()``."""

    scope: str
    selector: str
    evaluated: bool

    def __repr__(self) -> str:
        return f"@{self.scope + '/' if self.scope else ''}{self.selector}{'()' if self.evaluated else ''}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%NAME``."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """One statement ``scope/selector.parameter = value``; ``NAME = value`` binds the macro NAME."""

    scope: str
    selector: str
    parameter: str
    value: Any
    file: str
    line: int
    preset: bool

    @property
    def key(self) -> Key:
        return self.scope, self.selector, self.parameter

    @property
    def is_macro(self) -> bool:
        return self.selector == MACRO

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return self.scope if self.is_macro else label(*self.key)


@dataclasses.dataclass(frozen=True)
class Source:
    """Text without includes, from one file or flag.

    Attributes:
        name: How messages call it.
        text: Lines before ``line`` are blank, so that line numbers are those of the file.
        line: The first line that counts.
        preset: Whether this is a library file, whose defaults need not all be used.
    """

    name: str
    text: str
    line: int = 1
    preset: bool = False


@dataclasses.dataclass(frozen=True)
class Scan:
    """All statements in order."""

    bindings: tuple[Binding, ...]

    @functools.cached_property
    def effective(self) -> dict[Key, Binding]:
        """What gin will see: of equal keys, the last one."""
        return {b.key: b for b in self.bindings}

    @functools.cached_property
    def macros(self) -> dict[str, Binding]:
        """The effective definition of each macro."""
        return {b.scope: b for b in self.effective.values() if b.is_macro}

    @functools.cached_property
    def selectors(self) -> dict[str, Binding]:
        """Every selector that is bound or referenced, with the first statement that names it."""
        found: dict[str, Binding] = {}
        for binding in self.bindings:
            named = [] if binding.is_macro else [binding.selector]
            for selector in (*named, *(r.selector for r in within(binding.value, Reference))):
                found.setdefault(selector, binding)
        return found


def label(scope: str, selector: str, parameter: str) -> str:
    """The left side of a binding."""
    return f"{scope + '/' if scope else ''}{selector}.{parameter}"


def within(value: Any, kind: type) -> Iterator[Any]:
    """All instances of ``kind`` in a value and the containers it is made of."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.items() if isinstance(value, Mapping) else value:
            yield from within(item, kind)


def read(file: str, *, folder: Path | None = None, preset: bool = False, _outer: tuple[Path, ...] = ()) -> list[Source]:
    """A file, found through the search path, as sources: the files that it includes are in their places.

    Raises:
        errors.ConfigError: Not there, not readable, not gin, or it includes itself.
    """
    found = presets.resolve(file, folder=folder)
    if found is None:
        raise errors.ConfigError(**presets.missing(file, folder))
    path, name, library = found
    if path.resolve() in _outer:
        raise errors.ConfigError(f"{name} includes itself", why=" > ".join(p.name for p in (*_outer, path)))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"cannot read {name}", why=str(error)) from error
    if _SECTION.match(text.split("\n", 1)[0]):
        return parts(text)
    return split(text, name=name, preset=preset or library, folder=path.parent, _outer=(*_outer, path.resolve()))


def split(
    text: str, *, name: str, preset: bool = False, folder: Path | None = None, _outer: tuple[Path, ...] = ()
) -> list[Source]:
    """Text as sources, taken apart at its includes."""
    lines, found, start = text.split("\n"), [], 0
    includes = [s for s in statements(Source(name, text)) if isinstance(s, config_parser.IncludeStatement)]
    for include in [*includes, None]:
        end = include.location.line_num - 1 if include else len(lines)
        if any(line.strip() for line in lines[start:end]):
            body = "\n" * start + "\n".join(lines[start:end]) + "\n"
            found.append(Source(name, body, line=start + 1, preset=preset))
        if include:
            try:
                found += read(include.filename, folder=folder, preset=preset, _outer=_outer)
            except errors.ConfigError as error:
                raise type(error)(f"{name}:{end + 1}: {error.what}", why=error.why, fix=error.fix) from error
        start = end + 1
    return found


def join(sources: Iterable[Source]) -> str:
    """One text that :func:`parts` takes apart again: how a run keeps its configuration as it was given."""
    heads = (f"# >>> {s.name}:{s.line}{' preset' if s.preset else ''}\n" for s in sources)
    return "".join(head + s.text[s.line - 1 :].rstrip("\n") + "\n\n" for head, s in zip(heads, sources, strict=True))


def parts(text: str) -> list[Source]:
    """The inverse of :func:`join`."""
    found: list[Source] = []
    for line in text.split("\n"):
        if head := _SECTION.match(line):
            found.append(Source(head[1], "\n" * (int(head[2]) - 1), line=int(head[2]), preset=bool(head[3])))
        elif found:
            found[-1] = dataclasses.replace(found[-1], text=found[-1].text + line + "\n")
    return found


def scan(sources: Sequence[Source]) -> Scan:
    """All bindings of the sources.

    Raises:
        errors.ConfigError: A syntax error, an import, one key bound twice in one file.
    """
    bindings: list[Binding] = []
    seen: dict[tuple, Binding] = {}
    for source in sources:
        for s in statements(source):
            if not isinstance(s, config_parser.BindingStatement):
                continue
            name = f"{s.scope}/{s.selector}" if s.scope else s.selector
            scope, selector, parameter = (s.scope, s.selector, s.arg_name) if s.arg_name else (name, MACRO, "value")
            line = s.location.line_num
            binding = Binding(scope, selector, parameter, s.value, source.name, line, source.preset)
            # A file that two others include is read twice: the same line again is no second opinion.
            first = seen.setdefault((source.name, *binding.key), binding)
            if first.line != binding.line:
                raise errors.ConfigError(
                    f"{binding.place}: {binding} is bound twice in one file",
                    why=f"{first.place} binds it to {first.value!r}, line {binding.line} to {binding.value!r}",
                    fix="delete one of the two lines",
                )
            bindings.append(binding)
    return Scan(tuple(bindings))


class _Recorder(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def statements(source: Source) -> list[Any]:
    """What gin's parser makes of a source; imports and errors of syntax are refused with their place."""
    try:
        found = list(config_parser.ConfigParser(io.StringIO(source.text), _Recorder()))
    except SyntaxError as error:  # IndentationError is one, too.
        raise _explain(source, error.msg, error.lineno or 0) from None
    except tokenize.TokenError as error:
        raise _explain(source, f"{error.args[0]}: a bracket or a quote is not closed", error.args[1][0]) from None
    for statement in found:
        if isinstance(statement, config_parser.ImportStatement):
            raise errors.ConfigError(
                f"{source.name}:{statement.location.line_num}: gin files have no Python imports",
                why="plugins are found by their entry points, and only those that are named are imported",
                fix="delete the line; for a class outside any distribution write the string 'package.module:Class'",
            )
    return found


def _explain(source: Source, message: str, line: int) -> errors.ConfigError:
    """A syntax error in words: gin's own speaks of nodes of Python's syntax tree."""
    text = (*source.text.split("\n"), "")[max(line - 1, 0)].strip()
    found = re.search(r"Failed to parse token '(.+)'", message, re.DOTALL)
    token, value = found[1] if found else "", text.partition("=")[2]
    if token.lower() in _WORDS:
        fix = f"write {_WORDS[token.lower()]} in place of {token}"
    elif token.isidentifier():
        fix = f"quote strings: '{token}'; a macro is %{token}, a reference is @{token}"
    elif "=" not in text:
        fix = "a statement is `scope/selector.parameter = value` or `MACRO = value`"
    elif _ARITHMETIC.search(value) and "'" not in value and '"' not in value:
        fix = "gin has no arithmetic: write the number out"
    else:
        fix = "check quotes, brackets and commas"
    return errors.ConfigError(
        f"{source.name}:{line}: cannot read `{text}`",
        why="a value is a Python literal (number, quoted string, True, False, None, tuple, list, dict), a reference "
        f"@selector or a macro %NAME ({message.splitlines()[0].rstrip('.')})",
        fix=fix,
    )
