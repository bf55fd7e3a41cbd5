"""Counter B: model FLOPs from a traced program.

Only matrix products and convolutions count. Dead code is removed first, loops are multiplied by their lengths, a
conditional costs its most expensive branch. The result depends on shapes alone: it is the same on every machine and is
known before compiling. Work that `jax.checkpoint` repeats in the backward pass is counted and reported under
`Cost.rematted`; model FLOPs are what is left without it, the count of the same program without `jax.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.interpreters import partial_eval

from spendflops.accounts.flops.cost import SCOPES, Cost, Op, UncountedWork

COUNTER = "jaxpr/1"

# Calls whose arithmetic the jaxpr does not show. Those that hold a jaxpr run it an unknown number of times.
_OPAQUE = frozenset(
    {
        "ffi_call",
        "tpu_custom_call",
        "core_map",
        "mpmd_map",
        "ragged_dot_general",
        "scaled_dot",
        "scaled_matmul",
        "scaled_matmul_wrapper",
    }
)
_OPAQUE_PREFIXES = ("bcoo_", "bcsr_", "dot_product_attention_")


def count_jaxpr(closed_jaxpr: ClosedJaxpr) -> Cost:
    """Counts the matrix products and convolutions of a traced program.

    Args:
        closed_jaxpr: What `jax.make_jaxpr(step)(*args)` returns, or the `jaxpr` of `jax.jit(step).trace(*args)`.

    Returns:
        The cost of one call over all devices, with phases taken from the outermost named scope in `SCOPES`.

    Raises:
        UncountedWork: If the program holds an opaque call, or a loop with work but without a static trip count.
    """
    walk = _Walk()
    ops = walk.jaxpr(closed_jaxpr, ())
    if walk.unknown:
        raise UncountedWork(
            "The model FLOPs of this program cannot be counted.",
            why="; ".join(sorted(walk.unknown)),
            fix="Use loops of static length (jax.lax.scan, fori_loop with Python bounds) and no opaque calls.",
        )
    return Cost.from_ops(ops, counter=COUNTER)


class _Walk:
    """One traversal; collects the names of what it cannot count."""

    def __init__(self) -> None:
        self.unknown: set[str] = set()

    def jaxpr(self, jaxpr: Jaxpr | ClosedJaxpr, stack: tuple) -> list[Op]:
        """The op table of one execution of `jaxpr`, called from inside the name stack `stack`."""
        program = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
        # Dead code elimination descends by itself into most higher-order primitives, but not into all (while).
        program, _ = partial_eval.dce_jaxpr(program, True)
        return [op for eqn in program.eqns for op in self.equation(eqn, stack)]

    def equation(self, eqn: JaxprEqn, stack: tuple) -> list[Op]:
        # Name stacks inside a nested jaxpr are relative to the equation that holds it.
        stack = (*stack, *eqn.source_info.name_stack.stack)
        name = eqn.primitive.name
        if name == "dot_general":
            return [_op(eqn, stack, _dot_flops(eqn))]
        if name == "conv_general_dilated":
            return [_op(eqn, stack, _conv_flops(eqn))]
        if name == "scan":
            return _repeat(self.jaxpr(eqn.params["jaxpr"], stack), eqn.params["length"])
        if name == "while":
            return self._while(eqn, stack)
        if name == "cond":
            branches = [self.jaxpr(branch, stack) for branch in eqn.params["branches"]]
            return max(branches, key=lambda ops: sum(op.total for op in ops))
        if name == "shard_map":
            # The body is one device's program. Devices along the other axes see it through their own partitioning.
            axes = eqn.params["newly_manual_axes" if "newly_manual_axes" in eqn.params else "manual_axes"]
            devices = math.prod(eqn.params["mesh"].shape[axis] for axis in axes)
            return _repeat(self.jaxpr(eqn.params["jaxpr"], stack), devices)
        if name == "pallas_call":
            return self._pallas(eqn, stack)
        if name == "custom_linear_solve":
            # The other three functions it holds serve differentiation; they do not run here.
            return self.jaxpr(eqn.params["jaxprs"].solve, stack)
        if name in _OPAQUE or name.startswith(_OPAQUE_PREFIXES):
            self.unknown.add(f"opaque operation {name} at {_where(stack)}")
            return []
        return [op for jaxpr in _nested(eqn.params) for op in self.jaxpr(jaxpr, stack)]

    def _while(self, eqn: JaxprEqn, stack: tuple) -> list[Op]:
        condition = self.jaxpr(eqn.params["cond_jaxpr"], stack)
        body = self.jaxpr(eqn.params["body_jaxpr"], stack)
        trips = _trip_count(eqn)
        # A condition that computes more than a comparison has no static trip count, so it is never multiplied.
        if trips is None and (condition or body):
            self.unknown.add(f"while loop without a static trip count at {_where(stack)}")
        return _repeat(body, trips or 0)

    def _pallas(self, eqn: JaxprEqn, stack: tuple) -> list[Op]:
        kernel = self.jaxpr(eqn.params["jaxpr"], stack)
        grid = eqn.params["grid_mapping"].grid
        if kernel and not all(isinstance(size, int) for size in grid):
            self.unknown.add(f"pallas_call with a dynamic grid at {_where(stack)}")
            return []
        return _repeat(kernel, math.prod(grid)) if kernel else []


def _repeat(ops: list[Op], times: int) -> list[Op]:
    return [dataclasses.replace(op, times=op.times * times) for op in ops]


def _nested(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield item


def _op(eqn: JaxprEqn, stack: tuple, flops: int) -> Op:
    lhs, rhs = (_array(atom) for atom in eqn.invars)
    return Op(
        kind=eqn.primitive.name,
        shapes=f"{list(lhs.shape)} x {list(rhs.shape)} -> {list(_array(eqn.outvars[0]).shape)}",
        dtype=str(lhs.dtype),
        phase=_phase(stack),
        flops=flops,
        rematted=any(entry.name == "rematted_computation" for entry in stack),
    )


def _phase(stack: tuple) -> str:
    """The outermost phase scope of a name stack, or "backward" if a transposition encloses it."""
    transposed = False
    for entry in stack:
        # The two kinds of entries, Scope and Transform, have no public type.
        if type(entry).__name__ == "Transform":
            transposed = transposed or entry.name == "transpose"
            continue
        for scope in entry.name.split("/"):
            if scope in SCOPES:
                return "backward" if transposed else scope
    return "other"


def _where(stack: tuple) -> str:
    return "/".join(entry.name for entry in stack) or "the top level"


def _array(atom: Any) -> jax.core.ShapedArray:
    """Shape and type of a variable or literal."""
    return atom.aval


def _dot_flops(eqn: JaxprEqn) -> int:
    (lhs_contracting, _), _ = eqn.params["dimension_numbers"]
    lhs = _array(eqn.invars[0]).shape
    return 2 * math.prod(_array(eqn.outvars[0]).shape) * math.prod(lhs[axis] for axis in lhs_contracting)


def _conv_flops(eqn: JaxprEqn) -> int:
    """2 x (batch / batch groups) x Cout x (Cin / feature groups) x valid pairs of each spatial dimension.

    The kernel holds Cin / feature groups input channels already, so groups need no further factor.
    """
    params = eqn.params
    lhs, rhs, out = (_array(atom).shape for atom in (*eqn.invars, *eqn.outvars))
    dims = params["dimension_numbers"]
    pairs = 1
    for axis, (lhs_dim, rhs_dim, out_dim) in enumerate(
        zip(dims.lhs_spec[2:], dims.rhs_spec[2:], dims.out_spec[2:], strict=True)
    ):
        pairs *= valid_pairs(
            lhs[lhs_dim],
            rhs[rhs_dim],
            outputs=out[out_dim],
            stride=params["window_strides"][axis],
            pad_low=params["padding"][axis][0],
            lhs_dilation=params["lhs_dilation"][axis],
            rhs_dilation=params["rhs_dilation"][axis],
        )
    batch = lhs[dims.lhs_spec[0]] // params["batch_group_count"]
    return 2 * batch * rhs[dims.rhs_spec[0]] * rhs[dims.rhs_spec[1]] * pairs


def valid_pairs(
    inputs: int, taps: int, *, outputs: int, stride: int, pad_low: int, lhs_dilation: int, rhs_dilation: int
) -> int:
    """Pairs (kernel tap, output position) of one dimension that meet an input element, not padding or a dilation hole.

    Tap k and output o meet position p = o stride + k rhs_dilation - pad_low of the dilated input, which holds an
    element where 0 <= p <= (inputs - 1) lhs_dilation and lhs_dilation divides p. For each tap the solutions o form an
    arithmetic progression.
    """
    if inputs == 0:
        return 0
    common = math.gcd(stride, lhs_dilation)
    step = lhs_dilation // common
    inverse = pow(stride // common, -1, step) if step > 1 else 0
    last = (inputs - 1) * lhs_dilation
    pairs = 0
    for tap in range(taps):
        offset = tap * rhs_dilation - pad_low
        if offset % common:
            continue
        residue = (-offset // common * inverse) % step
        low = max(0, -(offset // stride))
        high = min(outputs - 1, (last - offset) // stride)
        first = low + (residue - low) % step
        pairs += max(0, (high - first) // step + 1)
    return pairs


def _trip_count(eqn: JaxprEqn) -> int | None:
    """Trips of `while i < bound: i += step` with static start, bound and step; None for any other loop."""
    params = eqn.params
    cond, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
    cond, _ = partial_eval.dce_jaxpr(cond, True, True)
    cond_consts = eqn.invars[: params["cond_nconsts"]]
    init = eqn.invars[params["cond_nconsts"] + params["body_nconsts"] :]
    carry = cond.invars[params["cond_nconsts"] :]
    body_carry = body.invars[params["body_nconsts"] :]
    if len(cond.eqns) != 1 or cond.eqns[0].primitive.name not in ("lt", "gt"):
        return None
    counter, limit = cond.eqns[0].invars[:: 1 if cond.eqns[0].primitive.name == "lt" else -1]
    if counter not in carry:
        return None
    index = carry.index(counter)

    if limit in carry:
        # fori_loop carries its bound along, unchanged.
        position = carry.index(limit)
        if body.outvars[position] is not body_carry[position]:
            return None
        bound = _static(init[position])
    elif limit in cond.invars:
        bound = _static(cond_consts[cond.invars.index(limit)])
    else:
        bound = _static(limit)
    step = _increment(body, index, body_carry[index])
    start = _static(init[index])
    if bound is None or start is None or step is None or step <= 0:
        return None
    return max(0, -(-(bound - start) // step))


def _static(atom: Any) -> int | None:
    return int(atom.val) if isinstance(atom, Literal) and _array(atom).dtype.kind in "iu" else None


def _increment(body: Jaxpr, index: int, counter: Any) -> int | None:
    """The literal that the body adds to its counter."""
    for eqn in body.eqns:
        if eqn.outvars[0] is body.outvars[index] and eqn.primitive.name == "add":
            amounts = [atom for atom in eqn.invars if atom is not counter]
            return _static(amounts[0]) if len(amounts) == 1 else None
    return None
