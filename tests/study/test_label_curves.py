"""Gains over labelled examples against sums written out, and what the page says about them."""

import statistics

import pytest

from spendflops.study.frontier.paired import mean
from spendflops.study.labels import by_labels
from spendflops.study.points import SCRATCH, Row, Score
from spendflops.study.report import labels as drawn

VALUES = {
    # (method, labelled): score by seed
    (SCRATCH, 250): {0: 40.0, 1: 42.0, 2: 41.0},
    (SCRATCH, 1000): {0: 60.0, 1: 61.0, 2: 62.0},
    ("simmim", 250): {0: 50.0, 1: 51.0, 2: 53.0},
    ("simmim", 1000): {0: 61.0, 1: 62.0, 2: 60.0},
    ("simmim + intel", 250): {0: 45.0, 1: 47.0},
    ("simmim + intel", 1000): {0: 60.0, 1: 61.0},
}


def row(label, labelled, seed, value, *, higher=True, **changes):
    score = Score(
        evaluator="miou",
        protocol=f"segmentation_miou/1@32x32px:segmentation[pets:train[:{labelled}]]#{labelled:06x}",
        metric="miou",
        value=value,
        dataset="pets",
        split="test",
        unit="%",
        higher_is_better=higher,
    )
    basics = {"run_id": f"{label}-{labelled}-{seed}", "label": label, "backbone": "vit", "dataset": "", "seed": seed}
    kind = "baseline" if label == SCRATCH else "transfer"
    return Row(**{**basics, "kind": kind, "transfer": "pets", "labelled": labelled, "scores": (score,), **changes})


def rows(**changes):
    return [row(m, n, seed, v, **changes) for (m, n), found in VALUES.items() for seed, v in found.items()]


def test_curves_and_paired_gains():
    (found,) = by_labels(rows())
    assert found.sizes == (250, 1000) and list(found.curves) == [SCRATCH, "simmim", "simmim + intel"]
    curve = found.curves["simmim"][250]
    assert (curve.value, curve.n) == (pytest.approx(154 / 3), 3)
    assert curve.se == pytest.approx(statistics.stdev([50, 51, 53]) / 3**0.5)
    gains = {(g.name, g.over): g.by_labels for g in found.gains}
    assert set(gains) == {("simmim", SCRATCH), ("simmim + intel", SCRATCH), ("simmim + intel", "simmim")}
    differences = [50 - 40, 51 - 42, 53 - 41]
    paired = gains["simmim", SCRATCH][250]
    assert paired.value == pytest.approx(statistics.fmean(differences))
    assert paired.se == pytest.approx(statistics.stdev(differences) / 3**0.5) and paired.distinguishable
    assert not gains["simmim", SCRATCH][1000].distinguishable
    # Only seeds that both have are paired.
    assert gains["simmim + intel", "simmim"][250].n == 2
    assert gains["simmim + intel", "simmim"][250].value == pytest.approx(((45 - 50) + (47 - 51)) / 2)


def test_where_lower_is_better_a_gain_is_still_positive():
    (found,) = by_labels(rows(higher=False))
    assert next(g for g in found.gains if g.over == SCRATCH).by_labels[250].value < 0


def test_what_does_not_count():
    assert by_labels(rows(transfer="")) == [] and by_labels(rows(kind="tuning")) == []
    assert by_labels([r for r in rows() if r.labelled == 250]) == []
    assert by_labels(rows(status="failed: x")) == []


def test_the_mean_of_one_value_has_no_error_and_of_equal_ones_none():
    assert mean([3.0]).se is None and not mean([3.0]).distinguishable
    assert mean([0.0, 0.0]).se == 0 and not mean([0.0, 0.0]).distinguishable and mean([1.0, 1.0]).distinguishable


def test_the_section_of_the_page():
    found = by_labels(rows())
    html = drawn.section(found, series=["simmim"])
    assert "simmim over no pre-training: +10.3 ± 0.9 with 250 labelled examples, +0.0 ± 1.0 with 1,000" in html
    assert html.count("<svg") == 2 and "+10.3 ± 0.9*" in html and "n = 3" in html
    assert drawn.section([], series=[]) == ""
