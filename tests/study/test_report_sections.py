"""Data sets, model sizes and learning curves on the page: what stands in which cell, and what is told apart."""

import dataclasses

import pytest
from test_report import Page

from spendflops.accounts import machines
from spendflops.accounts.footprint import measured
from spendflops.study import frontier
from spendflops.study.points import Report, axes
from spendflops.study.report import cells, footprints, learning, text, write
from spendflops.study.traces import Trace

BUDGETS = (10**12, 4 * 10**12, 16 * 10**12)
# The larger model is 4 behind at the least FLOPs, even in the middle, and 4 ahead at the most.
GAIN = {"vit 64x4": (0, 4, 8), "vit 128x8": (-4, 4, 12)}
DATA = {"photos": 0.0, "scenes": 6.0, "captions": 5.9}


def gridded(make_row, budgets):
    def row(method, size, data, place, seed):
        value = 50 + GAIN[size][place] + DATA[data] + (0.2, -0.2, 0.0)[seed]
        budget = budgets[place]
        per_image = 10**9 if size == "vit 128x8" else 10**8
        settings = {"objective": f"objectives.{method}"}
        name = f"{method}-{size[-1]}-{data}-{place}-{seed}"
        flops = tuple(budget * k // 10 for k in range(1, 11))
        trace = Trace(name="loss", stage=method, flops=flops, values=tuple(3 / k for k in range(1, 11)))
        more = {"backbone": size, "dataset": data, "settings": settings, "run_id": name, "traces": (trace,)}
        return make_row(f"{method} {size[-1]}", budget, value, flops=budget, seed=seed, images_seen=budget // per_image,
                        **more)  # fmt: skip

    rows = [row(m, size, data, place, seed) for m in ("mae", "clip") for size in GAIN for data in DATA
            for place in range(3) for seed in range(3)]  # fmt: skip
    return Report(title="Grid", question="Which?", created="2026-01-02T03:04:05Z", rows=tuple(rows))


@pytest.fixture
def grid(make_row):
    return gridded(make_row, BUDGETS)


@pytest.fixture
def analysis(grid):
    return frontier.analyse(grid.rows, axes(grid.rows)[0])


def test_the_best_data_set_of_a_row_is_marked_and_ties_are_named(analysis):
    head, lines = cells.dataset_table(analysis)
    assert head == ["Method", "FLOPs", "captions", "photos", "scenes"] and len(lines) == 4
    found = {line[0].text: line[1:] for line in lines}
    assert [cell.text for cell in found["mae 8"]] == ["1.60e13", "~ 67.9 % ± 0.2", "62.0 % ± 0.2", "68.0 % ± 0.2"]
    assert [cell.css for cell in found["mae 8"]] == ["", "", "", "best"] and found["mae 8"][3].sub == "best"


def test_data_sets_are_compared_at_flops_that_all_have(grid):
    rows = [r for r in grid.rows if r.dataset != "scenes" or r.budget != BUDGETS[-1]]
    _, lines = cells.dataset_table(frontier.analyse(rows, axes(rows)[0]))
    found = {line[0].text: [cell.text for cell in line[1:]] for line in lines}
    assert found["mae 8"] == ["4.00e12", "~ 59.9 % ± 0.2", "54.0 % ± 0.2", "60.0 % ± 0.2"]
    rows = [r for r in grid.rows if r.dataset != "captions" or r.budget == BUDGETS[-1]]
    rows = [r for r in rows if r.dataset != "scenes" or r.budget == BUDGETS[0]]
    _, lines = cells.dataset_table(frontier.analyse(rows, axes(rows)[0]))
    assert [cell.text for cell in lines[0]][2:] == ["–", "50.0 % ± 0.2", "56.0 % ± 0.2"]


def test_sizes_meet_where_they_were_made_to(make_row):
    grid = gridded(make_row, (2 * 10**12, 4 * 10**12, 8 * 10**12))
    analysis = frontier.analyse(grid.rows, axes(grid.rows)[0])
    groups = cells.families(analysis)
    assert list(groups) == [f"{m} on {d}" for m in ("clip", "mae") for d in ("captions", "photos", "scenes")]
    small, large = groups["mae on photos"]
    assert (small[0].rows[0].backbone, large[0].rows[0].backbone) == ("vit 64x4", "vit 128x8")
    (line,) = cells._pairs(analysis, "mae on photos", groups["mae on photos"])
    said = [cell.text for cell in line]
    assert said[:4] == ["mae on photos", "mae 4, vit 64x4", "mae 8, vit 128x8", "4.00e12"]
    low, _, high = said[4].partition(" to ")
    assert 3e12 < float(low) < 4e12 < float(high) < 5e12
    assert said[5] == "8.00e12: +4.0, larger ahead"
    page = Page(cells.sizes([analysis]))
    assert [tag for tag, _ in page.tags].count("svg") == 6
    assert sum(attributes.get("class") == "between" for _, attributes in page.tags) == 6


def test_sizes_that_meet_between_lengths_far_apart_have_no_interval(analysis):
    (line,) = cells._pairs(analysis, "mae on photos", cells.families(analysis)["mae on photos"])
    assert [cell.text for cell in line[3:5]] == ["4.00e12", "the lengths around it are a factor of 4 apart"]


def test_sizes_that_never_meet_say_who_is_ahead(grid):
    rows = [r for r in grid.rows if r.budget == BUDGETS[0] and r.dataset == "photos" and r.label.startswith("mae")]
    analysis = frontier.analyse(rows, axes(rows)[0])
    groups = cells.families(analysis)
    assert list(groups) == ["mae"]
    (line,) = cells._pairs(analysis, "mae", groups["mae"])
    assert [cell.text for cell in line[3:]] == ["–", "–", "1.00e12: −4.0, smaller ahead"]


def test_one_size_and_one_data_set_have_no_section(study):
    analyses = [frontier.analyse(study.rows, axis) for axis in axes(study.rows)]
    assert cells.datasets(analyses) == "" == cells.sizes(analyses)


def test_numbers_of_a_curve_are_those_of_their_share_and_lone_points_are_counted(make_row):
    late = Trace(name="loss", stage="mae", flops=(6 * 10**11, 10**12), values=(3.0, 2.0))
    lone = Trace(name="loss", stage="clip", flops=(10**12,), values=(3.0,))
    page = Page(learning.section([make_row("mae", 10**12, traces=(late,)), make_row("clip", 10**12, traces=(lone,))]))
    assert page.tables[0][1][1:4] == ["–", "–", "2"]  # nothing was logged by then
    assert "1 run logged one point alone" in " ".join(page.words)


def test_losses_of_two_methods_share_no_panel_and_probes_do(grid):
    probe = Trace(name="probe/knn/accuracy", stage="", flops=(10**11, 10**12), values=(0.1, 0.4))
    probes = {m: dataclasses.replace(probe, stage=m) for m in ("mae", "clip")}
    photos = [r for r in grid.rows if r.dataset == "photos"]
    rows = [dataclasses.replace(r, traces=(*r.traces, probes[r.traces[0].stage])) for r in photos]
    found = learning._grouped(rows)
    assert list(found) == [("probe/knn/accuracy", ""), *(("loss", f"{m} {s}") for m in ("mae", "clip") for s in (4, 8))]
    assert len(found["probe/knn/accuracy", ""]) == 4 * 3 and len(found["loss", "mae 8"]) == 3
    page = Page(learning.section(rows))
    assert [tag for tag, _ in page.tags].count("svg") == 5 and len(page.tables) == 1
    words = " ".join(page.words)
    assert "Accuracy of the probe knn" in words and "Loss of mae 8" in words and "5 of 12 curves." in words
    table = {tuple(line[0].split("Loss of ")): line[1:] for line in page.tables[0][1:]}
    assert table["1.60e13 FLOPs", "mae 8"] == ["3", "0.6", "0.3", "1.60e13"]


def test_runs_without_a_curve_have_no_section(study):
    assert learning.section(study.rows) == ""


def test_estimates_and_measurements_are_never_one_sum(study):
    here = machines.Host(kind="cpu", devices=1, cores=2)
    known = measured(hours=0.5, kwh=0.002, counters="RAPL", machine=machines.parse("this", here=here))
    rows = [dataclasses.replace(r, measured=known) if r.label == "mae" else
            dataclasses.replace(r, measured_reason="RAPL: no zone") for r in study.rows]  # fmt: skip
    page = Page(footprints.section(rows))
    estimated, counted = page.tables
    assert estimated[0] == counted[0] == ["Method", "Runs", "Hours", "kWh", "CO2e"]
    assert [line[:2] for line in counted[1:]] == [["mae", "2"]]
    alone = [r.footprint for r in rows if r.label == "mae"]
    line = next(line for line in estimated if line[0] == "mae")
    assert line[3].startswith(f"{sum(item.kwh for item in alone):.3g}(")
    assert counted[1][3].startswith(f"{2 * known.kwh:.3g}")
    total = sum(r.footprint.kg * r.own_share for r in rows)
    assert estimated[-1][:2] == ["All", "11"] and estimated[-1][4].startswith(text.mass(total))
    words = " ".join(page.words)
    assert "8 runs: RAPL: no zone" in words and "the two are never added up" in words and "475 g CO2e/kWh" in words


def test_a_sum_with_an_unknown_part_is_unknown(study):
    unknown = dataclasses.replace(study.rows[1].footprint, kwh=None, kg=None, kg_low=None, watts=None)
    rows = [dataclasses.replace(study.rows[1], footprint=unknown), *study.rows[2:3]]
    (table,) = Page(footprints.section(rows)).tables
    assert table[1][3:] == ["unknown", "unknown"]
    assert footprints.section([dataclasses.replace(row, footprint=None) for row in rows]) == ""


def test_all_sections_are_on_the_page_in_a_browser(grid, chromium, tmp_path):
    path = write(grid, tmp_path / "report")["html"]
    (phone, desktop), console = chromium.measure(path, (390, 1280), tmp_path)
    assert console == []
    for seen in (phone, desktop):
        assert seen["overflow"] <= 0 and seen["wide"] == [] and seen["smallest"] >= 9.5
        assert seen["charts"] == 1 + 6 + 4 + 1  # the front, sizes, losses, phases
