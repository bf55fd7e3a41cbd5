"""Anybody's CSV: names, units, lines; what is wrong is said with its line, and nothing is left out."""

import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study import frontier
from spendflops.study.frontier.table import parse, read, table
from spendflops.study.points import axes, csv_text

GOOD = """method,model,data,flops,seed,score,unit,note
mae,ViT-B,photos,3e18,0,41.5,%,
mae,ViT-B,photos,3e18,1,42.5,%,odd

simclr,ViT-B,photos,6000000000000000001,0,40,%,
"""


def test_a_table_becomes_rows():
    first, second, third = parse(GOOD)
    assert (first.label, first.backbone, first.dataset, first.seed) == ("mae", "ViT-B", "photos", 0)
    assert (first.flops["pretrain"], first.budget) == (3 * 10**18, 3 * 10**18)
    assert third.flops["pretrain"] == 6 * 10**18 + 1  # exact
    assert (first.scores[0].value, first.scores[0].unit) == (41.5, "%")
    assert second.settings["note"] == "odd" and "note" not in first.settings
    assert [row.run_id for row in (first, second, third)] == ["line 2", "line 3", "line 5"]
    (axis,) = axes([first, second, third])
    assert [p.estimate.value for p in frontier.points(frontier.select([first, second, third], axis))] == [42.0, 40.0]


def test_other_names_by_a_mapping_and_a_factor():
    text = "Algorithm,total GMACs,Acc@1,lr\nMAE,1.5e9,76.1,1e-4\n"
    columns = {"method": "Algorithm", "flops": "total GMACs*2e9", "score": "Acc@1"}
    (row,) = parse(text, columns)
    assert (row.label, row.flops["pretrain"], row.settings["lr"]) == ("MAE", 3 * 10**18, "1e-4")


def test_flops_may_have_a_unit():
    (row,) = parse("method,flops,score\na,3 EFLOP,1\n")
    assert row.flops["pretrain"] == 3 * 10**18


def test_variants_are_curves_of_one_method():
    a, b = parse("method,variant,flops,score\nmae,75 %,1e18,1\nmae,55 %,1e18,2\n")
    assert (a.label, b.label, a.settings["method"]) == ("mae 75 %", "mae 55 %", "mae")


def test_a_failed_run_needs_no_score():
    _, row = parse("method,flops,score,status\na,1e18,1,ok\nb,0,,failed: nan at step 3\n")
    assert not row.ok and row.scores == ()


def test_the_table_of_a_report_is_read_as_it_is(study):
    rows = parse(csv_text(study.rows))
    assert len(rows) == len(study.rows)
    for axis in axes(study.rows):
        ours = frontier.points(frontier.select(study.rows, axis))
        theirs = frontier.points(frontier.select(rows, axis))
        assert [(p.name, p.kind, p.budget, p.flops, p.estimate.value) for p in theirs] == [
            (p.name, p.kind, p.budget, p.flops, p.estimate.value) for p in ours
        ]


WRONG = {
    "nan,41": "line 2: flops are 'nan'",
    "-3e18,41": "line 2: flops are -3e18",
    "- 3,41": "line 2: flops are - 3",
    "0,41": "line 2: flops are 0; only a row of kind 'baseline'",
    "many,41": "line 2: flops are 'many', not a number",
    "5 steps,41": "not a number such as",
    ",41": "line 2: flops are ''",
    "3e18,nan": "line 2: score is nan",
    "3e18,inf": "line 2: score is inf",
    "3e18,good": "line 2: score is 'good', not a number",
    "3e18,": "line 2: no score",
    "3e18,41%": "score is '41%', not a number: leave out the %, and say it in a column 'unit'",
    '3e18,"1,024"': "leave out what separates thousands",
    '"1,000,000",1': "leave out what separates thousands",
    '3e18,"41,5"': "write a point for the comma",
    "3e18": "line 2: 2 cells under 3 columns",
    "3e18,1,2": "line 2: 4 cells under 3 columns",
}


@pytest.mark.parametrize("cells", WRONG, ids=range(len(WRONG)))
def test_lines_that_cannot_be_read_are_named(cells):
    with pytest.raises(DataError) as error:
        parse(f"method,flops,score\nmae,{cells}\nfine,1e18,3\n", name="runs.csv")
    assert WRONG[cells] in str(error.value) and "runs.csv: 1 line cannot" in str(error.value)


def test_all_wrong_lines_are_named_at_once():
    with pytest.raises(DataError) as error:
        parse("method,flops,score,seed,kind\n,1,1,0,\nx,1,1,half,\ny,1,1,0,guess\nz,1,1,1.5,\n")
    text = str(error.value)
    for reason in ("line 2: no method", "line 3: seed is 'half'", "line 4: kind 'guess'", "line 5: seed is '1.5'"):
        assert reason in text
    many = "method,flops,score\n" + "x,0,1\n" * 30
    with pytest.raises(DataError, match=r"30 lines.*\n.*and 22 more"):
        parse(many)


def test_baselines_may_cost_nothing():
    (row,) = parse("method,flops,score,kind\nrandom,0,1,baseline\n")
    assert row.flops["pretrain"] == 0


@pytest.mark.parametrize("gone", ["method", "flops", "score"])
def test_missing_columns_ask_for_a_mapping(gone):
    header = [f"my {name}" if name == gone else name for name in ("method", "flops", "score")]
    with pytest.raises(DataError, match=rf"no column '{gone}'.*\n.*my {gone}.*\n.*--column {gone}=NAME"):
        parse(",".join(header) + "\n1,2,3\n")


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(
        DataError, match=r"no columns 'flops', 'score'.*\n.*\n.*--column flops=NAME --column score=NAME"
    ):
        parse("method,compute\na,1\n")


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", r"'\\t'")])
def test_cells_with_other_marks_between_are_told(mark, shown):
    with pytest.raises(DataError, match=rf"has one column\n  why: its cells are separated by {shown}\n.*with commas"):
        parse(f"method{mark}flops{mark}score\na{mark}1{mark}2\n")


@pytest.mark.parametrize("name", ["GFLOPs", "train_pflops", "gmacs", "MACs", "total TFLOP", "petaflops"])
def test_columns_that_are_not_flops_need_a_factor(name):
    text = f"method,{name},score\na,5,1\n"
    with pytest.raises(DataError, match="are the numbers of"):
        parse(text, {"flops": name})
    assert parse(text, {"flops": f"{name}*1e9"})[0].flops["pretrain"] == 5 * 10**9


def test_names_are_known_in_any_case():
    found = table("Method,FLOPs,Seed,Score,Higher is better\nmae,1e18,3,41,false\n")
    (row,) = found.rows
    assert (row.label, row.flops["pretrain"], row.seed, row.scores[0].value) == ("mae", 10**18, 3, 41)
    assert not row.scores[0].higher_is_better and found.notes == ()
    with pytest.raises(DataError, match="two columns for 'score': 'Score' and 'score'"):
        parse("method,flops,Score,score\na,1,1,2\n")
    assert parse("method,flops,Score,score\na,1,1,2\n", {"score": "Score"})[0].scores[0].value == 1


@pytest.mark.parametrize(
    "slip, meant", [("seeds", "seed"), ("Metrics", "metric"), ("uint", "unit"), ("protocoll", "protocol")]
)
def test_columns_that_are_nearly_ours_are_refused(slip, meant):
    with pytest.raises(DataError, match=rf"{slip}' is not read: is it '{meant}'.*\n.*\n.*rename it to '{meant}'"):
        parse(f"method,flops,score,{slip}\na,1,1,1\n")


@pytest.mark.parametrize("column", ["lower_is_better", "Lower is better", "minimize"])
def test_the_other_direction_is_refused(column):
    with pytest.raises(DataError, match=rf"{column}' is not read.*\n.*\n.*rename it to 'higher_is_better', with false"):
        parse(f"method,flops,score,{column}\na,1,1,true\n")


def test_columns_that_are_not_ours_are_told():
    found = table("method,flops,score,lr,source,date,scores\na,1,1,0.1,x,y,z\n")
    assert found.unread == ("lr", "source", "date", "scores")  # score is there: scores is no slip of it
    assert found.notes == ("columns not read: lr, source, date, scores",)


def test_wrong_mappings():
    text = "method,flops,score\na,1,1\n"
    with pytest.raises(ConfigError, match=r"'flop' is no column of ours .did you mean 'flops'"):
        parse(text, {"flop": "flops"})
    with pytest.raises(ConfigError, match=r"has no column 'scores' .did you mean 'score'"):
        parse(text, {"score": "scores"})
    with pytest.raises(ConfigError, match="factor is 'x'"):
        parse(text, {"flops": "flops*x"})


def test_flops_with_and_without_a_unit_are_refused():
    with pytest.raises(DataError, match=r"with a unit \(line 2\) and without one \(line 3\)"):
        parse("method,flops,score\na,3 EFLOP,1\nb,3e18,2\n")


def test_mixed_units_and_directions_are_refused():
    with pytest.raises(DataError, match="given in 2 ways") as error:
        parse("method,flops,score,unit\na,1,41,%\nb,1,0.41,\nc,1,42,%\n")
    assert (
        "%, higher is better: lines 2, 4" in error.value.why and "no unit, higher is better: line 3" in error.value.why
    )
    with pytest.raises(DataError, match="given in 2 ways"):
        parse("method,flops,score,higher_is_better\na,1,41,true\nb,1,42,false\n")
    with pytest.raises(DataError, match="line 3: the score 141 is no percentage"):
        parse("method,flops,score,unit\na,1,41,%\nb,1,141,%\n")


def test_fractions_among_percentages_are_refused():
    with pytest.raises(DataError, match="fractions in line 3 and like percentages in lines 2, 4"):
        parse("method,flops,score\na,1,41\nb,1,0.42\nc,1,43\n")
    assert len(parse("method,flops,score\na,1,0.9\nb,1,1.7\n")) == 2  # a loss
    said = table("method,flops,score,unit\na,1,41,%\nb,1,0.42,%\nc,1,43,%\n")  # they say what they are
    assert len(said.rows) == 3 and len(said.notes) == 1
    assert said.notes[0].startswith("line 3 is read as at most 1 %, less than a tenth of the best")
    fine = "method,flops,score,unit,kind\na,1,4,%,\nb,1,0.42,%,\nc,1,0.1,%,baseline\n"
    assert table(fine).notes == ()  # all are small, and a baseline may be


def test_one_run_twice_is_refused():
    text = "method,flops,score\na,1e18,1\nb,1e18,1\na,1e18,2\n"
    with pytest.raises(DataError, match=r"lines 2, 4 are the same run: a, 1e.18 FLOPs.*\n.*\n.*add a column 'seed'"):
        parse(text)
    assert len(parse("method,flops,score,task\na,1e18,1,x\na,1e18,2,y\n")) == 2  # two tasks of one run
    with pytest.raises(DataError, match="correct its seed"):
        parse("method,flops,score,seed\na,1,1,0\na,1,2,0\n")
    with pytest.raises(DataError, match=r"lines 2, 3 are the same run.*\n.*\n.*delete one of the two"):
        parse("method,flops,score\na,1,1\na,1,1\n")


@pytest.mark.parametrize("called", ["loss", "Top-1 error", "val_loss", "FID", "RMSE", "perplexity"])
def test_scores_that_are_called_as_if_less_were_better_have_to_say_it(called):
    with pytest.raises(DataError, match=rf"is less of '{called}' better .lines 2, 3.*\n.*\n.*'higher_is_better'"):
        parse(f"method,flops,score,metric\na,1,1,{called}\nb,1,2,{called}\n")
    with pytest.raises(DataError, match="is less of"):
        parse(f"method,flops,{called}\na,1,1\n", {"score": called})
    (row,) = parse(f"method,flops,score,metric,higher_is_better\na,1,1,{called},false\n")
    assert not row.scores[0].higher_is_better


@pytest.mark.parametrize("called", ["accuracy", "lossless", "terror_ap", "miou"])
def test_other_scores_have_not(called):
    assert parse(f"method,flops,score,metric\na,1,1,{called}\n")[0].scores[0].higher_is_better


def test_two_protocols_are_two_axes():
    rows = parse("method,flops,score,task,protocol\na,1,1,x,p1\nb,1,2,x,p2\n")
    assert len(axes(rows)) == 2


@pytest.mark.parametrize("text", ["", "method,flops,score\n", "\n\n", "a,a\n1,2\n", 'method,flops,score\n"x,1,2\n'])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(DataError):
        parse(text)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\xff")
    with pytest.raises(DataError, match="cannot read"):
        read(path)
    path.write_text("\ufeffmethod,flops,score\na,1,1\n", encoding="utf-8")  # as a spreadsheet saves it
    assert read(path).rows[0].label == "a"
