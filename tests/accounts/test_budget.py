"""Budgets are read exactly and pay for whole steps."""

import json

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


# By hand: hours x 3600 x peak x utilisation; kWh / PUE / watts; kg / g per kWh.
@pytest.mark.parametrize(
    ("text", "hours", "flops"),
    [
        ("2h@1xH200", 2, 2 * 3600 * 989e12 * 0.4),
        ("2 h @ 8xH200 @ 50%", 2, 2 * 3600 * 8 * 989e12 * 0.5),
        ("0.5h@V100", 0.5, 1800 * 125e12 * 0.4),
        ("3kWh@8xH100@35%", 3000 / 5600, 3000 / 5600 * 3600 * 8 * 989.5e12 * 0.35),
        ("1e3 kWh@32xTPUv3@europe-west1", 1e6 / (32 * 283 * 1.09), 1e6 / (32 * 283 * 1.09) * 3600 * 32 * 123e12 * 0.4),
        ("5kgCO2@8xA100@europe-west4", 5000 / 208.81 * 1000 / 3200 / 1.09, None),
        ("5 kg CO2e@8xA100@europe-west4:2021", 5000 / 283 * 1000 / 3200 / 1.09, None),
    ],
)
def test_hours_energy_and_carbon_become_flops(text, hours, flops):
    parsed = budget.parse(text)
    assert parsed.unit == "flops" and parsed.converted.flops == int(parsed.amount)
    assert parsed.converted.hours == pytest.approx(hours, rel=1e-12)
    if flops is not None:
        assert int(parsed.amount) == pytest.approx(flops, rel=1e-12)
    machine, used = parsed.converted.machine, parsed.converted.factors["utilisation"].value
    back = int(parsed.amount) / (parsed.converted.factors["peak"].value * used) / 3600
    assert back == pytest.approx(hours, rel=1e-12) and machine.count >= 1


def test_a_converted_budget_says_every_factor():
    parsed = budget.parse("5kgCO2@8xA100@europe-west4")
    told, kept = str(parsed.converted), parsed.converted.to_json()
    assert list(kept["factors"]) == ["utilisation", "peak", "watts", "pue", "intensity"]
    for words in ("0.4 of the peak: a guess", "bfloat16 2.496e+15", "3200 W", "1.09 x", "208.81 g CO2e/kWh", "(2024,"):
        assert words in told
    assert kept["flops"] == int(parsed.amount) and json.loads(json.dumps(kept)) == kept
    assert all(factor["source"] for factor in kept["factors"].values())
    assert str(parsed).endswith("(5kgCO2@8xA100@europe-west4)")
    assert parsed.part(1.0) == parsed and parsed.part(0.5).converted is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2h@this", "another budget on every machine"),
        ("2h@", "is not a machine"),
        ("2h@8xH101", "unknown hardware"),
        ("2h@H200@120%", "a utilisation of 1.2"),
        ("2h@H200@0%", "a utilisation of 0"),
        ("1kWh@4xTPUv5e", "no power of TPUv5e"),
        ("1kgCO2@A100@northamerica-northeast1:2021", "has no end"),
        ("2 steps@H200", "is not a budget"),
        ("..h@H200", "is not a budget"),
    ],
)
def test_what_cannot_become_flops(text, reason):
    with pytest.raises(ConfigError, match=reason):
        budget.parse(text)


@pytest.mark.parametrize(
    "text", ["", "2h", "5 kgCO2", "three", "-1e18", "1e18 watts", "3 e", "2.5 steps", True, "1..2", "1e18 steps x"]
)
def test_nonsense_is_refused_with_the_forms_that_work(text):
    with pytest.raises(ConfigError, match="is not a budget"):
        budget.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e18 FLOPS", "FLOPs an amount"),
        ("1e15 FLOP/s", "FLOPs an amount"),
        ("2h", "depends on the machine"),
        ("5 kgCO2", "depends on the machine"),
        ("0.1 steps", "a step is made or not"),
        ("1e400", r"more than 1e\+100"),
        ("1e400h@1xH200", r"more than 1e\+100"),
    ],
)
def test_what_is_nearly_a_budget_is_told_what_is_missing(text, why):
    with pytest.raises(ConfigError, match=f"is not a budget\n  why: .*{why}"):
        budget.parse(text)


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1e999999999h@1xH200"])
def test_a_power_of_ten_without_end_is_refused_before_it_is_computed(text):
    with pytest.raises(ConfigError, match="is not a budget"):
        budget.parse(text)


def test_shares_add_up():
    whole = budget.parse("1e12")
    assert whole.part(0.25).amount + whole.part(0.75).amount == whole.amount
