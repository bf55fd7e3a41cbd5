"""The checks of an objective's price: before compiling, after it, and by its formula."""

from __future__ import annotations

import numpy as np

from spendflops.testing.kit import CheckFailed, Skipped, needs
from spendflops.testing.model import Subject


@needs("loss")
def flops_batch(s: Subject) -> None:
    """FLOPs grow in proportion to the batch (with its square only where ``couples_batch`` is declared)."""
    costs = [s.program(batch_size=n * s.batch_size).cost().total for n in (1, 2, 3, 4)]
    growth = np.diff(costs)
    bends = np.diff(growth, n=2 if s.definition.example.couples_batch else 1)
    if min(growth) <= 0 or np.any(np.abs(bends) > 1e-3 * growth[0]):
        raise CheckFailed(
            f"1, 2, 3, 4 batches of {s.batch_size} cost {', '.join(f'{c:,}' for c in costs)} FLOPs",
            fix="set couples_batch = True if all examples meet each other; else look for work on whole batches",
        )


@needs("loss")
def flops_compiled(s: Subject) -> None:
    """The FLOPs counted before compiling and those of the compiled program agree within 1 %."""
    model, hardware = s.train.cost(), s.train.cost(hardware=True)
    if hardware.total is None:
        raise Skipped(f"the compiled program holds {', '.join(hardware.unknown)}, whose FLOPs are not known")
    if abs(hardware.total - hardware.rematted - model.total) > 0.01 * model.total:
        raise CheckFailed(
            f"{model.total:,} FLOPs before compiling, {hardware.total:,} after",
            why="the compiler removed work or does some again; the first number is what a budget pays",
            fix="remove products whose result is not used, and work under jax.vmap or scan that need not be repeated",
        )


@needs("loss")
def flops_closed_form(s: Subject) -> None:
    """The closed form, where there is one, is within 0.5 % of the FLOPs counted in the traced step."""
    if s.train.closed_form is None:
        raise Skipped("the objective or its backbone has no closed form")
    model = s.train.cost().total
    if abs(s.train.closed_form - model) > 0.005 * model:
        raise CheckFailed(
            f"{s.train.closed_form:,} FLOPs by the closed form, {model:,} in the traced step",
            why="one of them counts a product that the other does not have",
            fix="compare them at sizes where one term dominates; `spendflops plan` shows phases",
        )


CHECKS = (flops_batch, flops_compiled, flops_closed_form)
