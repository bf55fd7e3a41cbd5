"""`spendflops check`: one line a check, JSON, exit codes."""

import json

from spendflops.cli.main import main


def test_ok_lines_and_exit_code(capsys):
    assert main(["check", "evaluators.accuracy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       evaluators.accuracy builds")
    assert lines[-1] == "8 ok"


def test_a_path_is_an_argument_of_the_data_set_and_a_failure_gives_2(tmp_path, capsys):
    from PIL import Image

    for name in ("train/a/1.png", "test/a/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    assert main(["check", f"datasets.folder:{tmp_path}", "--json"]) == 2
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["splits"]["status"] == "FAILED" and "test[0] is the image of train[0]" in rows["splits"]["reason"]
    assert rows["repeats"]["status"] == "ok" and rows["masks"]["status"] == "skipped"


def test_only_brings_what_it_needs(capsys):
    assert main(["check", "evaluators.knn", "--only", "bounds", "--option", "k=5", "--json"]) == 0
    assert [row["check"] for row in json.loads(capsys.readouterr().out)] == ["builds", "scores", "bounds"]
    assert main(["check", "evaluators.knn", "--only", "bounds", "--option", "k=500"]) == 2


def test_mistakes_are_explained(capsys):
    for arguments, said in (
        ([], "no plugin given"),
        (["simclr"], "write objectives.simclr"),
        (["objective.simclr"], "did you mean 'objectives'"),
        (["evaluators.knn", "--only", "ordr"], "did you mean 'order'"),
        (["evaluators.knn", "--option", "kk=5"], "did you mean 'k'"),
        (["evaluators.knn", "--option", "k"], "NAME=VALUE"),
        (["datasets.folder"], "needs path"),
    ):
        assert main(["check", *arguments]) == 2
        assert said in capsys.readouterr().err
