"""Pickles, read without running them.

A pickle is a program: it can import any function and call it. Here it is interpreted by a machine that imports nothing
and whose only calls are those of a table. Every other name is refused, and so is every instruction that PyTorch does
not write.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

LARGEST_TREE, DEEPEST_TREE = 1_000_000, 64
"""Values below an object, shared ones counted as often as they are met, and levels."""
NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"})
STRINGS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"})


class Refused(Exception):
    """Why something is not read."""


@dataclasses.dataclass
class Inert:
    """An object of a class that is not known here: its name and what the pickle says of its state."""

    name: str
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Name:
    """``module.name``."""

    full: str


def run(
    pickle: bytes,
    *,
    calls: Mapping[str, Callable[..., Any]],
    known: Callable[[str], bool],
    persistent: Callable[[tuple], Any],
) -> Any:
    """The object that a pickle describes: dicts, lists, tuples, numbers, strings, and what ``calls`` give.

    Args:
        pickle: Its bytes.
        calls: Name -> what a call of it does here.
        known: Whether a name may be said and made an :class:`Inert` of, without a call.
        persistent: What a persistent id stands for.

    Raises:
        Refused: A name or an instruction that is not known.
        Exception: Any error of the standard library's, where the pickle is malformed.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # what was on the stack before each mark
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case name if name in NUMBERS | STRINGS:
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(opcode.name))
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                values, stack = stack, below.pop()
                stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                _is(stack[-1], list).append(value)
            case "APPENDS":
                values, stack = stack, below.pop()
                _is(stack[-1], list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _is(stack[-1], dict)[_key(key)] = value
            case "SETITEMS":
                values, stack = stack, below.pop()
                _is(stack[-1], dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                parts = argument.split(" ", 1) if argument else [_is(stack.pop(), str) for _ in range(2)][::-1]
                full = ".".join(parts)
                if full not in calls and not known(full):
                    raise Refused(f"its pickle names {full}")
                stack.append(Name(full))
            case "REDUCE":
                arguments, called = _is(stack.pop(), tuple), _is(stack.pop(), Name)
                if called.full not in calls:
                    raise Refused(f"its pickle calls {called.full}")
                stack.append(calls[called.full](*arguments))
            case "NEWOBJ":
                _, made = _is(stack.pop(), tuple), _is(stack.pop(), Name)
                stack.append(Inert(made.full))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
                else:  # what an OrderedDict carries beside its items (a state dict's `_metadata`) is left out
                    _is(stack[-1], dict)
            case "BINPERSID":
                stack.append(persistent(_is(stack.pop(), tuple)))
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name:
                raise Refused(f"its pickle has the instruction {name}")
    raise Refused("its pickle has no end")


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise Refused(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _key(key: Any) -> Any:
    # The hash of a nested tuple could take any time.
    if type(key) not in (str, int, float, bool):
        raise Refused(f"its pickle has a dict with a {type(key).__name__} for a key")
    return key


def leaves(root: Any) -> list[tuple[str, Any]]:
    """All below an object that is no container: (keys joined by dots, value).

    Raises:
        Refused: Too many or too deep: a few shared lists can stand for any number of values.
    """
    found, pending, met = [], [("", root, 0)], 0
    while pending:
        key, value, depth = pending.pop()
        met += 1
        if met > LARGEST_TREE or depth > DEEPEST_TREE:
            raise Refused(f"it holds over {LARGEST_TREE:,} values, or some over {DEEPEST_TREE} levels deep")
        inner = value.state if isinstance(value, Inert) and isinstance(value.state, dict) else value
        if isinstance(inner, (dict, list, tuple)):
            items = list(inner.items() if isinstance(inner, dict) else enumerate(inner))
            pending += [(f"{key}.{name}" if key else str(name), item, depth + 1) for name, item in reversed(items)]
        else:
            found.append((key, value))
    return found
