"""`spendflops new`: what it writes is installed and run, never only looked at."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from spendflops.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"objective": "turns", "dataset": "stripes", "evaluator": "balanced"}


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A new distribution with one plugin of each kind."""
    folder = tmp_path_factory.mktemp("everything")
    for kind, name in KINDS.items():
        assert main(["new", kind, name, "--package", str(folder)]) == 0
    return folder


def test_an_empty_folder_becomes_a_distribution(tmp_path, capsys):
    assert main(["new", "objective", "turns", "--package", str(tmp_path)]) == 0
    assert files(tmp_path) == [
        "pyproject.toml",
        "setup.cfg",
        "spendflops_turns/__init__.py",
        "spendflops_turns/gin/methods/turns.gin",
        "spendflops_turns/turns.py",
        "tests/test_turns.py",
    ]
    assert "spendflops check objectives.turns" in capsys.readouterr().out


def test_an_existing_distribution_gets_files_and_lines(everything):
    parser = configparser.ConfigParser()
    parser.read(everything / "setup.cfg")
    points = parser["options.entry_points"]
    assert points["spendflops.objectives"].strip() == "turns = spendflops_turns.turns:Turns"
    assert points["spendflops.datasets"].strip() == "stripes = spendflops_turns.stripes:Stripes"
    assert points["spendflops.evaluators"].strip() == "balanced = spendflops_turns.balanced:Balanced"
    assert points["spendflops.gin"].strip() == "turns = spendflops_turns.gin"
    assert "spendflops_turns/gin/data/stripes.gin" in files(everything)


def test_this_repository_gets_them_in_its_own_places(tmp_path):
    for place in ("plugins/spendflops_plugins", "gin/methods", "tests/plugins"):
        (tmp_path / place).mkdir(parents=True)
    text = (ROOT / "setup.cfg").read_text()
    (tmp_path / "setup.cfg").write_text(text)
    assert main(["new", "objective", "quarter_turns", "--package", str(tmp_path)]) == 0
    assert files(tmp_path) == [
        "gin/methods/quarter_turns.gin",
        "plugins/spendflops_plugins/quarter_turns.py",
        "setup.cfg",
        "tests/plugins/test_quarter_turns.py",
    ]
    before, after = text.splitlines(), (tmp_path / "setup.cfg").read_text().splitlines()
    added = "    quarter_turns = spendflops_plugins.quarter_turns:QuarterTurns"
    assert [line for line in after if line not in before] == [added] and len(after) == len(before) + 1
    assert after[after.index(added) + 1] == "spendflops.datasets ="


def test_a_distribution_without_presets_learns_to_ship_them(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = mine\n\n[options]\npackages =\n    mine\n")
    assert main(["new", "dataset", "stripes", "--package", str(tmp_path)]) == 0
    parser = configparser.ConfigParser()
    parser.read(tmp_path / "setup.cfg")
    assert parser["options.entry_points"]["spendflops.datasets"].strip() == "stripes = mine.stripes:Stripes"
    assert parser["options.entry_points"]["spendflops.gin"].strip() == "mine = mine.gin"
    assert parser["options.package_data"]["mine"].strip() == "gin/*/*.gin"


def test_nothing_is_overwritten(tmp_path, capsys):
    assert main(["new", "objective", "turns", "--package", str(tmp_path)]) == 0
    method = tmp_path / "spendflops_turns" / "turns.py"
    method.write_text("mine\n")
    before = {name: (tmp_path / name).read_text() for name in files(tmp_path)}
    assert main(["new", "evaluator", "turns", "--package", str(tmp_path)]) == 2
    assert "there already" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_text() for name in files(tmp_path)} == before


def test_mistakes_are_explained(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    for arguments, said in (
        (["new", "objectiv", "turns"], "did you mean 'objective'"),
        (["new", "objective", "Turns"], "lower-case"),
        (["new", "objective", "class"], "cannot be a name"),
        (["new", "objective", "mae"], "installed already"),
        (["new", "objective", "turns"], "is not empty"),
    ):
        assert main([*arguments, "--package", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    assert files(tmp_path) == ["notes.txt"]


def test_what_it_writes_is_clean(everything):
    config = str(ROOT / "pyproject.toml")
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--config", config, "."], ["format", "--check", "--config", config, "."]):
        done = subprocess.run([*ruff, *command], cwd=everything, capture_output=True, text=True)
        if "No module named ruff" in done.stderr:
            pytest.skip("ruff is not installed")
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def installed(everything, install):
    """The distribution, really built and installed."""
    return install(everything)


def test_installed_they_are_plugins_with_presets(installed):
    code = "import sys; from spendflops.cli.main import main; sys.exit(main(sys.argv[1:]))"
    listed = installed(sys.executable, "-c", code, "plugins").stdout
    assert all(f" {name} " in listed for name in KINDS.values())
    plan = ["plan", "--objective", "turns", "--backbone", "vit_nano", "--dataset", "stripes", "--budget", "10 steps"]
    said = installed(sys.executable, "-c", code, *plan).stdout
    assert "preset spendflops-turns:methods/turns.gin" in said and "preset spendflops-turns:data/stripes.gin" in said


@pytest.mark.parametrize("kinds", [("dataset", "evaluator"), pytest.param(("objective",), marks=pytest.mark.slow)])
def test_installed_they_pass_their_tests(installed, everything, kinds):
    tests = [str(everything / "tests" / f"test_{KINDS[kind]}.py") for kind in kinds]
    assert "[100%]" in installed(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests).stdout
