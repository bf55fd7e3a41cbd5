"""The value every FLOP counter returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from spendflops.contracts.errors import SpendflopsError

PHASES = ("augment", "targets", "forward", "backward", "update", "predict", "other")

# The phases that a named scope can set. "backward" need not be one: transposing any of the others implies it.
SCOPES = PHASES[:-1]


class UncountedWork(SpendflopsError):
    """A program holds work whose FLOPs cannot be known; the reason names each such operation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Op:
    """One row of the op table: identical operations of one phase.

    Attributes:
        kind: Operation name, such as `dot_general`, `convolution` or a custom call target.
        shapes: Operand and result shapes, for printing.
        dtype: Type of the left operand, in JAX spelling (`float32`).
        phase: One of `PHASES`.
        flops: FLOPs of one execution, all devices.
        times: Executions in one call of the program.
        rematted: Whether the operation recomputes a forward value during the backward pass.
    """

    kind: str
    shapes: str
    dtype: str
    phase: str
    flops: int
    times: int = 1
    rematted: bool = False

    @property
    def total(self) -> int:
        """FLOPs of all executions."""
        return self.flops * self.times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of one call of a program: 2 per multiply-add, over all devices, exact Python ints.

    Attributes:
        counter: Name and version of the counting rules, such as `jaxpr/1`.
        phases: FLOPs by phase; phases without work are absent.
        dtypes: The same FLOPs by type of the left operand.
        rematted: FLOPs that recompute forward values. A part of the phases, not an addition to them.
        unknown: Names of operations whose FLOPs are not known. When there are any, `total` is None and the phases are
            a lower bound.
        ops: The op table, largest first.
    """

    counter: str
    phases: dict[str, int] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    rematted: int = 0
    unknown: tuple[str, ...] = ()
    ops: tuple[Op, ...] = ()

    def __post_init__(self) -> None:
        if strange := set(self.phases) - set(PHASES):
            raise ValueError(f"unknown phases {sorted(strange)}; the phases are {PHASES}")
        for value in (*self.phases.values(), *self.dtypes.values(), self.rematted):
            if type(value) is not int:
                raise TypeError(f"FLOPs must be Python ints (floats lose digits above 2**53), got {value!r}")
        if sum(self.phases.values()) != sum(self.dtypes.values()):
            raise ValueError(f"phases {self.phases} and dtypes {self.dtypes} do not add up to the same number")

    @classmethod
    def from_ops(cls, ops: Iterable[Op], *, counter: str, unknown: Iterable[str] = ()) -> Cost:
        """Sums an op table, merging identical rows."""
        times: dict[Op, int] = {}
        for op in ops:
            key = dataclasses.replace(op, times=1)
            times[key] = times.get(key, 0) + op.times
        rows = sorted((dataclasses.replace(op, times=n) for op, n in times.items() if n), key=lambda op: -op.total)
        phases = {phase: sum(op.total for op in rows if op.phase == phase) for phase in PHASES}
        dtypes = {name: sum(op.total for op in rows if op.dtype == name) for name in sorted({op.dtype for op in rows})}
        return cls(
            counter=counter,
            phases={phase: flops for phase, flops in phases.items() if flops},
            dtypes={dtype: flops for dtype, flops in dtypes.items() if flops},
            rematted=sum(op.total for op in rows if op.rematted),
            unknown=tuple(sorted(set(unknown))),
            ops=tuple(rows),
        )

    @property
    def total(self) -> int | None:
        """FLOPs of one call, or None when some of the work is unknown."""
        return None if self.unknown else sum(self.phases.values())

    def __add__(self, other: Cost) -> Cost:
        """Adds two costs of the same counter; model and hardware FLOPs never mix."""
        if not isinstance(other, Cost):
            return NotImplemented
        if self.counter != other.counter:
            raise ValueError(f"cannot add FLOPs counted by {self.counter!r} to FLOPs counted by {other.counter!r}")
        if self.ops or other.ops:
            table = Cost.from_ops(self.ops + other.ops, counter=self.counter).ops
        else:
            table = ()
        return Cost(
            counter=self.counter,
            phases=_add(self.phases, other.phases),
            dtypes=_add(self.dtypes, other.dtypes),
            rematted=self.rematted + other.rematted,
            unknown=tuple(sorted({*self.unknown, *other.unknown})),
            ops=table,
        )

    def __mul__(self, calls: int) -> Cost:
        """The cost of `calls` calls."""
        if type(calls) is not int:
            raise TypeError(f"a cost is multiplied by a number of calls (int), got {calls!r}")
        if calls < 0:
            raise ValueError(f"a program cannot be called {calls} times")
        return Cost(
            counter=self.counter,
            phases={phase: flops * calls for phase, flops in self.phases.items()},
            dtypes={dtype: flops * calls for dtype, flops in self.dtypes.items()},
            rematted=self.rematted * calls,
            unknown=self.unknown,
            ops=tuple(dataclasses.replace(op, times=op.times * calls) for op in self.ops),
        )

    __rmul__ = __mul__

    def without_recomputation(self) -> Cost:
        """The cost of the same work with no forward value computed twice.

        Raises:
            ValueError: There is recomputation, and no op table to take it out of.
        """
        if not self.rematted:
            return self
        if not self.ops:
            raise ValueError("recomputation cannot be taken out without the op table")
        ops = (op for op in self.ops if not op.rematted)
        return Cost.from_ops(ops, counter=self.counter, unknown=self.unknown)

    def to_json(self, *, ops: bool = False) -> dict[str, Any]:
        """A dict of JSON types; the op table is left out unless asked for."""
        record: dict[str, Any] = {
            "counter": self.counter,
            "total": self.total,
            "phases": dict(self.phases),
            "dtypes": dict(self.dtypes),
            "rematted": self.rematted,
            "unknown": list(self.unknown),
        }
        if ops:
            record["ops"] = [dataclasses.asdict(op) for op in self.ops]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cost:
        """Reads what `to_json` wrote."""
        return cls(
            counter=record["counter"],
            phases=record["phases"],
            dtypes=record["dtypes"],
            rematted=record["rematted"],
            unknown=tuple(record["unknown"]),
            ops=tuple(Op(**op) for op in record.get("ops", ())),
        )

    def table(self) -> str:
        """The op table as text: one row per distinct operation, largest first."""
        rows = [("FLOPs", "times", "phase", "kind", "dtype", "shapes")]
        for op in self.ops:
            phase = f"{op.phase} (remat)" if op.rematted else op.phase
            rows.append((f"{op.total:,}", str(op.times), phase, op.kind, op.dtype, op.shapes))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)]
            lines.append("  ".join([*cells, row[5]]))
        return "\n".join([*lines, *(f"unknown: {name}" for name in self.unknown)])


def _add(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in {**left, **right}}
