"""What the documents name is there: files, presets, verbs and flags. Their commands are run by fenced.py."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from spendflops.cli.main import VERBS, module_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "gin/*.md", "benchmarks/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
PRESETS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/**/*.gin"))

TOP = ("spendflops", "plugins", "gin", "tests", "docs", "examples", "benchmarks", "constraints", ".ci")
INNER = ("contracts", "parts", "accounts", "weights", "engine", "config", "study", "testing", "cli")
PRESET_KINDS = ("models", "methods", "nano", "data", "recipes", "studies")
PATH = re.compile(r"(?<![\w/.:@-])((?:[\w.-]+/)+[\w.-]*)")
LINK = re.compile(r"\]\(([^)#\s]+)\)")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
TUTORIAL = re.compile(r"^## A method in thirty minutes$.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s/`(])spendflops +([a-z]+)\b([^\n]*)")
MACHINE = re.compile(r"(?<![\w.])(?:/tmp\b|/home/|/root\b|/mnt/|/Users/)")


def paths(text):
    """Paths of this repository that a text names; the tutorial makes files of its own."""
    for path in PATH.findall(TUTORIAL.sub("", text)):
        first, rest = path.split("/")[0], path.split("/")[1]
        if first in TOP or (first in INNER and rest) or (first in PRESET_KINDS and path.endswith(".gin")):
            yield path.rstrip(".")


def exists(path, document):
    places = (ROOT, (ROOT / document).parent, ROOT / "spendflops", ROOT / "gin")
    return any((place / path).exists() for place in places)


def commands(text):
    """(verb, flags) of every command: in blocks and in inline code."""
    inline = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    for code in [*FENCE.findall(text), *(span.replace("\n", " ") for span in inline)]:
        yield from _commands(code)


def _commands(code):
    for verb, rest in COMMAND.findall(code.replace("\\\n", " ")):
        words = shlex.split(re.split(r"\s[|;&]", rest)[0], comments=True)
        yield verb, [word[2:].partition("=")[0] for word in words if word.startswith("--")]


def known_flags(verb):
    known = flags.FlagValues()
    importlib.import_module(module_of(verb)).define(known)
    return {*known, "help", "traceback"}


def check_commands(found):
    for verb, given in found:
        assert verb in VERBS
        assert set(given) <= known_flags(verb), f"spendflops {verb}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    assert [path for path in paths(text) if not exists(path, document)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_verbs_and_flags_exist(document):
    check_commands(commands((ROOT / document).read_text(encoding="utf-8")))


@pytest.mark.parametrize("preset", PRESETS)
def test_commands_in_presets_exist(preset):
    lines = (ROOT / preset).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if line.startswith("#"))
    check_commands(_commands(text))
    named = re.findall(r"--gin_file (\S+)", text)
    assert [path for path in named if not exists(path, preset)] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, *PRESETS, "CITATION.cff", "Makefile", "setup.cfg"])
def test_no_path_of_a_machine(document):
    assert MACHINE.findall((ROOT / document).read_text(encoding="utf-8")) == []


def test_the_checks_see_what_is_wrong():
    block = "```bash\nspendflops plan --budgett 1e9 \\\n  --json | tail\n```\n"
    text = f"Read `engine/nothing.py` and `recipes/none.gin`:\n{block}"
    assert list(paths(text)) == ["engine/nothing.py", "recipes/none.gin"]
    assert not exists("engine/nothing.py", "README.md") and not exists("recipes/none.gin", "README.md")
    assert list(commands(text)) == [("plan", ["budgett", "json"])]
    with pytest.raises(AssertionError):
        check_commands(commands(text))
    assert MACHINE.findall("in /root/x, /Users/y and /tmp") == ["/root", "/Users/", "/tmp"]
