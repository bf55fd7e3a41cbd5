"""What counters say of a run is in its folder and in its result, over all its attempts, or null with the reason."""

import json
import time

import pytest
from enginelib import recipe

from spendflops.accounts import energy
from spendflops.engine import metering
from spendflops.engine.loop import run_recipe
from spendflops.study.grid import Planned
from spendflops.study.points import Row
from spendflops.study.results import finished_row


class Meter:
    """A counter that has moved by 36 joules from its second reading on."""

    def __init__(self, name="RAPL package-0", *, complete=True, missing=None, joules=36.0):
        self.counters, self.missing, self.complete = {name: None}, missing or {}, complete
        self.moved, self.readings, self.closed = joules, 0, False

    def joules(self):
        self.readings += 1
        return {name: self.moved if self.readings > 1 else 0.0 for name in self.counters}

    def close(self):
        self.closed = True


def attempt(folder, *args, **options):
    meter = Meter(*args, **options)
    with metering.metered(folder, meter):
        pass
    assert meter.closed


def test_joules_of_one_attempt(tmp_path):
    attempt(tmp_path)
    found = metering.measured(tmp_path)
    assert found["kwh"] == pytest.approx(36 / 3.6e6) and found["reason"] == found["note"] == ""
    assert found["counters"] == ["RAPL package-0"] and found["seconds"] > 0


def test_attempts_add_up_and_a_killed_one_is_named(tmp_path):
    attempt(tmp_path)
    path = tmp_path / metering.FILE
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "closed": False}]))  # as after kill -9
    attempt(tmp_path)
    found = metering.measured(tmp_path)
    assert found["kwh"] == pytest.approx(72 / 3.6e6) and "1 attempts were killed" in found["note"]


def test_a_long_attempt_is_read_in_between(tmp_path):
    meter = Meter()
    with metering.metered(tmp_path, meter, every=0.01):
        deadline = time.monotonic() + 10
        while meter.readings < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        row = json.loads((tmp_path / metering.FILE).read_text())[0]
    assert meter.readings >= 4 and not row["closed"] and row["joules"]["RAPL package-0"] == 36


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"complete": False, "missing": {"NVML GPU-1": "Not Supported"}}, "NVML GPU-1: Not Supported"),
        ({"joules": 0.0}, "did not move"),
    ],
)
def test_what_is_not_measured_is_null_with_the_reason(tmp_path, options, reason):
    attempt(tmp_path, **options)
    found = metering.measured(tmp_path)
    assert found["kwh"] is None and reason in found["reason"]


def test_other_counters_after_an_interruption_are_no_sum(tmp_path):
    attempt(tmp_path)
    attempt(tmp_path, "RAPL package-1")
    assert metering.measured(tmp_path)["kwh"] is None
    assert "different counters" in metering.measured(tmp_path)["reason"]


def test_a_run_that_nobody_metered(tmp_path):
    assert metering.measured(tmp_path) == {
        "kwh": None,
        "reason": "nothing was read",
        "seconds": 0,
        "counters": [],
        "missing": {},
        "note": "",
    }


def test_an_error_of_the_run_closes_the_counters(tmp_path):
    meter = Meter()
    with pytest.raises(ZeroDivisionError), metering.metered(tmp_path, meter):
        1 / 0  # noqa: B018
    assert meter.closed and json.loads((tmp_path / metering.FILE).read_text())[0]["closed"]


def test_a_measured_run_becomes_a_row_that_says_where_it_ran(tmp_path, monkeypatch):
    monkeypatch.setattr(metering, "this_meter", Meter)
    made = recipe(budget="1 steps")
    result = run_recipe(made, tmp_path, quiet=True, region="europe-west1")
    assert result["energy"]["kwh"] == pytest.approx(36 / 3.6e6)
    row = finished_row(Planned(label="mae", kind="method", seed=0, budget=None, recipe=made), tmp_path, result)
    assert row.measured.basis == "measurement" and row.measured.machine == "1xcpu@europe-west1"
    assert row.measured.kg == pytest.approx(36 / 3.6e6 * 1.09 * 0.10337) and row.measured_reason == ""
    assert row.footprint.basis == "estimate" and "region-carbon-info" in row.footprint.intensity_source
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    # A result of a time without counters is read as unknown.
    del result["energy"]
    old = finished_row(Planned(label="mae", kind="method", seed=0, budget=None, recipe=made), tmp_path, result)
    assert old.measured is None and "older" in old.measured_reason


def test_a_machine_without_counters_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(metering, "this_meter", lambda: energy.Meter("cpu", 1, powercap=tmp_path, locks=tmp_path))
    result = run_recipe(recipe(budget="1 steps"), tmp_path / "run", quiet=True)
    assert result["energy"]["kwh"] is None and "no zone of a processor" in result["energy"]["reason"]
