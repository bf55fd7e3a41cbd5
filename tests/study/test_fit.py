"""Whether a step fits, and what would: against memories that are made up, with programs that are really compiled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import recipe, stage

from spendflops.accounts import machines
from spendflops.accounts.figures import Figure
from spendflops.contracts.errors import ConfigError
from spendflops.engine.build import build, build_stage
from spendflops.study import fit
from spendflops.study.report import planned

STAGE = stage("mae", batch_size=32)


def place(count, *, name="cpu of a test", devices=1):
    memory = None if count is None else Figure(value=count, source="a test", tag="assumed")
    return fit.Place(name=name, devices=devices, memory=memory)


def found(given, where):
    (row,) = fit.report(build(recipe(given)), where)
    return row


@pytest.fixture(scope="module")
def needed():
    return build_stage(STAGE).train.memory().peak


def test_a_step_that_fits_needs_no_remedy(needed):
    row = found(STAGE, place(needed))
    assert row["fits"] is True and row["memory_bytes"] == needed and row["remedies"] == []
    assert found(STAGE, place(needed - 1))["fits"] is False


def test_every_remedy_is_compiled_and_priced(needed):
    row = found(STAGE, place(needed - 1))
    lines = {line["remedy"]: line for line in row["remedies"]}
    assert list(lines) == ["chunked attention", "remat of blocks", "accumulation", "fewer examples a device"]
    plain = build_stage(STAGE).train.cost(hardware=True).total
    accumulated, spread = lines["accumulation"], lines["fewer examples a device"]
    assert accumulated["setting"] == "Stage.accumulate = 2" and accumulated["fits"]
    two = build_stage(stage("mae", batch_size=32, accumulate=2)).train
    assert accumulated["memory_bytes"] == two.memory().peak < needed
    assert accumulated["flops_ratio"] == two.cost(hardware=True).total / plain
    half = build_stage(stage("mae", batch_size=16)).train
    assert spread["setting"] == "2 times the devices" and spread["memory_bytes"] == half.memory().peak
    assert spread["flops_ratio"] == 2 * half.cost(hardware=True).total / plain
    # What is computed again is paid again.
    assert lines["remat of blocks"]["flops_ratio"] > 1.02 and lines["remat of blocks"]["setting"].endswith("'blocks'")
    text = "\n".join(planned._fit(row))
    assert (
        "does not fit: " in text and "accumulation: fits, " in text and "times the FLOPs: Stage.accumulate = 2" in text
    )


def test_where_nothing_is_enough_the_strongest_form_is_shown(monkeypatch):
    monkeypatch.setattr(fit, "REMEDIES", [r for r in fit.REMEDIES if r.name == "accumulation"])
    row = found(stage("mae", batch_size=4), place(1000))
    lines = {line["remedy"]: line for line in row["remedies"]}
    assert lines["accumulation"]["setting"] == "Stage.accumulate = 4" and lines["accumulation"]["fits"] is False


def test_where_examples_meet_accumulation_is_refused_with_the_reason():
    lines = {line["remedy"]: line for line in found(stage("simclr"), place(1000))["remedies"]}
    assert lines["accumulation"]["setting"] == "" and "the examples of a batch meet" in lines["accumulation"]["reason"]
    assert "examples meet across devices" in lines["fewer examples a device"]["reason"]


def test_a_machine_of_several_devices_has_a_share_of_the_batch_on_each():
    row = found(STAGE, place(10**12, devices=4))
    assert row["memory_bytes"] == build_stage(stage("mae", batch_size=8)).train.memory().peak
    assert row["note"] == "of a 4th of the batch, with all of the state"
    together = found(stage("simclr"), place(10**12, devices=4))
    assert (
        together["memory_bytes"] == build_stage(stage("simclr")).train.memory().peak and "examples" in together["note"]
    )
    with pytest.raises(ConfigError, match="a batch of 32 cannot be split over the 24 devices"):
        found(STAGE, place(10**12, devices=24))


def test_of_a_gpu_jax_takes_a_part_and_unknown_memory_stays_unknown():
    h100 = fit.of_machine(machines.parse("8xH100"))
    assert h100.devices == 8 and h100.usable == 0.75 * 80e9 and "75%" in h100.told
    tpu = fit.of_machine(machines.parse("2xTPUv3"))
    assert tpu.devices == 4 and tpu.usable == 2**34  # half of a chip's 32 GiB
    unknown = found(STAGE, place(None))
    assert unknown["fits"] is None and unknown["remedies"] == []
    assert "nobody knows whether it fits" in planned._fit(unknown)[0]
