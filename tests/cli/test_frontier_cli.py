"""spendflops frontier through the command line."""

from __future__ import annotations

import json

import pytest

from spendflops.cli.main import main

TABLE = """method,flops,seed,score
mae,1e18,0,41
mae,1e18,1,42
mae,2e18,0,46
simclr,1e18,0,43
simclr,2e18,0,44
"""


@pytest.fixture
def ask(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_text(TABLE)

    def asked(*flags):
        code = main(["frontier", *flags])
        out, err = capsys.readouterr()
        return code, out, err

    asked.csv = f"--csv={path}"
    return asked


def test_a_table(ask):
    code, out, err = ask(ask.csv)
    assert (code, err) == (0, "")
    assert "mae overtakes simclr at 1.35e18" in out and "mae 46.000 at 2.00e18" in out
    code, out, _ = ask(ask.csv, "--json", "--method", "mae")
    plain = json.loads(out)
    assert code == 0 and [p["name"] for p in plain["front"]] == ["mae", "mae"] and plain["crossovers"] == []


def test_the_reference_says_what_it_does_not_say(ask):
    code, out, _ = ask("--reference", "where_flops", "--task", "ade20k_miou")
    assert code == 0 and "not enough data" in out and "without known FLOPs" in out


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "one of --study, --csv and --reference"),
        (["--reference", "where_flops"], 2, "2 axes for one question"),
        (["--csv", "nowhere.csv"], 3, "cannot read nowhere.csv"),
        (["--reference", "where_flops", "--task", "ade20k_miou", "--budget", "3 epochs"], 2, "no budget to choose by"),
        (["runs.csv"], 2, "takes flags only"),
    ],
)
def test_wrong_questions(ask, flags, code, said):
    found, out, err = ask(*flags)
    assert (found, out) == (code, "") and said in err
