"""spendflops recommend through the command line: answers, exit codes, and what is wrong with a table, by its line."""

from __future__ import annotations

import json

import pytest

from spendflops.cli.main import main

HEAD = "method,model,data,flops,seed,score"
GOOD = f"""{HEAD}
mae,ViT-B,photos,1e18,0,41.0
mae,ViT-B,photos,1e18,1,43.0
mae,ViT-B,photos,4e18,0,46.0
simclr,ViT-B,photos,1e18,0,39.0
simclr,ViT-B,photos,4e18,0,47.0
"""


@pytest.fixture
def ask(tmp_path, capsys):
    """Asks with a table (or without), and gives exit code, output and error."""

    def asked(*flags, table=None, budget="2e18"):
        given = []
        if table is not None:
            path = tmp_path / "runs.csv"
            path.write_text(table, encoding="utf-8")
            given = ["--csv", str(path)]
        code = main(["recommend", "--budget", budget, *given, *flags])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return asked


def test_five_rows_are_answered(ask):
    code, out, err = ask(table=GOOD)
    assert (code, err) == (0, "")
    assert "Spend it on mae on ViT-B with photos, 2.00e18 FLOPs (the whole budget)" in out
    assert "Where the choice flips:" in out and "Next run:" in out and "noise of a run over seeds" in out


@pytest.mark.parametrize("budget", ["1e16", "1e21"])
def test_not_enough_data_is_a_normal_answer(ask, budget):
    code, out, _ = ask(table=GOOD, budget=budget)
    assert code == 0 and "The data do not say: the" in out and "Next run:" in out


def test_json(ask):
    code, out, _ = ask("--json", table=GOOD, budget="1h@8xH100@10%")
    plain = json.loads(out)
    assert code == 0 and plain["says"] and plain["choice"]["method"] == "simclr"
    assert plain["converted"]["flops"] == plain["budget"] == pytest.approx(3600 * 8 * 989.5e12 / 10, rel=0.001)


def test_what_a_machine_pays_for_is_printed(ask):
    _, out, _ = ask(table=GOOD, budget="1h@8xH100@10%")
    assert out.startswith("1h@8xH100@10% is 2.85e+18 FLOPs")


def test_columns_that_are_not_read_are_told(ask):
    text = "Method,FLOPs,Seed,Score,lr,batch\nmae,1e18,0,41,1,2\nsimclr,1e18,0,39,1,2\n"
    code, out, _ = ask(table=text)
    assert code == 0 and out.count("columns not read: lr, batch") == 1
    assert json.loads(ask("--json", table=text)[1])["notes"][0] == "columns not read: lr, batch"
    code, out, err = ask(table=text.replace("lr", "lower_is_better"))
    assert (code, out) == (3, "") and "'lower_is_better' is not read" in err and "'higher_is_better'" in err


def test_the_reference(ask):
    code, out, _ = ask("--reference", "where_flops", "--task", "coco_map", budget="6e19")
    assert code == 0 and "Spend it on MAE on ViT-B/16 with ImageNet-1K" in out


def test_the_reference_does_not_say_what_it_did_not_try(ask):
    flags = ("--reference", "where_flops", "--task", "coco_map")
    for more in (["--method", "CLIP"], ["--model", "ViT-L/16"], ["--data", "LAION"]):
        code, out, err = ask(*flags, *more, budget="6e19")
        assert (code, err) == (0, "") and out.startswith(
            f"The data do not say: no run has the {more[0][2:]} {more[1]!r}"
        )
    assert json.loads(ask(*flags, "--method", "CLIP", "--json", budget="6e19")[1])["says"] is False
    assert ask("--method", "CLIP", table=GOOD)[0] == 2  # in a table of one's own it is a slip


WRONG = {
    "mae,ViT-B,photos,1e18,0,nan": "line 2: score is nan",
    "mae,ViT-B,photos,nan,0,41": "line 2: flops are 'nan'",
    "mae,ViT-B,photos,0,0,41": "line 2: flops are 0; only a row of kind 'baseline'",
    "mae,ViT-B,photos,-1e18,0,41": "line 2: flops are -1e18",
    "mae,ViT-B,photos,1e18,0": "line 2: 5 cells under 6 columns",
    "mae,ViT-B,photos,1e18,0,41\nmae,ViT-B,photos,1e18,0,42": "lines 2, 3 are the same run",
    "mae,ViT-B,photos,1e18,0,0.41\nmae,ViT-B,photos,2e18,0,42": "look like fractions in line 2 and like percentages",
    "mae,ViT-B,photos,1 EFLOP,0,41\nmae,ViT-B,photos,2e18,0,42": "FLOPs with a unit (line 2) and without one (line 3)",
    "mae,ViT-B,photos,1.00e18,0,41\nmae,ViT-B,photos,1.01e18,1,42": "line 2, line 3, with different seeds",
}


@pytest.mark.parametrize("lines", WRONG, ids=range(len(WRONG)))
def test_wrong_lines_end_with_3_and_are_named(ask, lines):
    code, out, err = ask(table=f"{HEAD}\n{lines}\n")
    assert (code, out) == (3, "") and WRONG[lines] in err


def test_two_protocols_in_one_table(ask):
    text = "method,flops,score,task,protocol\na,1e18,40,miou,crop\nb,1e18,50,miou,sliding\n"
    code, _, err = ask("--task", "miou", table=text)
    assert code == 2 and "2 axes for one question" in err and "(crop)" in err and "--task 'crop'" in err
    assert ask("--task", "crop", table=text)[0] == 0


def test_two_units_in_one_table(ask):
    text = "method,flops,score,unit\na,1e18,40,%\nb,1e18,0.5,\n"
    code, _, err = ask(table=text)
    assert code == 3 and "given in 2 ways" in err and "line 2" in err and "line 3" in err


def test_one_point_a_method(ask):
    code, out, _ = ask(table="method,flops,score\na,1e18,40\nb,2e18,50\n")
    assert code == 0 and "Spend it on b" in out and "nothing is known of the noise of a run" in out
    assert "a: the longest run cost 1.00e18 FLOPs" in out


def test_other_column_names(ask):
    text = "Algorithm,GMACs,top1\nmae,5e8,40\nbyol,5e8,30\n"
    code, _, err = ask(table=text)
    assert code == 3 and "runs.csv has no columns 'method', 'flops', 'score'" in err and "--column method=NAME" in err
    names = ("--column", "method=Algorithm", "--column", "score=top1", "--column")
    code, _, err = ask(*names, "flops=GMACs", table=text)
    assert code == 3 and "flops=GMACs*1e9" in err
    code, out, _ = ask(*names, "flops=GMACs*2e9", table=text, budget="1e18")
    assert code == 0 and "Spend it on mae" in out
    code, _, err = ask("--column", "flops", table=text)
    assert code == 2 and "--column 'flops' names no column" in err


@pytest.mark.parametrize(
    "flags, budget, said",
    [
        ((), "lots", "'lots' is not a budget"),
        ((), "100 epochs", "epochs of two methods cost different FLOPs"),
        ((), "2h@1xH2000", "H2000"),
        ((), "nan", "is not a budget"),
        (("--task", "scor"), "2e18", "did you mean 'score'"),
        (("--method", "maee"), "2e18", "did you mean 'mae'"),
        (("--beyond", "0.5"), "2e18", "the factor is 1 or more"),
        (("--noise", "0"), "2e18", "assumed noise"),
        (("--cost", "all"), "2e18", "cost"),
        (("--study", "x"), "2e18", "--study and --csv given"),
        (("more",), "2e18", "takes flags only"),
    ],
)
def test_wrong_usage_ends_with_2(ask, flags, budget, said):
    code, out, err = ask(*flags, table=GOOD, budget=budget)
    assert (code, out) == (2, "") and said in err


def test_a_budget_below_one_step(ask):
    text = "method,flops,score,steps\na,1e18,40,1000\nb,2e18,50,1000\n"
    code, _, err = ask(table=text, budget="9e14")
    assert code == 2 and "below one step" in err and "of a, costs 1e+15" in err


def test_what_is_missing(ask, tmp_path):
    code, _, err = ask()
    assert code == 2 and "--reference where_flops is there without a file" in err
    code, _, err = ask("--column", "flops=x", "--reference", "where_flops")
    assert code == 2 and "--column without --csv" in err
    assert main(["recommend", "--csv", "x.csv"]) == 2
    code, _, err = ask("--study", str(tmp_path))
    assert code == 3 and "no folder of a study that has ended" in err
    code, _, err = ask("--csv", str(tmp_path / "none.csv"))
    assert code == 3 and "cannot read" in err
    code, _, err = ask(table=f"{HEAD}\n")
    assert code == 3 and "has no runs" in err
