"""The command line: exit codes, errors in three parts, and no jax before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import call, environment, python, write_gin

from spendflops.cli import main as cli
from spendflops.cli.main import main

PLAN = ["plan", "--objective", "mae", "--backbone", "vit_nano", "--dataset", "shapes", "--budget", "1e15"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "unknown verb 'trian' (did you mean 'train'?)"),
        ([*PLAN, "--budgte", "1"], "Unknown command line flag 'budgte'"),
        ([*PLAN, "--seed", "x"], "x"),
        ([*PLAN, "more"], "plan takes flags only, not 'more'"),
        (["plan", *PLAN[3:], "--objective", "maee"], "unknown objective 'maee' (did you mean 'mae'?)"),
        (["plan", *PLAN[1:3], *PLAN[5:], "--backbone", "vit_nanno"], "(did you mean 'vit_nano'?)"),
        ([*PLAN[:-1], "a lot"], "'a lot' is not a budget"),
        ([*PLAN[:-1], "10"], "pays for no step"),
        ([*PLAN, "--gin", "Recipe.log_every = '5'"], "log_every"),
        ([*PLAN, "--gin", "Recipe.log_evry = 5"], "log_every"),
        ([*PLAN, "--gin_file", "nowhere.gin"], "nowhere.gin"),
        (["train", *PLAN[1:]], "no --workdir given"),
        (["study", "--workdir", "x"], "no --gin_file given"),
        (["report"], "report takes the folder of a study"),
        (["extract", "run"], "extract takes a run, data and an output file"),
        (["extract", "run", "shapes", "out.npy"], "a name that ends with .npz"),
        (["plugins", "all"], "plugins takes flags only"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_and_how(arguments, message, capsys):
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert message in text and text.startswith("spendflops") and "Traceback" not in text


def test_data_that_are_not_there_end_with_3(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 3
    assert "run the study first" in capsys.readouterr().err
    assert main(["extract", str(tmp_path), "shapes", str(tmp_path / "out.npz")]) == 3
    assert "is not a run directory" in capsys.readouterr().err
    given = ["--objective", "mae", "--backbone", "vit_nano", "--dataset", f"folder:{tmp_path}/nowhere"]
    assert main(["plan", *given, "--budget", "1e12"]) == 3
    assert "nowhere" in capsys.readouterr().err


class Verb:
    """A verb that does what it is told."""

    def __init__(self, error):
        self.error, self.__doc__ = error, "a verb"

    def define(self, known):
        """No flags."""

    def main(self, known, rest):
        raise self.error


@pytest.mark.parametrize("error, code", [(ValueError("odd"), 1), (KeyboardInterrupt(), 130)])
def test_what_nobody_foresaw(error, code, capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Verb(error))
    assert main(["plan"]) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text and ("--traceback shows where" in text) == (code == 1)
    if code == 1:
        assert main(["plan", "--traceback"]) == 1 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("message, shown", [("Event loop is closed", False), ("odd", True)])
def test_echoes_of_an_error_that_was_told_are_not_shown(message, shown, monkeypatch, capsys):
    class Odd:
        def __del__(self):
            raise RuntimeError(message)

    monkeypatch.setattr(sys, "unraisablehook", cli._beside)
    odd = Odd()
    del odd
    assert ("RuntimeError: odd" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("arguments", [["plugins", "--json"], ["study", "--help"], []])
def test_a_closed_pipe_is_no_error(arguments):
    text = f"import sys\nfrom spendflops.cli.main import main\nsys.exit(main({arguments}))"
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", text], **options)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == 0


NO_JAX = """
import contextlib, io, json, sys
from spendflops.cli.main import main
said = []
for arguments in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(arguments)
    said.append([code, out.getvalue(), "jax" in sys.modules, [m for m in sys.modules if m.startswith("spendflops_pl")]])
print(json.dumps(said))
"""


def test_help_and_the_list_of_plugins_need_no_jax():
    verbs = [[v, "--help"] for v in ("study", "plan", "train", "extract", "report", "plugins")]
    asked = [[], ["--help"], ["--version"], *verbs, ["plugins"], ["plugins", "--json"]]
    said = python(NO_JAX, json.dumps(asked))
    assert [code for code, *_ in said] == [0] * len(asked)
    assert not any(jax or plugins for _, _, jax, plugins in said)
    assert "usage: spendflops VERB" in said[0][1] and "75 pre-empted" in said[1][1]
    assert all("--" in text and "flags:" in text for _, text, *_ in said[3:9])
    rows = json.loads(said[-1][1])
    assert {"group", "name", "distribution", "version", "status"} <= set(rows[0])
    assert {"mae", "simclr", "supervised"} <= {r["name"] for r in rows if r["group"] == "objectives"}
    assert {r["status"] for r in rows} == {"installed"}


def test_plugins_that_clash_or_break_are_listed_as_such(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in (("rival", "rival_plugins:MAE"), ("ruin", "ruined_plugins:Gone")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        point = "mae" if name == "rival" else "gone"
        (info / "entry_points.txt").write_text(f"[spendflops.objectives]\n{point} = {value}\n")
    (tmp_path / "rival_plugins.py").write_text("from spendflops_plugins.mae import MAE\n")
    assert main(["plugins", "--json"]) == 0
    status = {(r["name"], r["distribution"]): r["status"] for r in json.loads(capsys.readouterr().out)}
    assert status["mae", "rival"] == "AMBIGUOUS (also in spendflops): choose mae@rival"
    assert status["mae", "spendflops"] == "AMBIGUOUS (also in rival): choose mae@spendflops"
    assert main(["plugins", "--check"]) == 2
    text = capsys.readouterr().out
    broken = next(line for line in text.splitlines() if " gone " in line)
    assert "BROKEN (ruin 1.0, ruined_plugins:Gone: ModuleNotFoundError" in broken
    assert main(["plan", *PLAN[3:], "--objective", "spendflops_plugins.mae:MAE"]) == 0


def test_a_plan_as_json_and_as_text_tell_the_same(capsys):
    assert main([*PLAN, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["steps"] == int(1e15 // body["flops_per_step"]) and body["counter"].startswith("jaxpr/")
    assert body["totals"]["pretrain"] == body["steps"] * body["flops_per_step"] <= 1e15
    assert main(PLAN) == 0
    text = capsys.readouterr().out
    assert f"{body['flops_per_step']:,}" in text and "objective mae: preset" in text


TREE_MODE = {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"}


def test_a_recipe_runs_in_the_tree_mode_of_nnx(tmp_path):
    gin = write_gin(tmp_path, steps=2, every=2, evaluate=False)
    code, _, text = call("train", "--gin_file", gin, "--workdir", tmp_path / "run", "--quiet", **TREE_MODE)
    assert code == 0, text
    assert json.loads((tmp_path / "run" / "result.json").read_text())["stages"][0]["steps"] == 2
