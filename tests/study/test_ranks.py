"""Rank stability and the price of tuning, by brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from spendflops.contracts.errors import ConfigError
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.ranks import agreement, places, tau
from spendflops.study.frontier.tuning import expected_best, tuning
from spendflops.study.points import axes


def test_tau_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = rng.integers(0, 6, (2, rng.integers(2, 9)))
        expected = stats.kendalltau(a, b).statistic
        found = tau(a, b)
        assert isinstance(found, NotEnough) if math.isnan(expected) else found == pytest.approx(expected)
    assert isinstance(tau([1.0], [2.0]), NotEnough)


TASKS = {
    "ade20k": {"mae": (42.3, 0.5), "simclr": (44.0, 0.5), "byol": (41.7, 0.5), "dino": (36.7, 0.5)},
    "coco": {"mae": (44.8, 0.5), "simclr": (42.0, 0.5), "byol": (40.0, 0.5), "clip": (50.0, 0.5)},
}


def test_agreement_of_two_tasks():
    (found,) = agreement(TASKS)
    assert found.methods == ("mae", "simclr", "byol") and found.left_out == ("clip", "dino")
    assert found.tau == pytest.approx(stats.kendalltau([42.3, 44.0, 41.7], [44.8, 42.0, 40.0]).statistic)
    rng = np.random.default_rng(1)
    drawn = [
        stats.kendalltau(rng.normal([42.3, 44.0, 41.7], 0.5), rng.normal([44.8, 42.0, 40.0], 0.5)).statistic
        for _ in range(1000)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=1e-9)


def test_without_errors_there_is_no_range():
    (found,) = agreement({name: {m: (s, None) for m, (s, _) in task.items()} for name, task in TASKS.items()})
    assert (found.low, found.high) == (None, None)
    (thin,) = agreement({"a": {"x": (1.0, None), "y": (2.0, None)}, "b": {"x": (1.0, None), "y": (2.0, None)}})
    assert isinstance(thin, NotEnough)
    (equal,) = agreement({t: {m: (1.0, None) for m in "xyz"} for t in "ab"})
    assert isinstance(equal, NotEnough)


def test_places_over_tasks():
    found = places(
        {
            "a": {"x": (3.0, 0.1), "y": (2.0, 0.1), "z": (2.0, 0.1)},
            "b": {"x": (5.0, 9.0), "y": (6.0, 9.0), "z": (1.0, 9.0)},
        }
    )
    assert [(p.method, p.mean_rank) for p in found] == [("x", 1.5), ("y", 1.75), ("z", 2.75)]
    assert sum(p.first for p in found) == pytest.approx(1) and found[0].first > found[2].first
    assert isinstance(places({"a": {"x": (3.0, 0.1)}}), NotEnough)
    without = places({t: {"x": (3.0, None), "y": (2.0, None)} for t in "ab"})
    assert [p.first for p in without] == [None, None]


def test_expected_best_against_all_choices():
    rng = np.random.default_rng(3)
    for count in (1, 2, 5, 7):
        scores = list(rng.normal(0, 1, count))
        for k in range(1, count + 1):
            chosen = list(itertools.combinations(scores, k))
            assert expected_best(scores, k) == pytest.approx(np.mean([max(c) for c in chosen]), abs=1e-12)
            lowest = expected_best(scores, k, higher_is_better=False)
            assert lowest == pytest.approx(np.mean([min(c) for c in chosen]), abs=1e-12)
    for wrong in (0, 3):
        with pytest.raises(ConfigError, match="candidates"):
            expected_best([1.0, 2.0], wrong)


def candidates(make_row):
    tuned = [make_row("mae", 100, s, kind="tuning", candidate=f"lr {i}", flops=100) for i, s in enumerate((1, 5, 3, 7))]
    few = [make_row("clip", 100, s, kind="tuning", candidate=f"lr {i}", flops=300) for i, s in enumerate((4, 6))]
    failed = make_row("clip", 100, kind="tuning", flops=0, scores=(), status="failed: nan")
    lost = type(failed)(**{**vars(failed), "flops": {"wasted": 200}})
    return [*tuned, *few, lost, make_row("mae", 100, 8.0)]


def test_what_tuning_cost_and_equal_tuning(make_row):
    rows = candidates(make_row)
    mae, clip = tuning(rows, axes(rows)[0])
    assert (mae.method, mae.tried, mae.failed, mae.flops, mae.best, mae.allowed) == ("mae", 4, 0, 400, 7, 2)
    assert mae.equal == pytest.approx(np.mean([max(c) for c in itertools.combinations((1, 5, 3, 7), 2)]))
    assert (clip.tried, clip.failed, clip.flops, clip.allowed, clip.equal) == (2, 1, 800, 2, 6)
    mae, clip = tuning(rows, axes(rows)[0], flops=400)
    assert (mae.allowed, mae.equal, clip.allowed, clip.equal) == (4, 7, 1, 5)
    assert tuning(rows, axes(rows)[0], flops=50)[0].equal is None


def test_a_method_all_of_whose_candidates_failed_is_named(make_row):
    rows = [*candidates(make_row), make_row("dino", 100, kind="tuning", scores=(), status="failed: nan")]
    last = tuning(rows, axes(rows)[0])[-1]
    assert (last.method, last.tried, last.failed, last.best, last.equal) == ("dino", 0, 1, None, None)


def test_no_tuning_on_record(make_row):
    rows = [make_row("mae", 100)]
    assert isinstance(tuning(rows, axes(rows)[0]), NotEnough)
