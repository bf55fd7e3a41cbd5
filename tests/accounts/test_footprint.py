"""Footprints: the calculator's arithmetic (case T11), the estimate by hand, and what must never be mixed."""

import pytest

from spendflops.accounts import footprint
from spendflops.contracts.errors import ConfigError


def test_t11_calculator_of_mlco2():
    got = footprint.mlco2(283, 100, g_per_kwh=267)
    assert (got.kwh, got.kg_per_kwh, got.kg) == (28.3, 0.27, 7.64)
    assert round(got.kg * 32, 6) == 244.48
    unrounded = footprint.estimate(hours=100, watts=283, intensity=267)
    assert unrounded.kg * 32 == pytest.approx(241.7952, rel=1e-12)


@pytest.mark.parametrize(("grams", "shown"), [(16, 0.02), (34.5, 0.03), (267, 0.27)])
def test_calculator_truncates_and_rounds_the_intensity(grams, shown):
    assert footprint.mlco2(1000, 1, g_per_kwh=grams).kg_per_kwh == shown


def test_calculator_rounds_exact_ties_up_as_javascript_does():
    assert footprint.mlco2(125, 1, g_per_kwh=0).kwh == 0.13  # 0.125 is exact in binary; Python's round gives 0.12
    assert footprint.mlco2(283, 100, g_per_kwh=267, offset_percent=100).offset_kg == 7.64


def test_estimate_by_hand():
    got = footprint.estimate(hours=2.0, watts=300, intensity=100, pue=1.5)
    assert got.kwh == pytest.approx(0.9)
    assert got.kg == pytest.approx(0.09)
    assert got.basis == "estimate"
    assert all("given by the user" in sentence for sentence in got.sources)


def test_defaults_are_assumptions_with_their_source():
    got = footprint.estimate(hours=1, device="cpu", cores=4)
    assert (got.watts, got.intensity_g_per_kwh, got.pue) == (40, 475, 1)
    assert got.kg == pytest.approx(0.04 * 0.475)
    power, intensity, pue = got.sources
    assert "assumption" in power and "codecarbon" in intensity and "assumed" in pue


@pytest.mark.parametrize(
    ("device", "watts"),
    [
        ("NVIDIA H200", 700),
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA A100-SXM4-80GB", 400),
        ("Tesla V100-SXM2-16GB", 300),
        ("TPU v3", 141.5),
        ("TPU v4", 170),
    ],
)
def test_known_devices_scale_with_their_number(device, watts):
    assert footprint.assumed_watts(device, devices=1)[0] == watts
    assert footprint.assumed_watts(device, devices=8)[0] == 8 * watts


@pytest.mark.parametrize("device", ["NVIDIA A100-PCIE-40GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "TPU v6 lite", "X"])
def test_an_unknown_power_is_unknown_not_zero(device):
    got = footprint.estimate(hours=1, device=device)
    assert (got.watts, got.kwh, got.kg) == (None, None, None)
    assert device in got.watts_source


def test_estimates_and_measurements_do_not_share_a_sum():
    one = footprint.estimate(hours=1, watts=100)
    two = footprint.measured(hours=1, kwh=0.2, counter="NVML, board only")
    assert two.watts == pytest.approx(200) and two.basis == "measurement"
    assert footprint.total([one, one]) == pytest.approx((2, 0.2, 0.095))
    with pytest.raises(ConfigError, match="added"):
        footprint.total([one, two])


def test_one_unknown_makes_the_sum_unknown():
    items = [footprint.estimate(hours=1, watts=100), footprint.estimate(hours=1, device="?")]
    assert footprint.total(items) == (2, None, None)


def test_a_counter_that_does_not_count_is_an_error():
    with pytest.raises(ConfigError, match="0 kWh"):
        footprint.measured(hours=1, kwh=0, counter="NVML")


@pytest.mark.parametrize("wrong", [{"hours": -1}, {"watts": -1}, {"intensity": -1}, {"pue": 0.9}])
def test_impossible_factors(wrong):
    with pytest.raises(ConfigError):
        footprint.estimate(**{"hours": 1, "watts": 1, **wrong})
