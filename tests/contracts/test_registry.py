"""Plugins are found without importing them, and what is wrong with one is said when it is used."""

from __future__ import annotations

import pickle
import sys
import textwrap

import pytest

from spendflops.contracts import errors, registry


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes distributions into a folder that Python looks into."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, version, points, **modules):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [line for group, names in points.items() for line in (f"[spendflops.{group}]", *names)]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        return tmp_path

    yield install
    for module in [name for name in sys.modules if name.startswith("reg_")]:
        del sys.modules[module]


GOOD = """
    from spendflops.contracts.dataset import Dataset
    from spendflops.contracts.types import DatasetInfo

    class Good(Dataset):
        info = DatasetInfo(name="good", features={})
        def __init__(self, *, path: str = ""):
            pass
        def source(self, split, *, features):
            return []

    class Old(Good):
        api_version = 7

    class Loose(Good):
        def __init__(self, **options):
            pass

    class Half:
        info = None

    number = 3
"""


def test_metadata_are_read_once_a_distribution_and_may_lack_a_name(site, monkeypatch):
    folder = site(
        "one", "1.0", {"datasets": ["good = reg_good:Good", "more = reg_good:Good"], "evaluators": ["e = m:E"]}
    )
    half = folder / "half-1.0.dist-info"
    half.mkdir()
    (half / "entry_points.txt").write_text("[spendflops.datasets]\nlost = nowhere:Lost\n")  # no METADATA yet
    read, about = [], registry._about
    monkeypatch.setattr(registry, "_about", lambda dist: read.append(dist) or about(dist))
    found = {e.name: e for e in registry.entries() if e.name in ("good", "more", "e", "lost")}
    assert len(found) == 4 and {found[n].distribution for n in ("good", "more", "e")} == {"one"}
    assert (found["lost"].distribution, found["lost"].version) == ("?", "?")
    assert len(read) == len(set(read)) < len(registry.entries())


def test_listing_imports_nothing_and_loading_imports_one(site):
    site("one", "1.0", {"datasets": ["good = reg_good:Good", "worse = reg_worse:Worse"]}, reg_good=GOOD)
    names = {(e.group, e.name): e for e in registry.entries()}
    assert names["datasets", "good"].distribution == "one" and names["datasets", "good"].version == "1.0"
    assert names["datasets", "good"].selector == "datasets.good"
    assert not {"reg_good", "reg_worse"} & set(sys.modules)
    assert registry.load("datasets", "good").__name__ == "Good"
    assert registry.load("datasets", "reg_good:Good") is registry.load("datasets", "good@one")
    assert "reg_worse" not in sys.modules


def test_one_name_from_two_distributions_is_an_error_at_use_that_says_how_to_choose(site):
    site("one", "1.0", {"datasets": ["good = reg_first:Good"]}, reg_first=GOOD)
    site("two", "2.0", {"datasets": ["good = reg_second:Good"]}, reg_second=GOOD)
    assert [e.distribution for e in registry.entries(("datasets",)) if e.name == "good"] == ["one", "two"]
    with pytest.raises(errors.PluginError) as caught:
        registry.load("datasets", "good")
    assert caught.value.what == "dataset 'good' is offered by 2 distributions"
    assert "one 1.0 (reg_first:Good), two 2.0 (reg_second:Good)" in caught.value.why
    assert caught.value.fix == "choose one: good@one or good@two" and caught.value.exit_code == 2
    assert registry.load("datasets", "good@two").__module__ == "reg_second"


def test_one_distribution_seen_twice_is_one_offer(site):
    site("some-thing", "1.0", {"datasets": ["good = reg_first:Good"]}, reg_first=GOOD)
    site("Some_Thing", "0.9", {"datasets": ["good = reg_first:Good"]})
    assert [e.name for e in registry.entries(("datasets",))].count("good") == 1
    assert registry.load("datasets", "good").__name__ == "Good"


@pytest.mark.parametrize(
    "point, message",
    [
        ("reg_missing:Good", "failed to import(.|\n)*ModuleNotFoundError"),
        ("reg_good:Nothing", "failed to import(.|\n)*AttributeError"),
        ("reg_needs:Good", "failed to import(.|\n)*pip install package_that_is_not_there"),
        ("reg_good:Old", "plugin API 7(.|\n)*plugin API 1"),
        ("reg_good:Loose", "catch-all argument"),
        ("reg_good:Half", "lacks source"),
        ("reg_good:number", "not a class"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_when_it_is_loaded(site, point, message):
    needs = "import package_that_is_not_there\n"
    site("one", "1.0", {"datasets": [f"mine = {point}"]}, reg_good=GOOD, reg_needs=needs)
    assert any(e.name == "mine" for e in registry.entries())
    with pytest.raises(errors.PluginError, match=message):
        registry.load("datasets", "mine")


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(errors.PluginError, match=r"unknown objective 'simcrl' \(did you mean 'simclr'\?\)"):
        registry.find("objectives", "simcrl")


def every_error():
    found, left = [], [errors.SpendflopsError]
    while left:
        cls = left.pop()
        found.append(cls)
        left += [c for c in cls.__subclasses__() if c.__module__ == errors.__name__]
    return found


@pytest.mark.parametrize("cls", every_error())
def test_errors_survive_a_process_boundary(cls):
    error = cls("what", why="why", fix="fix")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls and str(again) == str(error) == "what\n  why: why\n  fix: fix"
    assert again.exit_code == error.exit_code


def test_exit_codes():
    codes = {cls.__name__: cls.exit_code for cls in every_error()}
    assert codes == {
        "SpendflopsError": 1,
        "ConfigError": 2,
        "PluginError": 2,
        "InUseError": 2,
        "DataError": 3,
        "OutOfMemoryError": 4,
        "DivergedError": 5,
        "Preempted": 75,
        "HostLost": 75,
        "Interrupted": 130,
    }


def test_parts_of_an_error_that_are_not_known_leave_no_line():
    assert str(errors.DataError("gone")) == "gone" and str(errors.DataError("gone", fix="look")) == "gone\n  fix: look"
