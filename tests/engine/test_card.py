"""Model cards of exports: the public metadata's names, types and unit; estimates and measurements apart; no zeros."""

import json
import re
import shutil

import enginelib
import pytest

from spendflops.accounts.footprint import estimate
from spendflops.engine import card, convert
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe

yaml = pytest.importorskip("yaml")

# huggingface.co/docs/hub/model-cards-co2: what the hub reads of a card's front matter.
EMISSIONS = {
    "emissions": (int, float),  # grams
    "source": str,
    "training_type": str,
    "geographical_location": str,
    "hardware_used": str,
}
TRAININGS = ("pre-training", "fine-tuning")


def front_matter(content):
    """The data between the first two lines of three dashes, as the hub takes them out."""
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", content)
    return yaml.safe_load(found[2])


def check(data):
    """Raises where the front matter is not what the hub reads."""
    assert isinstance(data["library_name"], str) and isinstance(data["pipeline_tag"], str)
    assert all(isinstance(tag, str) for tag in data["tags"])
    if "co2_eq_emissions" in data:
        found = data["co2_eq_emissions"]
        assert set(found) == set(EMISSIONS) and found["training_type"] in TRAININGS
        for name, kind in EMISSIONS.items():
            assert isinstance(found[name], kind) and not isinstance(found[name], bool)
        assert found["emissions"] > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "run"
    run_recipe(enginelib.recipe(evaluations=(enginelib.knn(),)), folder, quiet=True)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def changed(run, **changes):
    """The front matter of the run with another ``result.json``."""
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, **changes}))
    return front_matter(card.text(load(run).origin, run, layout="timm")), {**result, **changes}


UNREAD = {"kwh": None, "reason": "RAPL: no zone", "counters": [], "seconds": 2.0}
READ = {"kwh": 0.004, "reason": "", "counters": ["NVML 0", "RAPL"], "seconds": 1800.0}


def test_an_estimate_is_in_grams_and_says_what_it_is(run):
    seconds = {"prior": 9e9, "pretrain": 5400.0, "transfer": 0.0, "evaluate": 1800.0}
    data, result = changed(run, energy=UNREAD, seconds=seconds)
    check(data)
    told = json.loads((run / "environment.json").read_text())
    wanted = estimate(hours=2.0, machine=card.machine_of(result["devices"], told))  # not what it started from
    found = data["co2_eq_emissions"]
    assert found["emissions"] == pytest.approx(1000 * wanted.kg, rel=1e-5)
    assert "estimated, not measured" in found["source"] and "g CO2e/kWh" in found["source"]
    assert found["training_type"] == "pre-training" and found["geographical_location"] == "world"
    ours = data["spendflops"]
    assert ours["co2_measured_grams"] is None and ours["co2_measured_reason"] == "RAPL: no zone"
    assert ours["co2_estimated_grams"] == found["emissions"]
    assert ours["co2_estimated_range_grams"][0] <= found["emissions"] <= ours["co2_estimated_range_grams"][1]


def test_a_measurement_takes_the_place_of_the_estimate_and_is_not_added(run):
    data, _ = changed(run, energy=READ)
    check(data)
    found, ours = data["co2_eq_emissions"], data["spendflops"]
    assert found["emissions"] == ours["co2_measured_grams"] == pytest.approx(4 * 0.475 * 1.0, rel=1e-3)
    assert "measured by energy counters" in found["source"] and "NVML 0, RAPL" in found["source"]
    assert ours["co2_estimated_grams"] != found["emissions"] and "co2_measured_reason" not in ours


def test_flops_are_exact_and_unknown_ones_are_null(run):
    flops = json.loads((run / "result.json").read_text())["flops"] | {"pretrain": 2**60 + 1, "prior": None}
    data, _ = changed(run, flops=flops)
    found = data["spendflops"]["flops"]
    assert found["pre-training"] == "1152921504606846977" and found["what it started from"] is None
    content = card.text(load(run).origin, run, layout="timm")
    assert "| what it started from | unknown |" in content and "| pre-training | 1152921504606846977 |" in content
    assert "knn (bank" in content and "accuracy" in content


def test_without_a_power_there_is_no_number(run, monkeypatch):
    unknown = estimate(hours=1, machine=card.machine_of(["cpu"], {"cores": 2}))
    unknown = type(unknown)(**{**vars(unknown), **dict.fromkeys(("kwh", "kg", "kg_low", "kg_high", "watts"))})
    monkeypatch.setattr(card, "estimate", lambda **_: unknown)
    data, _ = changed(run, energy=UNREAD)
    check(data)
    assert "co2_eq_emissions" not in data and data["spendflops"]["co2_estimated_grams"] is None
    assert "Unknown: RAPL: no zone." in card.text(load(run).origin, run, layout="timm")


def test_folders_get_a_card_and_files_and_what_is_there_do_not(run, tmp_path):
    model, out = load(run), tmp_path / "out"
    assert any("the model card" in line for line in convert.export(model, using="timm", out=out, run=run))
    check(front_matter((out / card.FILE).read_text()))
    convert.export(model, using="timm", out=tmp_path / "alone" / "x.safetensors", run=run)
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["x.safetensors"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / card.FILE).write_text("mine")
    assert any("stays as it is" in line for line in convert.export(model, using="spendflops", out=mine, run=run))
    assert (mine / card.FILE).read_text() == "mine"


def test_imported_weights_and_unfinished_runs_say_why_they_have_no_footprint(run, tmp_path):
    convert.export(load(run), using="spendflops", out=tmp_path / "own", run=run)
    data = front_matter(card.text(load(tmp_path / "own").origin, None, layout="timm"))
    check(data)
    assert "imported" in data["spendflops"]["co2_measured_reason"] and "co2_eq_emissions" not in data
    (run / "result.json").unlink()
    data = front_matter(card.text(load(run).origin, run, layout="timm"))
    check(data)
    assert data["spendflops"]["co2_measured_reason"] == "the run is not finished"


def test_the_hubs_own_reader_takes_it(run):
    hub = pytest.importorskip("huggingface_hub")
    content = card.text(load(run).origin, run, layout="timm")
    data = hub.ModelCard(content).data.to_dict()
    assert data["co2_eq_emissions"]["training_type"] == "pre-training" and data["library_name"] == "spendflops"
