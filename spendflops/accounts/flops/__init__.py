"""FLOP counters: the jaxpr walk (B) and the optimised HLO reader (C).

One multiply-add is 2 FLOPs, numbers are global (all devices) and exact Python ints. Counters B and C share only the
`Cost` they return, so that agreement between them is evidence.
"""

from typing import Any

from spendflops.accounts.flops.cost import PHASES, Cost, Op, UncountedWork
from spendflops.accounts.flops.hlo import count_hlo, hlo_text

__all__ = ["PHASES", "Cost", "Op", "UncountedWork", "count_hlo", "count_jaxpr", "hlo_text"]


def __getattr__(name: str) -> Any:
    # Ledgers and reports read costs without jax; only the jaxpr walk needs it.
    if name != "count_jaxpr":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spendflops.accounts.flops.jaxpr import count_jaxpr

    return count_jaxpr
