"""``spendflops study``: what it costs is said and asked first, workers are started, the folder tells the rest."""

from __future__ import annotations

import io
import json
from typing import ClassVar

import pytest

from spendflops.cli import launch
from spendflops.cli.main import main
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.launcher import Launcher

SMOKE = ["--gin_file", "studies/smoke.gin"]


class Noted(Launcher):
    """A launcher that starts nothing."""

    here = False
    jobs: ClassVar[list] = []

    def __init__(self, *, nodes: int = 1, name: str = "", fast: bool = False):
        self.options = nodes, name, fast

    def launch(self, job):
        self.jobs.append(job)
        return 0


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(Noted, "jobs", [])
    return f"{Noted.__module__}:Noted"


class Terminal(io.StringIO):
    """An input where somebody answers."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    "answer, flags, code",
    [
        (None, ["--ask_above", "0"], 2),
        (None, ["--ask_above", "0", "--yes"], 0),
        (None, [], 0),
        ("y\n", ["--ask_above", "0"], 0),
        ("\n", ["--ask_above", "0"], 2),
        (None, ["--machine", "1xH100", "--ask_above", "1e-12"], 2),
        (None, ["--machine", "this", "--ask_above", "1e-12"], 2),
    ],
)
def test_what_a_study_costs_is_said_and_asked_before_anything_starts(
    answer, flags, code, noted, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO() if answer is None else Terminal(answer))
    command = ["study", "launch", *SMOKE, "--workdir", str(tmp_path / "s"), "--launcher", noted, *flags]
    assert main(command) == code
    said = capsys.readouterr()
    assert "4 runs, 3.869e+10 FLOPs (pretrain 1.812e+10" in said.out
    assert ("kg of CO2e (" in said.out) == ("1xH100" in flags)
    # 3.869e10 FLOPs at 1e11 a second.
    assert ("0.000107 hours at 1e+11 FLOP/s, which is assumed" in said.out) == ("1xH100" not in flags)
    assert len(Noted.jobs) == (code == 0) and (tmp_path / "s").exists() == (code == 0)
    if code and answer is None:
        assert "--yes answers" in said.err


def test_a_worker_runs_the_study_that_is_kept_in_the_folder(noted, tmp_path, capsys):
    flags = ["--region", "DE", "--workers", "3", "--gin", "Study.log_every = 7"]
    assert main(["study", "launch", *SMOKE, "--workdir", str(tmp_path), "--launcher", noted, *flags]) == 0
    (job,) = Noted.jobs
    assert job.workers == 3 and job.folder == tmp_path.resolve()
    assert job.command[1:5] == ("-m", "spendflops", "study", "run") and "--region=DE" in job.command
    text = (tmp_path / "operative.gin").read_text()
    assert "Study.log_every = 7" in text
    # A worker reads what it keeps: the same study again.
    given = next(flag for flag in job.command if flag.startswith("--gin_file="))
    assert main(["study", "launch", given, "--workdir", str(tmp_path), "--launcher", noted]) == 0
    assert (tmp_path / "operative.gin").read_text() == text and not (tmp_path / "logs").exists()


def test_the_configuration_of_an_earlier_study_in_the_folder_is_kept_and_named(noted, tmp_path, capsys):
    launched = ["study", "launch", *SMOKE, "--workdir", str(tmp_path), "--launcher", noted, "--yes"]
    assert main(launched) == main(launched) == 0 and not (tmp_path / "logs").exists()
    first = (tmp_path / "config.gin").read_text()
    capsys.readouterr()
    assert main([*launched, "--gin", "Study.seeds = (7,)"]) == 0
    assert (tmp_path / "logs" / "config-1.gin").read_text() == first != (tmp_path / "config.gin").read_text()
    assert "held another study, now" in capsys.readouterr().out


def test_options_of_a_launcher_are_typed(noted):
    assert launch.make(noted, ["nodes=4", "name=a=b", "fast=true"]).options == (4, "a=b", True)
    for wrong, message in (("node=4", "did you mean 'nodes'"), ("nodes=x", "not of type int"), ("fast=2", "bool")):
        with pytest.raises(ConfigError, match=message):
            launch.make(noted, [wrong])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["study", "statsu", "x"], "study does not know 'statsu' (did you mean 'status'?)"),
        (["study", "status"], "study status takes the folder of a study"),
        (["study", "run", "x"], "study run takes flags only"),
        (["study", "retry"], "study retry takes the folder of a study"),
        (["study", "launch", *SMOKE, "--workdir", "x", "--launcher", "slrum"], "unknown launcher 'slrum'"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_failed_rows_and_the_report_of_what_is_there(tmp_path, capsys, noted):
    assert main(["study", "launch", *SMOKE, "--workdir", str(tmp_path), "--launcher", noted]) == 0
    assert main(["study", "report", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == []
    capsys.readouterr()
    assert main(["study", "plan", *SMOKE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 4
    failed = tmp_path / "rows" / "some-row"
    (failed / "logs").mkdir(parents=True)
    (failed / "failed.json").write_text(json.dumps({"what": "it broke"}))
    assert main(["study", "retry", str(tmp_path), "--reason", "repaired"]) == 0
    assert "some-row may run again; it had failed: it broke" in capsys.readouterr().out
    assert json.loads((failed / "logs" / "failed-1.json").read_text())["cleared"] == "repaired"


@pytest.mark.slow
def test_two_workers_come_to_the_scores_of_one(tmp_path, capsys):
    assert main(["study", "run", *SMOKE, "--workdir", str(tmp_path / "one"), "--quiet"]) == 0
    assert main(["study", "launch", *SMOKE, "--workdir", str(tmp_path / "two"), "--workers", "2"]) == 0
    rows = [json.loads((tmp_path / name / "report.json").read_text())["rows"] for name in ("one", "two")]
    kept = [[(row["run_id"], row["status"], row["scores"]) for row in each] for each in rows]
    assert len(kept[0]) == 4 and kept[0] == kept[1]
