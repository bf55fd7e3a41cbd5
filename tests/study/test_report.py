"""The page: whole, closed in itself, escaped; the files beside it hold the same."""

import csv
import dataclasses
import html.parser
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.study import frontier
from spendflops.study.points import FLOP_KINDS, Report, axes, csv_text
from spendflops.study.report import terminal_table, text, write
from spendflops.study.report.chart import chart, spread, x_ticks, y_ticks

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(html.parser.HTMLParser):
    """Tags with attributes, table cells and text; fails on tags that do not nest."""

    def __init__(self, source):
        super().__init__()
        self.stack, self.tags, self.tables, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.words.append(data)
        if "td" in self.stack or "th" in self.stack:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def files(study, tmp_path):
    return write(study, tmp_path / "new" / "folder")


@pytest.fixture
def page(files):
    with open(files["html"], encoding="utf-8") as file:
        return Page(file.read())


def test_the_page_refers_to_nothing_outside(files, page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "base")
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "action") and not name.startswith("on")
            if name.endswith("href"):
                assert value.startswith("#")
    with open(files["html"], encoding="utf-8") as file:
        source = file.read()
    assert "url(" not in source and "@import" not in source
    assert re.findall(r"https?://[^\s\"']+", source.replace("http://www.w3.org/2000/svg", "")) == []


def test_every_anchor_has_a_target_and_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
    for _, attributes in page.tags:
        wanted |= set(attributes.get("aria-labelledby", "").split())
    assert wanted <= set(ids)


def test_tables_are_rectangular_with_scopes(page):
    assert len(page.tables) == 8
    for table in page.tables:
        assert len({len(line) for line in table}) == 1
    scopes = [a.get("scope") for tag, a in page.tags if tag == "th"]
    assert set(scopes) == {"row", "col"}


def test_results_hold_every_cell(page, study):
    results = page.tables[0]
    assert results[0] == ["Method", "Budget", "Score", "Verdict", "Against random", "FLOPs paid", "Pre-training",
                          "Transfer", "Evaluation", "Images", "Epochs", "Time", "CO2e"]  # fmt: skip
    best = dict(zip(results[0], results[1], strict=True))
    assert best["Method"].startswith("supervised") and best["Budget"] == "2.00e12"
    assert best["Score"] == "81.3 % ± 1.0" and best["Pre-training"] == "1.98e12"
    assert best["Verdict"] == "on the frontnot distinguishable from simclr at 1.98e12"
    assert best["Against random"] == "above (+47.1)"
    assert best["Epochs"] == "1.98" and best["Time"] == "33 min" and best["CO2e"] == "4.75 g"
    assert len(results) == 1 + 7
    assert results[-1][0].startswith("random")
    assert "Against random" not in page.tables[1][0]


def test_everything_else_is_on_the_page(page):
    words = " ".join(page.words)
    for wanted in (
        "At 2.00e12 FLOPs on shapes: supervised",
        "mae is not distinguishable from a random backbone",
        "The budget 5e11 is below one epoch.",
        "understates what another seed would change",
        "One multiply-add is 2 FLOPs.",
        "10 W a CPU core x 2",
        "475 g CO2e/kWh",
        "Ridge regression on frozen features.",
        "Welch's t test",
        "loss became nan at step 212",
        "runs/byol-0",
        "spendflops study shapes.gin",
        "hash-simclr",
        "jax 0.10.2",
        "Cite <this>.",
        "Where the FLOPs went",
    ):
        assert wanted in words, wanted
    differs = page.tables[4]
    assert differs[0][0] == "Setting" and [line[0] for line in differs[1:]] == ["objective"]


def test_evaluations_that_were_found_are_shown_and_are_no_part_of_the_total(study, tmp_path):
    total = sum(row.own(kind) for row in study.rows for kind in FLOP_KINDS)
    first = dataclasses.replace(study.rows[0], flops={**study.rows[0].flops, "evaluate": 10**13}, cached=10**13)
    found = dataclasses.replace(study, rows=(first, *study.rows[1:]))
    html = Path(write(found, tmp_path)["html"]).read_text()
    assert html.count("1.00e13 spent before") == 1 and f"{text.flops(total - 10**9)} FLOPs in all" in html


def test_text_is_escaped(files):
    with open(files["html"], encoding="utf-8") as file:
        source = file.read()
    assert "Which &lt;method&gt; for &quot;2 TFLOP&quot;?" in source
    assert "<method>" not in source and "<this>" not in source


def test_svg_has_title_description_and_one_marker_a_series(page, study):
    titles = [tag for tag, _ in page.tags]
    assert titles.count("svg") == 2 * 3  # two axes and the bars, wide and narrow
    assert titles.count("desc") == 2 * 2
    analysis = frontier.analyse(study.rows, axes(study.rows)[0])
    svg = chart(analysis, uid="x")
    for words in ("supervised: 66.8 % ± 1.0 at 4.95e11 FLOPs", "random: 34.2 % ± 1.0, nothing spent", "2e12"):
        assert words in svg
    shapes = {cls: set(re.findall(rf'class="{cls}"[^>]*><path class="mark" d="([^"]+)"', svg)) for cls in ("k0", "k1")}
    assert all(len(found) == 1 for found in shapes.values()) and shapes["k0"] != shapes["k1"]


def test_the_answer_says_that_behind_rests_on_single_seeds(make_row):
    def said(seeds, low=20.0):
        rows = [make_row(m, 100, v + s, seed=s) for m, v in (("a", 60.0), ("b", low)) for s in range(seeds)]
        return text.headline(frontier.analyse(rows, axes(rows)[0]))

    assert "b (20.0 %) is behind. One seed a run: another may say otherwise." in said(1)
    assert said(3).endswith("b (21.0 %) is behind.")
    assert said(1, low=59.5).endswith("b (59.5 %) is not distinguishable from it.")  # nothing is called behind


def test_a_chart_of_two_protocols_is_refused(study):
    one, two = (frontier.analyse(study.rows, axis) for axis in axes(study.rows))
    mixed = dataclasses.replace(one, points=(*one.points, *two.points))
    with pytest.raises(ConfigError, match="2 protocols for one axis"):
        chart(mixed, uid="x")


def test_json_and_csv_hold_the_report(files, study):
    with open(files["json"], encoding="utf-8") as file:
        data = json.load(file)
    assert Report.from_json(data) == study
    assert data["analysis"][0]["headline"].startswith("At 2.00e12 FLOPs on shapes: supervised")
    assert {p["status"] for p in data["analysis"][0]["points"]} >= {"on the front", "behind", "floor"}
    with open(files["csv"], encoding="utf-8", newline="") as file:
        assert file.read() == csv_text(study.rows)
    with open(files["csv"], encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(study.rows)


def test_a_failed_write_leaves_the_old_files(study, tmp_path, monkeypatch):
    write(study, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert set(before) == {"report.html", "report.json", "points.csv"}

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write(dataclasses.replace(study, title="new"), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_terminal_table(study):
    out = terminal_table(study)
    assert all(len(line) <= 140 for line in out.splitlines() if not line.startswith(("At ", "±")))
    assert "\x1b" not in out
    lines = out.splitlines()
    head = next(line for line in lines if line.startswith("#"))
    assert head.split("  ")[0] == "#" and "Verdict" in head and "Random" in head
    assert re.search(r"^1 +supervised .* 81\.3 % ± 1\.0 .* above +front, ~ #2$", out, re.M)
    assert re.search(r"^2 +simclr .* above +~ #1$", out, re.M)
    assert "failed: byol-2000000000000-0: loss became nan at step 212" in out


def test_long_names_give_way_in_the_terminal(study):
    rows = [dataclasses.replace(row, label=row.label + " with a very long name" * 4) for row in study.rows]
    out = terminal_table(dataclasses.replace(study, rows=tuple(rows)))
    table = [line for line in out.splitlines() if re.match(r"[#\d]", line)]
    assert max(map(len, table)) <= 140 and any("…" in line for line in table)


@pytest.mark.parametrize("rows", ["none", "failed", "random"])
def test_studies_without_a_result_are_still_pages(study, tmp_path, rows):
    keep = {"none": (), "failed": study.failed, "random": study.rows[:1]}[rows]
    small = dataclasses.replace(study, rows=keep, overlap=(), notes=())
    with open(write(small, tmp_path)["html"], encoding="utf-8") as file:
        Page(file.read())
    assert terminal_table(small)


def test_the_report_imports_no_jax():
    code = "import sys, spendflops.study.report; sys.exit(any(m == 'jax' or m.startswith('jax.') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "exact", "short"),
    [
        (None, "unknown", "unknown"),
        (0, "0", "0 FLOP"),
        (2_000_000_000_000, "2.00e12", "2.00 TFLOP"),
        (999_999_999_999, "1.00e12", "1.00 TFLOP"),
        (4.1e10, "4.10e10", "41.0 GFLOP"),
        (10**18, "1.00e18", "1.00 EFLOP"),
    ],
)
def test_flops_as_text(value, exact, short):
    assert (text.flops(value), text.human(value)) == (exact, short)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (0.25, "0.2 s"), (41, "41 s"), (99.6, "2 min"), (7200, "2.0 h")]
)
def test_durations_as_text(seconds, expected):
    assert text.duration(seconds) == expected


def test_masses_as_text():
    assert [text.mass(kg) for kg in (None, 0, 0.000108, 0.0095, 12)] == [
        "unknown",
        "0 g",
        "108 mg",
        "9.50 g",
        "12.0 kg",
    ]


def test_lists_as_text():
    assert [text.listing(list("abcde")[:n], most=4) for n in (1, 2, 4, 5)] == [
        "a", "a and b", "a, b, c and d", "a, b, c and 2 more"]  # fmt: skip


def test_ticks_are_round_and_inside():
    assert x_ticks(11.5, 12.5) == pytest.approx([5e11, 1e12, 2e12])
    assert x_ticks(10.1, 10.2) == pytest.approx([10**10.15])  # no round number in between
    assert x_ticks(9.9, 14.1) == pytest.approx([1e10, 1e11, 1e12, 1e13, 1e14])
    assert y_ticks(31.0, 83.0) == pytest.approx([40, 50, 60, 70, 80])


def test_labels_keep_their_order_and_distance():
    places = spread([10, 12, 13, 90, 99], gap=10, low=5, high=100)
    assert places == sorted(places) and places[0] >= 5 and places[-1] <= 100
    assert min(b - a for a, b in itertools.pairwise(places)) >= 10 - 1e-9
