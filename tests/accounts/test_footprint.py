"""Footprints: the calculator's arithmetic (case T11), the estimate by hand with its range, and what never mixes."""

import dataclasses
import json

import pytest

from spendflops.accounts import footprint, machines
from spendflops.accounts.footprint import Footprint
from spendflops.contracts.errors import ConfigError

PAPER = machines.parse("32xTPUv3@europe-west1")
HERE = machines.Host(kind="cpu", devices=1, cores=4)
THIS = machines.parse("this", here=HERE)


def test_t11_calculator_of_mlco2():
    got = footprint.mlco2(283, 100, g_per_kwh=267)
    assert (got.kwh, got.kg_per_kwh, got.kg) == (28.3, 0.27, 7.64)


def test_the_calculator_on_the_machine_of_the_paper():
    got = footprint.calculator(hours=100, machine=PAPER)
    assert (got.kwh, got.kg, got.basis) == (905.6, 244.48, "mlco2")
    assert (got.watts, got.intensity_g_per_kwh, got.pue) == (32 * 283, 267, 1)
    # The year of a region is the estimate's: the calculator knows one number.
    assert footprint.calculator(hours=100, machine=machines.parse("32xTPUv3@europe-west1:2021")).kg == 244.48
    assert "0.27 kg" in got.intensity_source and "100 % offset, 244.48 kg" in got.intensity_source


@pytest.mark.parametrize(("grams", "shown"), [(16, 0.02), (34.5, 0.03), (267, 0.27)])
def test_calculator_truncates_and_rounds_the_intensity(grams, shown):
    assert footprint.mlco2(1000, 1, g_per_kwh=grams).kg_per_kwh == shown


def test_calculator_rounds_exact_ties_up_as_javascript_does():
    assert footprint.mlco2(125, 1, g_per_kwh=0).kwh == 0.13  # 0.125 is exact in binary; Python's round gives 0.12
    assert footprint.mlco2(283, 100, g_per_kwh=267, offset_percent=100).offset_kg == 7.64


@pytest.mark.parametrize("machine", ["8xH200@europe-west1", "8xTPUv3@DE", "8xTPUv3"])
def test_what_the_calculator_does_not_know_is_an_error(machine):
    with pytest.raises(ConfigError, match="the calculator's figures of"):
        footprint.calculator(hours=1, machine=machines.parse(machine))


def test_estimate_by_hand():
    got = footprint.estimate(hours=100, machine=PAPER)
    assert got.kwh == pytest.approx(32 * 28.3 * 1.09)
    assert got.kg == pytest.approx(32 * 28.3 * 1.09 * 0.10337)
    assert (got.kwh_low, got.kwh_high) == pytest.approx((32 * 12.3 * 1.09, 32 * 45 * 1.09))
    assert (got.kg_low, got.kg_high) == pytest.approx((32 * 12.3 * 1.09 * 0.10337, 32 * 45 * 1.09 * 0.123))
    assert (got.basis, got.machine) == ("estimate", "32xTPUv3@europe-west1")
    power, intensity, pue = got.sources
    assert "Patterson et al. 2021" in power and "3936 to 14400 W" in power
    assert "(2024, published); 103.37 to 123 g" in intensity and "1.09" in pue


def test_the_year_of_the_intensity_moves_the_estimate():
    then = footprint.estimate(hours=1, machine=machines.parse("32xTPUv3@europe-west1:2021"))
    now = footprint.estimate(hours=1, machine=PAPER)
    assert then.kg / now.kg == pytest.approx(110 / 103.37) and then.kwh == now.kwh


def test_given_watts_have_no_range():
    got = footprint.estimate(hours=2.0, machine=THIS, watts=300)
    assert (got.kwh, got.kg) == pytest.approx((0.6, 0.6 * 0.475))
    assert (got.kwh_low, got.kwh_high) == pytest.approx((0.6, 0.6 * 1.58))  # the PUE is not known
    assert "given by the user" in got.watts_source


def test_defaults_are_assumptions_with_their_source():
    got = footprint.estimate(hours=1, machine=THIS)
    assert (got.watts, got.intensity_g_per_kwh, got.pue) == (40, 475, 1)
    assert got.kg == pytest.approx(0.04 * 0.475)
    assert [word in line for word, line in zip(("assumed", "codecarbon", "assumed"), got.sources, strict=True)]
    assert (got.kg_low, got.kg_high) == pytest.approx((0.04 * 0.475, 0.04 * 0.481 * 1.58))


@pytest.mark.parametrize("kind", ["NVIDIA A100-PCIE-40GB", "TPU v6 lite"])
def test_an_unknown_power_is_unknown_not_zero(kind):
    here = machines.Host(kind=kind, devices=8, cores=1)
    got = footprint.estimate(hours=1, machine=machines.parse("this", here=here))
    assert (got.watts, got.kwh, got.kg, got.kg_low, got.kg_high) == (None,) * 5
    assert "no published figure" in got.watts_source
    assert footprint.estimate(hours=1, machine=machines.parse("this", here=here), watts=100).kwh == 0.1


def test_a_measurement_by_hand():
    got = footprint.measured(hours=2, kwh=0.4, counters="NVML GPU-1", machine=machines.parse("H200@europe-west1"))
    assert got.watts == pytest.approx(200) and got.basis == "measurement"
    assert (got.kwh, got.kg) == pytest.approx((0.4 * 1.09, 0.4 * 1.09 * 0.10337))
    assert "measured by NVML GPU-1" in got.watts_source


def test_kinds_of_footprints_do_not_share_a_sum():
    one = footprint.estimate(hours=1, machine=THIS, watts=100)
    others = (
        footprint.measured(hours=1, kwh=0.2, counters="NVML", machine=THIS),
        footprint.calculator(hours=1, machine=PAPER),
    )
    assert footprint.total([one, one]) == pytest.approx((2, 0.2, 0.095))
    for other in others:
        with pytest.raises(ConfigError, match="are added"):
            footprint.total([one, other])


def test_one_unknown_makes_the_sum_unknown():
    unknown = footprint.estimate(hours=1, machine=machines.parse("TPUv5e"))
    assert footprint.total([footprint.estimate(hours=1, machine=THIS), unknown]) == (2, None, None)


def test_a_counter_that_does_not_count_is_an_error():
    with pytest.raises(ConfigError, match="0 kWh"):
        footprint.measured(hours=1, kwh=0, counters="NVML", machine=THIS)


@pytest.mark.parametrize("wrong", [{"hours": -1}, {"watts": -1}, {"hours": float("nan")}])
def test_impossible_factors(wrong):
    with pytest.raises(ConfigError, match="at least 0"):
        footprint.estimate(**{"hours": 1, "machine": THIS, **wrong})


def test_what_was_stored_before_there_were_ranges_can_be_read():
    stored = {
        "hours": 0.5,
        "watts": 20,
        "watts_source": "an assumption",
        "intensity_g_per_kwh": 475.0,
        "intensity_source": "world average",
        "pue": 1.0,
        "pue_source": "assumed",
        "kwh": 0.01,
        "kg": 0.00475,
        "basis": "estimate",
    }
    old = Footprint(**stored)
    assert (old.kg, old.kg_low, len(old.sources)) == (0.00475, None, 3)
    new = footprint.estimate(hours=1, machine=PAPER)
    assert Footprint(**json.loads(json.dumps(dataclasses.asdict(new)))) == new
