"""Machines by name: what is known of each, with its source; what is not known is an error or None, never a guess."""

import re

import pytest

from spendflops.accounts import figures, hardware, machines, regions
from spendflops.contracts.errors import ConfigError

KINDS = {
    "TPU v2": "TPUv2",
    "TPU v3": "TPUv3",
    "TPU v4": "TPUv4",
    "TPU v5 lite": "TPUv5e",
    "TPU v5": "TPUv5p",
    "TPU v6 lite": "TPUv6e",
    "Tesla V100-SXM2-16GB": "V100-SXM2-16GB",
    "Tesla V100-SXM2-32GB": "V100-SXM2-32GB",
    "NVIDIA A100-SXM4-40GB": "A100-SXM4-40GB",
    "NVIDIA A100-SXM4-80GB": "A100-SXM4-80GB",
    "NVIDIA H100 80GB HBM3": "H100-SXM5",
    "NVIDIA H200": "H200-SXM",
    "NVIDIA B200": "B200-HGX",
}
TAGS = {"vendor", "published", "compiled", "second-hand"}


@pytest.mark.parametrize("name", ["hardware", "regions", "pue"])
def test_every_number_has_a_source_a_date_and_a_tag(name):
    rows = figures.table(name)
    assert rows
    for row in rows:
        assert row["source"] and re.match(r"20\d\d", row["date"]) and row["tag"] in TAGS, row


def test_the_tables_name_the_same_accelerators():
    known = {item.name for item in hardware.accelerators()}
    assert {row["accelerator"] for row in figures.table("hardware")} == known
    assert {row["accelerator"] for row in figures.table("calculator_hardware")} <= known
    names = [alias.lower() for item in hardware.accelerators() for alias in (item.name, *item.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_what_jax_calls_them_is_one_of_them(kind, name):
    assert hardware.of_kind(kind).name == name
    assert [item.name for item in hardware.accelerators() if re.search(item.kind, kind.lower())] == [name]


@pytest.mark.parametrize(
    "kind", ["NVIDIA A100-PCIE-40GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GH200 480GB", "NVIDIA GB200", "X"]
)
def test_another_variant_of_a_name_is_not_taken_for_it(kind):
    found = hardware.of_kind(kind)
    assert (found.name, found.watts, found.memory, found.peak("bfloat16")) == (kind, None, None, None)


def test_the_machine_of_the_paper():
    machine = machines.parse("32xTPUv3@europe-west1")
    assert (machine.count, machine.devices, str(machine)) == (32, 64, "32xTPUv3@europe-west1")
    assert machine.peak("bfloat16").value == 32 * 123e12
    assert machine.peak("float32").value == 32 * 123e12  # one pass in bfloat16
    assert machine.watts.value == 32 * 283 and machine.watts.range == (32 * 123, 32 * 450)
    assert machine.memory.value == 16 * 2**30  # of one of its two cores
    assert (machine.intensity.value, machine.intensity.range) == (103.37, (103.37, 123))
    assert machine.region.pue.value == 1.09


@pytest.mark.parametrize(
    ("text", "count", "name", "place"),
    [
        ("8xH100", 8, "H100-SXM5", "world"),
        ("1xH200@DE", 1, "H200-SXM", "DE"),
        ("h200", 1, "H200-SXM", "world"),
        ("4 x A100 @ us-central1", 4, "A100-SXM4-80GB", "us-central1"),
        ("2xv3", 2, "TPUv3", "world"),
    ],
)
def test_forms(text, count, name, place):
    machine = machines.parse(text)
    assert (machine.count, machine.accelerator.name, machine.region.name) == (count, name, place)


def test_a_gpu_multiplies_float32_as_tf32_and_has_no_power_but_its_limit():
    machine = machines.parse("8xA100")
    assert machine.peak("float32").value == 8 * 156e12 and machine.peak("bfloat16").value == 8 * 312e12
    assert machine.watts.range == (3200, 3200) and "full load" in machine.watts.source
    assert machines.parse("V100").peak("bfloat16") is None  # it has none
    assert machines.parse("V100").peak("float32").value == 15.7e12


def test_what_nobody_published_is_unknown():
    machine = machines.parse("4xTPUv5e")
    assert machine.watts is None and machine.peak("bfloat16").value == 4 * 197e12
    assert machine.peak("int8") is None


@pytest.mark.parametrize("text", ["", "0xH100", "8x", "8xH100@", "8xH100@europe-west1@x", "-1xH100", "8 H100"])
def test_nonsense_is_refused(text):
    with pytest.raises(ConfigError, match="is not a machine"):
        machines.parse(text)


def test_unknown_names_come_with_suggestions():
    with pytest.raises(ConfigError, match=r"unknown hardware 'TPUv33' \(did you mean"):
        machines.parse("8xTPUv33")
    with pytest.raises(ConfigError, match=r"unknown region 'europe-west99' \(did you mean 'europe-west9'"):
        machines.parse("8xH100@europe-west99")
    with pytest.raises(ConfigError, match=r"europe-west1 for 2015(.|\n)*2019, 2020"):
        machines.parse("8xH100@europe-west1:2015")


def test_intensities_are_dated_and_kinds_do_not_mix():
    place = regions.named("Europe-West1")
    assert [place.intensity(str(year)).value for year in range(2019, 2025)] == [196, 212, 110, 123, 122, 103.37]
    # 2019 and 2020 are life-cycle figures: they are no bound of an operational one.
    assert place.intensity().range == (103.37, 123)
    assert place.intensity("2019").range == (196, 196) and "lifecycle" in place.intensity("2019").source


def test_regions_without_a_published_pue_have_a_range():
    assert regions.named("eu-west-3").pue.value == 1.135
    assert regions.named("DE").pue.range == (1.0, 1.58) and regions.named("DE").pue.tag == "assumed"
    assert regions.named("world").intensity().range == (475, 481)


def test_this_is_the_machine_that_is_asked_on():
    tpus = machines.Host(kind="TPU v3", devices=8, cores=96)
    assert str(machines.parse("this@europe-west4", here=tpus)) == "4xTPUv3@europe-west4"
    processor = machines.Host(kind="cpu", devices=1, cores=4, memory=8 * 2**30)
    machine = machines.parse("this", here=processor)
    assert (machine.watts.value, machine.watts.tag, machine.memory.value) == (40, "assumed", 8 * 2**30)
    assert machine.peak("float32") is None
    for text, here in (("this", None), ("2xthis", processor)):
        with pytest.raises(ConfigError, match="means no machine"):
            machines.parse(text, here=here)


def test_sources_can_be_read():
    watts = machines.parse("32xTPUv3").watts
    assert "Patterson et al. 2021" in str(watts) and str(watts).endswith("x 32 (2021, published)")
    assert str(figures.given(3.0)) == "given by the user (given)"
