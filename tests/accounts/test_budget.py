"""Budgets are read exactly and pay for whole steps."""

import pytest

from spendflops.accounts import budget
from spendflops.contracts.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("3e18", 3 * 10**18),
        ("3 EFLOP", 3 * 10**18),
        ("3EFLOPs", 3 * 10**18),
        ("2.5 TFLOP", 25 * 10**11),
        (1e12, 10**12),
        (7, 7),
        ("0", 0),
    ],
)
def test_flops(text, flops):
    parsed = budget.parse(text)
    assert (parsed.unit, parsed.amount) == ("flops", flops)


def test_steps_and_epochs():
    assert budget.parse("250000 steps").steps(flops_per_step=1, examples_per_step=1, examples=None) == 250_000
    assert budget.parse("100 epochs").steps(flops_per_step=1, examples_per_step=128, examples=1000) == 781
    assert budget.parse("1 epoch").unit == "epochs"


def test_a_budget_never_pays_for_a_part_of_a_step():
    three = budget.parse("3e18")
    assert three.steps(flops_per_step=10**18 + 1, examples_per_step=1, examples=None) == 2
    # Exact where a float division would round up.
    flops = 105_151_758_336 * 4096
    exact = budget.Budget(amount=three.amount * 0 + flops * 1000 - 1, unit="flops")
    assert exact.steps(flops_per_step=flops, examples_per_step=4096, examples=None) == 999


def test_epochs_of_unknown_data_are_an_error():
    with pytest.raises(ConfigError, match="needs the size of the data set"):
        budget.parse("2 epochs").steps(flops_per_step=1, examples_per_step=1, examples=None)


@pytest.mark.parametrize("text", ["", "three", "-1e18", "1e18 watts", "3 e", "2.5 steps", True, "1..2", "1e18 steps x"])
def test_nonsense_is_refused_with_the_forms_that_work(text):
    with pytest.raises(ConfigError, match="is not a budget"):
        budget.parse(text)


def test_shares_add_up():
    whole = budget.parse("1e12")
    assert whole.part(0.25).amount + whole.part(0.75).amount == whole.amount
