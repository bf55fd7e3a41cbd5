"""What an evaluator says beside its score: kept in the row, shown below the table."""

import dataclasses

from spendflops.study import frontier
from spendflops.study.points import Row, axes
from spendflops.study.report import tables
from spendflops.study.results import _score

SAID = {
    "evaluation": "ap",
    "protocol": "coco_ap/1",
    "primary": "box_ap",
    "higher_is_better": True,
    "unit": "%",
    "spread": "",
    "data": {"eval": "shapes:test"},
    "values": {"box_ap": 0.5, "box_ap_sd": 0.1, "box_ap_n": 3, "box_ap/a": 0.4, "box_ap50": 0.75, "mask_ap": 0.25},
}


def test_a_score_keeps_all_figures_but_its_own():
    kept = _score(SAID)
    assert (kept.value, kept.others) == (50.0, {"box_ap50": 0.75, "mask_ap": 0.25})


def test_figures_are_means_over_seeds_in_the_order_of_the_scores(make_row, make_score):
    rows = []
    for label, budget, value, figures in (
        ("mae", 10**12, 60.0, ({"ap50": 0.5, "ar": 0.25}, {"ap50": 0.75})),
        ("mae", 4 * 10**12, 70.0, ({"ap50": 0.875},) * 2),
        ("random", None, 20.0, ({},) * 2),
    ):
        for seed, others in enumerate(figures):
            made = make_row(label, budget, value, seed=seed)
            rows.append(dataclasses.replace(made, scores=(make_score(value, others=others),)))
    rows = [Row.from_json(row.to_json()) for row in rows]
    (axis,) = axes(rows)
    head, lines = tables.others(frontier.analyse(rows, axis))
    assert head == ["Method", "Budget", "ap50", "ar"]
    assert [[cell.text for cell in line[2:]] for line in lines] == [["0.875", "–"], ["0.625", "0.25"], ["–", "–"]]


def test_nothing_said_is_no_table(study):
    (axis, *_) = axes(study.rows)
    assert tables.others(frontier.analyse(study.rows, axis)) == ([], [])
