"""The example distribution is built, installed and found like anybody's; its own tests run on the installed copy."""

import ast
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "third_party_plugin"
CLI = (sys.executable, "-c", "import sys; from spendflops.cli.main import main; sys.exit(main(sys.argv[1:]))")


@pytest.fixture(scope="module")
def barlow(install):
    return install(EXAMPLE)


def test_it_is_listed_and_planned_with_its_own_preset(barlow):
    assert "spendflops-barlow 0.1.0  installed" in barlow(*CLI, "plugins").stdout
    names = ["--objective", "barlow", "--backbone", "vit_nano", "--dataset", "shapes", "--budget", "2 steps"]
    said = barlow(*CLI, "plan", *names).stdout
    assert "objective barlow: preset spendflops-barlow:methods/barlow.gin" in said and "barlowtwins/train" in said


@pytest.mark.slow
def test_its_own_tests_pass(barlow):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    assert "[100%]" in barlow(*command).stdout


def test_it_imports_contracts_and_parts_only():
    for file in EXAMPLE.glob("spendflops_barlow/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in (n for n in names if n.startswith("spendflops") and not n.startswith("spendflops_barlow")):
                assert name.startswith(("spendflops.contracts", "spendflops.parts")), f"{file.name} imports {name}"
