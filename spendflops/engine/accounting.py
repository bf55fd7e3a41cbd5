"""What a run writes into its ledger, and what it owes after a kill."""

from __future__ import annotations

from typing import Any

import jax

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.engine.program import Program
from spendflops.engine.rundir import Progress


def entry(role: str, program: Program, first: int, last: int) -> dict[str, Any]:
    """The fields of a row: calls [first, last) of a program."""
    cost, hardware = program.cost(), program.cost(hardware=True)
    return {
        "program": program.name,
        "role": role,
        "calls": last - first,
        "first": first,
        "last": last,
        "flops": cost.total,
        "phases": dict(cost.phases),
        "hardware_flops": hardware.total,
        "counter": f"{cost.counter} {hardware.counter}",
        "target": jax.default_backend(),
        "note": "" if hardware.total is not None else f"not counted: {', '.join(hardware.unknown)}",
    }


def record(ledger: Ledger, role: str, program: Program, *, last: int, seconds: float) -> bool:
    """Writes the row up to ``last``, unless it is there, and says whether it did."""
    first = ledger.steps(program.name)
    if first < last:
        ledger.append(Entry(**entry(role, program, first, last), seconds=seconds))
    return first < last


def permanent(step: int, *, every: int, leaves: int | None = None) -> int:
    """The last step up to ``step`` at which a row of the ledger ends: every so many steps, and where a trunk ends."""
    regular = step - step % every
    return regular if leaves is None or leaves > step else max(regular, leaves)


def settle(
    ledger: Ledger, role: str, program: Program, progress: Progress, *, first: int, written: int
) -> tuple[int, float]:
    """Writes what a killed attempt lost, and the row that its checkpoint had made permanent.

    Args:
        ledger: Of the run.
        role, program: Of the stage.
        progress: How far the attempt came.
        first: The step of the checkpoint.
        written: The last step up to there at which a row ends.

    Returns:
        The number of the next attempt, and the seconds that earlier ones spent on steps that no row holds yet.
    """
    attempt, reached, seconds = progress.read()
    if reached > first:
        part = (reached - first) / max(reached - ledger.steps(program.name), reached - first)
        fields = entry(role, program, first, reached)
        fields |= {"kind": "wasted", "note": f"attempt {attempt}", "seconds": part * seconds}
        # After a kill between these two lines the row is there already.
        if Entry(**fields) not in ledger.entries:
            ledger.append(Entry(**fields))
        seconds -= part * seconds
    progress.write(attempt + 1, first, seconds)
    if record(ledger, role, program, last=written, seconds=seconds):
        seconds = 0.0
    return attempt + 1, seconds
