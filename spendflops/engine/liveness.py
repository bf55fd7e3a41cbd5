"""How much memory a traced program holds at once, before anything is compiled: a bound, not what a compiler needs.

The program is followed in its order: a result is there from its equation to its last use, an argument that may be
reused until its last use, every other one to the end. Nothing is fused and nothing is reordered; compilers do both, and
need less, but for the copies and padding of their layouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval


def peak_bytes(closed_jaxpr: ClosedJaxpr, *, reusable: Iterable[int] = ()) -> int:
    """The most that a call holds at once, all devices together, arguments and results among it.

    Args:
        closed_jaxpr: What was traced.
        reusable: Positions of the (flat) arguments whose memory is given away.
    """
    program, _ = partial_eval.dce_jaxpr(closed_jaxpr.jaxpr, [True] * len(closed_jaxpr.jaxpr.outvars), True)
    given = set(reusable)
    kept = {var for place, var in enumerate(program.invars) if place not in given}
    arguments = sum(_bytes(var) for var in (*program.invars, *program.constvars))
    return arguments + _walk(program, free={var for var in program.invars if var not in kept})


def _walk(program: Jaxpr, *, free: set[Var]) -> int:
    """Peak of what is held beyond the arguments, of which those in ``free`` may be given away."""
    last = {var: None for var in program.outvars if isinstance(var, Var)}
    uses: dict[Var, int] = {}
    for place, eqn in enumerate(program.eqns):
        for var in eqn.invars:
            if isinstance(var, Var):
                uses[var] = place
    held = peak = 0
    mine = set(free)
    for place, eqn in enumerate(program.eqns):
        results = sum(_bytes(var) for var in eqn.outvars)
        peak = max(peak, held + max(results, _inside(eqn)))
        held += results
        mine.update(eqn.outvars)
        # What nobody reads again, and what nobody reads at all.
        touched = {v for v in (*eqn.invars, *eqn.outvars) if isinstance(v, Var)}
        done = [v for v in touched if v in mine and uses.get(v, place) == place]
        for var in done:
            if var not in last:
                held -= _bytes(var)
                mine.discard(var)
    return max(peak, held)


def _inside(eqn: JaxprEqn) -> int:
    """Peak inside an equation that holds programs (of a conditional the largest), their results among it."""
    return max((_walk(program, free=set()) for program in _programs(eqn.params.values())), default=0)


def _programs(values: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _bytes(atom: Any) -> int:
    if isinstance(atom, Literal):
        return 0
    # A random key is two words.
    return math.prod(atom.aval.shape) * getattr(atom.aval.dtype, "itemsize", 8)
