"""Guard -> how to remove it -> the test that must notice."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One guard: the text ``old`` in ``file`` becomes ``new``, and ``test`` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


FLOPS = "tests/accounts/flops"
PLUGINS = "plugins/spendflops_plugins"

MUTATIONS = (
    Mutation(
        "scan bodies count once",
        "spendflops/accounts/flops/jaxpr.py",
        'eqn.params["length"])',
        "1)",
        f"{FLOPS}/test_flops_jaxpr.py::test_t2_scan",
    ),
    Mutation(
        "dead code is counted",
        "spendflops/accounts/flops/jaxpr.py",
        "program, _ = partial_eval.dce_jaxpr(program, True)",
        "",
        f"{FLOPS}/test_flops_jaxpr.py::test_dead_products_vanish",
    ),
    Mutation(
        "biased variance in MAE's targets",
        f"{PLUGINS}/mae.py",
        "ddof=1",
        "ddof=0",
        "tests/plugins/test_mae.py::test_t7_unbiased_variance",
    ),
    Mutation(
        "stop-gradient on the negatives",
        f"{PLUGINS}/simclr.py",
        '"ie,je->ij", z, z,',
        '"ie,je->ij", z, jax.lax.stop_gradient(z),',
        "tests/plugins/test_simclr.py::test_t6_gradient_flows_through_the_negatives",
    ),
    Mutation(
        "padding counts in the mIoU",
        f"{PLUGINS}/segmentation_miou.py",
        'labels = jnp.where(batch["_mask"][:, None, None], masks, IGNORE)',
        "labels = masks",
        "tests/plugins/test_segmentation_miou.py",
    ),
    Mutation(
        "budgets through floats",
        "spendflops/accounts/budget.py",
        "return int(self.amount // flops_per_step)",
        "return int(float(self.amount) / float(flops_per_step))",
        "tests/accounts/test_budget.py::test_a_budget_never_pays_for_a_part_of_a_step",
    ),
    Mutation(
        "a half-written ledger line stays",
        "spendflops/accounts/ledger.py",
        "file.truncate(len(whole))",
        "pass",
        "tests/accounts/test_ledger.py::test_a_half_written_line_is_dropped_and_the_next_row_is_whole",
    ),
    Mutation(
        "late groups start at once",
        "spendflops/engine/optim.py",
        "if group.start:",
        "if False:",
        "tests/engine/test_optim.py::test_a_group_that_has_not_started_does_not_decay",
    ),
)
