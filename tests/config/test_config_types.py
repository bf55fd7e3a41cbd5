"""Values against annotations."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing

import pytest

from spendflops.config import types
from spendflops.config.types import Mismatch, conform


class Named(typing.Protocol):
    name: str


GOOD = [
    (5, int), (5.5, float), (True, bool), ("a", str), (None, None), (None, int | None), ("x", str | float | None),
    ((1, 2), tuple[int, int]), ((), tuple[int, ...]), ((1, 2, 3), tuple[int, ...]), ((1, 2), tuple),
    ((1, "a"), tuple[int, str]), ((1, 2), collections.abc.Sequence[int]), ([1], list[int]), ({"a": 1}, dict[str, int]),
    ({"a": (1,)}, collections.abc.Mapping[str, tuple[int, ...]]), (len, collections.abc.Callable),
    (len, collections.abc.Callable[..., int]), ("a", typing.Literal["a", "b"]), (5, typing.Any), (5, Named),
    (5, typing.TypeVar("T")), (None, typing.Optional[int]),  # noqa: UP045
]  # fmt: skip
BAD = [
    ("5", int), (5.0, int), (True, int), (True, float), ("5", float), (1, bool), (5, str), (0, None), ("5", int | None),
    ([1, 2], tuple[int, int]), ((1,), tuple[int, int]), ((1, "2"), tuple[int, ...]), ("ab", collections.abc.Sequence),
    (1, list[int]), ([1.5], list[int]), ({"a": "1"}, dict[str, int]), (5, collections.abc.Callable), (object(), str),
    ("c", typing.Literal["a", "b"]), (1, typing.Literal[True]), ({1: 1}, collections.abc.Mapping[str, int]),
]  # fmt: skip


@pytest.mark.parametrize("value, hint", GOOD)
def test_fits(value, hint):
    assert conform(value, hint) == value


@pytest.mark.parametrize("value, hint", BAD)
def test_does_not_fit(value, hint):
    with pytest.raises(Mismatch):
        conform(value, hint)


def test_whole_numbers_become_floats_where_a_float_is_asked_for():
    assert type(conform(5, float)) is float and type(conform(5, float | None)) is float
    assert [type(v) for v in conform((1, 2), tuple[float, ...])] == [float, float]
    assert type(conform(5, int | float)) is int and type(conform(5, float | int)) is int
    assert type(conform(True, bool | float)) is bool


def test_annotations_that_cannot_be_resolved_are_left_out():
    @dataclasses.dataclass
    class Half:
        known: int
        unknown: NameThatTypeCheckersKnow  # noqa: F821

    class Plain:
        def __init__(self, *, known: int, unknown: NameThatTypeCheckersKnow = None):  # noqa: F821
            pass

    for cls in (Half, Plain):
        found = types.hints(cls)
        assert found["known"] is int and "unknown" not in found
