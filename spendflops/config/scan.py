"""Reads gin text without gin: every statement with its place, before anything is imported or registered.

gin's own parser does the reading, with a delegate that records references and macros instead of resolving them. Files
are taken apart at their ``include`` statements, so that what is left is one list of sources without includes.
"""

from __future__ import annotations

import dataclasses
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
FLAGS = "--gin"
_SECTION = re.compile(r"^# >>> (.+):(\d+)( preset)?$")
_INCLUDE = re.compile(r"^include\s")


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of a file, or the number of a ``--gin`` flag."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


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

    @property
    def required(self) -> bool:
        """Whether this is the mark of a value that must be overridden."""
        return self.name in ("gin.REQUIRED", "REQUIRED")


@dataclasses.dataclass(frozen=True)
class Binding:
    """One statement ``scope/selector.parameter = value``; ``NAME = value`` binds the macro NAME."""

    scope: str
    selector: str
    parameter: str
    value: Any
    place: Place
    preset: bool

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scope, self.selector, self.parameter

    @property
    def is_macro(self) -> bool:
        return self.selector == MACRO

    def __str__(self) -> str:
        return self.scope if self.is_macro else label(*self.key)


@dataclasses.dataclass(frozen=True)
class Source:
    """Text without includes.

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
    """All statements in order. ``effective`` holds what gin will see: of equal keys, the last one."""

    bindings: tuple[Binding, ...]

    @property
    def effective(self) -> dict[tuple[str, str, str], Binding]:
        return {b.key: b for b in self.bindings}

    @property
    def macros(self) -> dict[str, Binding]:
        """The effective definition of each macro."""
        return {b.scope: b for b in self.effective.values() if b.is_macro}

    @property
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
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from within(pair, kind)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from within(item, kind)


def read(path: Path, *, name: str, preset: bool = False, _including: tuple[Path, ...] = ()) -> list[Source]:
    """A file as sources, the files that it includes in their places.

    Raises:
        errors.ConfigError: Not readable, not gin, or it includes itself.
    """
    if path.resolve() in _including:
        raise errors.ConfigError(f"{name} includes itself", why=" > ".join(p.name for p in (*_including, path)))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"cannot read {name}", why=str(error)) from error
    if _SECTION.match(text.split("\n", 1)[0]):
        return parts(text)
    return split(text, name=name, preset=preset, folder=path.parent, _including=(*_including, path.resolve()))


def split(
    text: str, *, name: str, preset: bool = False, folder: Path | None = None, _including: tuple[Path, ...] = ()
) -> list[Source]:
    """Text as sources, taken apart at its includes."""
    lines = text.split("\n")
    found: list[Source] = []
    start = 1

    def piece(end: int) -> None:
        body = lines[start - 1 : end]
        if any(line.strip() for line in body):
            found.append(Source(name, "\n" * (start - 1) + "\n".join(body) + "\n", line=start, preset=preset))

    for statement in _statements(Source(name, text, preset=preset)):
        if not isinstance(statement, config_parser.IncludeStatement):
            continue
        line = statement.location.line_num
        piece(line - 1)
        included = presets.resolve(statement.filename, folder=folder)
        if included is None:
            known = presets.relative_names()
            raise errors.ConfigError(
                f"{name}:{line}: no file {statement.filename!r} to include{errors.suggest(statement.filename, known)}",
                why="searched: " + ", ".join(presets.searched(folder)),
            )
        file, shown, library = included
        found += read(file, name=shown, preset=preset or library, _including=_including)
        start = line + 1
    piece(len(lines))
    return found


def join(sources: Iterable[Source]) -> str:
    """One text that :func:`parts` takes apart again: how a run keeps its configuration as it was given."""
    return "".join(
        f"# >>> {s.name}:{s.line}{' preset' if s.preset else ''}\n" + s.text[s.line - 1 :].rstrip("\n") + "\n\n"
        for s in sources
    )


def parts(text: str) -> list[Source]:
    """The inverse of :func:`join`."""
    found: list[Source] = []
    lines: list[str] = []
    for line in text.split("\n"):
        if head := _SECTION.match(line):
            first = int(head[2])
            lines = ["\n" * (first - 1)]
            found.append(Source(head[1], "", line=first, preset=bool(head[3])))
        elif found:
            lines.append(line + "\n")
            found[-1] = dataclasses.replace(found[-1], text="".join(lines))
    return found


def scan(sources: Sequence[Source]) -> Scan:
    """All bindings of the sources.

    Raises:
        errors.ConfigError: A syntax error, an import, one key bound twice in one file.
    """
    bindings: list[Binding] = []
    for source in sources:
        for statement in _statements(source):
            if isinstance(statement, config_parser.BindingStatement):
                scope, selector, parameter = statement.scope, statement.selector, statement.arg_name
                if not parameter:
                    name = f"{scope}/{selector}" if scope else selector
                    scope, selector, parameter = name, MACRO, "value"
                place = Place(source.name, statement.location.line_num)
                bindings.append(Binding(scope, selector, parameter, statement.value, place, source.preset))
    _refuse_duplicates(bindings)
    return Scan(tuple(bindings))


def _refuse_duplicates(bindings: Sequence[Binding]) -> None:
    seen: dict[tuple, Binding] = {}
    for binding in bindings:
        # A file that two others include is read twice: the same line again is no second opinion.
        first = seen.setdefault((binding.place.file, *binding.key), binding)
        if first.place != binding.place:
            raise errors.ConfigError(
                f"{binding.place}: {binding} is bound twice in one file",
                why=f"{first.place} binds it to {first.value!r}, line {binding.place.line} to {binding.value!r}",
                fix="delete one of the two lines",
            )


class _Recorder(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def _statements(source: Source) -> list[Any]:
    try:
        statements = list(config_parser.ConfigParser(io.StringIO(source.text), _Recorder()))
    except SyntaxError as error:  # IndentationError is one, too.
        raise _explain(source, error.msg, error.lineno, error.text) from None
    except tokenize.TokenError as error:
        raise _explain(source, f"{error.args[0]} (a bracket or a quote is not closed)", error.args[1][0], "") from None
    for statement in statements:
        if isinstance(statement, config_parser.ImportStatement):
            raise errors.ConfigError(
                f"{source.name}:{statement.location.line_num}: gin files have no Python imports",
                why="plugins are found by their entry points, and only those that are named are imported",
                fix="delete the line; for a class outside any distribution write the string 'package.module:Class'",
            )
    return statements


def _explain(source: Source, message: str, line: int | None, text: str | None) -> errors.ConfigError:
    """A syntax error in words: gin's own speaks of nodes of Python's syntax tree."""
    lines = source.text.split("\n")
    text = (text or (lines[line - 1] if line and line <= len(lines) else "")).strip()
    found = re.search(r"Failed to parse token '(.+)'", message, re.DOTALL)
    token = found[1] if found else ""
    words = {"true": "True", "false": "False", "null": "None", "none": "None"}
    value = text.partition("=")[2]
    if token.lower() in words and token not in words.values():
        fix = f"write {words[token.lower()]} in place of {token}"
    elif token.isidentifier():
        fix = f"quote strings: '{token}'; a macro is %{token}, a reference is @{token}"
    elif "=" not in text and not _INCLUDE.match(text):
        fix = "a statement is `scope/selector.parameter = value` or `MACRO = value`"
    elif re.search(r"[\w)]\s*(\*\*?|//?|\+|-|%)\s*[\w(]", value) and "'" not in value and '"' not in value:
        fix = "gin has no arithmetic: write the number out"
    else:
        fix = "check quotes, brackets and commas"
    return errors.ConfigError(
        f"{source.name}:{line}: cannot read `{text}`",
        why="a value is a Python literal (number, quoted string, True, False, None, tuple, list, dict), a reference "
        f"@selector or a macro %NAME ({message.splitlines()[0].rstrip('.')})",
        fix=fix,
    )
