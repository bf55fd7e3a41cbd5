"""Pictures of runs on the page: inlined, side by side, bounded; in report.json as paths alone."""

import base64
import dataclasses
import io
import json
import sys
from pathlib import Path

import PIL.Image
import pytest
from test_report import Page

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import stage
from spendflops_plugins.accuracy import Accuracy

from spendflops.engine.recipe import Evaluation
from spendflops.study import results
from spendflops.study.grid import Study
from spendflops.study.launch import Launch
from spendflops.study.points import Picture, Report
from spendflops.study.report import examples, write
from spendflops.testing.samples import KitData


def picture(number, size=64):
    """Bytes that differ."""
    return bytes([number]) * size


def with_pictures(row, folder, names=("example_0.png", "example_1.jpg"), *, size=64, evaluation="ridge"):
    place = f"rows/{row.run_id}/evaluations/{evaluation}"
    (folder / place).mkdir(parents=True)
    for i, name in enumerate(names):
        (folder / place / name).write_bytes(picture((hash(row.run_id) + i) % 251, size))
    return dataclasses.replace(
        row, pictures=tuple(Picture(evaluation=evaluation, path=f"{place}/{name}") for name in names)
    )


@pytest.fixture
def pictured(study, tmp_path):
    return dataclasses.replace(study, rows=tuple(with_pictures(row, tmp_path) for row in study.rows))


def read(report, folder):
    with open(write(report, folder)["html"], encoding="utf-8") as file:
        source = file.read()
    return source, Page(source)


def images(page):
    return [attributes for tag, attributes in page.tags if tag == "img"]


def test_one_run_a_method_side_by_side_with_random_weights_first(pictured, tmp_path):
    source, page = read(pictured, tmp_path)
    said = [image["alt"] for image in images(page)]
    # fmt: off
    ridge = ["random, seed 0: accuracy 34.2 %", "supervised, 2.00e12 FLOPs, seed 0: accuracy 81.3 %",
             "simclr, 2.00e12 FLOPs, seed 0: accuracy 80.4 %", "mae, 2.00e12 FLOPs, seed 0: accuracy 35.0 %"]
    tuned = ["scratch, seed 0: accuracy 71.0 %", "fine-tune of simclr, 2.00e12 FLOPs, seed 0: accuracy 84.0 %"]
    # fmt: on
    # The evaluator is one, the scores are on the same data: the same examples.
    order = [ridge[0], tuned[0], *ridge[1:], tuned[1]]
    assert said == [f"Example {n} of ridge on shapes/test: {who}" for n in (1, 2) for who in order]
    words = " ".join(page.words)
    assert all(who in words for who in order) and "Examples" in words
    paths = [f"rows/{run}/evaluations/ridge/example_0.png" for run in ("random-None-0", "scratch-None-0")]
    for image, path in zip(images(page), paths, strict=False):
        assert image["src"] == "data:image/png;base64," + base64.b64encode((tmp_path / path).read_bytes()).decode()
    assert sum("data:image/jpeg;base64," in image["src"] for image in images(page)) == len(order)
    assert {attributes["role"] for _, attributes in page.tags if attributes.get("class") == "examples"} == {"group"}
    assert "://" not in source.replace("http://www.w3.org/2000/svg", "")


def test_the_json_file_holds_paths(pictured, tmp_path):
    with open(write(pictured, tmp_path)["json"], encoding="utf-8") as file:
        data = json.load(file)
    path = "rows/random-None-0/evaluations/ridge/example_0.png"
    assert data["rows"][0]["pictures"][0] == {"evaluation": "ridge", "path": path}
    assert "base64" not in json.dumps(data)
    assert Report.from_json(data) == pictured


def test_a_report_without_pictures_has_no_section(study, tmp_path):
    page = read(study, tmp_path)[1]
    assert "Examples" not in page.words and images(page) == []


def test_pictures_are_bounded_in_number_and_bytes(study, tmp_path, make_row):
    methods = [make_row(f"method {i}", 10**12) for i in range(12)]
    names = tuple(f"example_{i}.png" for i in range(5))
    rows = tuple(with_pictures(row, tmp_path, names, size=60_000) for row in methods)
    source, page = read(dataclasses.replace(study, rows=rows), tmp_path)
    # 8 runs of 60 kB are 480 kB; a second example of all of them would be too much.
    assert len(images(page)) == examples.RUNS == 8 and len(source) < 2_000_000
    words = " ".join(page.words)
    assert "8 of 12 methods are shown." in words and "There was no room for all of them" in words
    small = tuple(with_pictures(row, tmp_path / "small", names) for row in methods)
    (tmp_path / "small").mkdir(exist_ok=True)
    _, page = read(dataclasses.replace(study, rows=small), tmp_path / "small")
    assert len(images(page)) == 8 * examples.EXAMPLES and "no room" not in " ".join(page.words)


def test_evaluations_share_the_room(study, tmp_path, make_row, make_score):
    row = make_row("mae", 10**12)
    both = dataclasses.replace(row, scores=(*row.scores, make_score(3.0, evaluator="boxes")))
    names = ("example_0.png", "example_1.png")
    one = with_pictures(both, tmp_path, names, size=300_000)
    other = with_pictures(both, tmp_path, names, size=300_000, evaluation="boxes")
    rows = (dataclasses.replace(both, pictures=one.pictures + other.pictures),)
    _, page = read(dataclasses.replace(study, rows=rows), tmp_path)
    said = [image["alt"].partition(":")[0] for image in images(page)]
    assert said == ["Example 1 of ridge on shapes/test", "Example 2 of ridge on shapes/test",
                    "Example 1 of boxes on shapes/test"]  # fmt: skip


def test_pictures_that_are_gone_or_elsewhere_are_named_and_not_read(study, tmp_path):
    first, second = study.rows[0], study.rows[1]
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (tmp_path / "report").mkdir()
    paths = ("rows/gone.png", "../secret.png", str(secret))
    for path in paths:
        rows = tuple(
            dataclasses.replace(row, pictures=(Picture(evaluation="ridge", path=path),)) for row in (first, second)
        )
        page = read(dataclasses.replace(study, rows=rows), tmp_path / "report")[1]
        assert f"{path} does not lie beside this page." in " ".join(page.words) and images(page) == []


class Pictured(Accuracy):
    """Accuracy with a picture of the first image."""

    def files(self, rows, *, info, opened):
        made = io.BytesIO()
        PIL.Image.fromarray(opened("eval", ("image",))[0]["image"].decode()).save(made, "PNG")
        return {"example_0.png": made.getvalue(), "example.txt": b"no picture", "an_example.png": b"another name"}


def test_pictures_of_runs_come_onto_the_page_of_their_study(tmp_path):
    scored = Evaluation(evaluator=Pictured(), name="seen", data={"eval": (KitData(), "test")}, batch_size=32)
    still = {"methods": {"supervised": (stage("supervised"),)}, "evaluations": (scored,), "primary": "seen"}
    wanted = Study(title="Tiny", question="Which?", budgets=("2e7",), seeds=(0,), **still)
    report = Launch(study=wanted, folder=tmp_path, quiet=True, say=lambda _: None).run()
    paths = [f"rows/{row.run_id}/evaluations/seen/example_0.png" for row in report.rows]
    assert [[picture.path for picture in row.pictures] for row in report.rows] == [[path] for path in paths]
    _, page = read(report, tmp_path)
    contents = [base64.b64decode(image["src"].partition(",")[2]) for image in images(page)]
    assert contents == [(tmp_path / path).read_bytes() for path in paths] and len(contents) == 1
    # The result of an earlier version says nothing of files.
    folder = tmp_path / "rows" / report.rows[0].run_id
    (score,) = json.loads((folder / "result.json").read_text())["scores"]
    assert results._pictures(folder, [score]) and score.pop("files")
    assert results._pictures(folder, [score]) == ()
