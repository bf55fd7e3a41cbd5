"""Successive halving on recorded curves, and the price of a trunk with branches."""

import math

import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study import frontier
from spendflops.study.halving import Arm, Rule, arms, branches, halve, price
from spendflops.study.points import axes


def arm(name, scores, *, method="", first=0.0):
    return Arm(name=name, method=method or name, scores=dict(zip((10, 20, 40, 80), scores, strict=False)), first=first)


def test_t17_the_price_of_a_trunk():
    """Koppula et al. 2022's lengths on JFT, with a cooldown of a fifth: 325 of 625 thousand steps."""
    lengths = [62.5, 125, 187.5, 250]
    assert (price(lengths), price(lengths, cooldown=0.2)) == (625, 325)
    assert price([*lengths, 500], cooldown=0.05) == pytest.approx(531.25)
    assert price([250], cooldown=0.2) == 250


def test_branches_add_up_and_the_trunk_is_charged_once():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = list(rng.uniform(1, 100, rng.integers(1, 7)))
        cooldown = rng.uniform(0.05, 0.5)
        found = branches(lengths, cooldown)
        assert sum(b.marginal for b in found) == pytest.approx(max(lengths) + cooldown * (sum(lengths) - max(lengths)))
        assert [b.alone for b in found] == sorted(lengths) and found[0].marginal == pytest.approx(min(lengths))
        for place, branch in enumerate(found):  # what the shorter lengths have left to pay
            below = price([b.length for b in found[:place]], cooldown=cooldown) if place else 0
            assert branch.marginal == pytest.approx(
                price([b.length for b in found[: place + 1]], cooldown=cooldown) - below
            )


@pytest.mark.parametrize(
    ("lengths", "cooldown"), [([1, 2], 0.0), ([1, 2], 1.0), ([], 0.2), ([1, 1], 0.2), ([0, 1], 0.2)]
)
def test_branches_that_are_none(lengths, cooldown):
    with pytest.raises(ConfigError):
        branches(lengths, cooldown)


def test_half_goes_on_at_every_rung():
    found = halve([arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 5, 6]), arm("c", [2, 3, 4, 5]), arm("d", [1, 2, 3, 4])])
    assert [r.stopped for r in found.rungs] == [("c", "d"), ("b",), (), ()]
    assert [r.compared for r in found.rungs] == [("a", "b", "c", "d"), ("a", "b"), ("a",), ("a",)]
    assert found.spent == 4 * 10 + 2 * 20 + 40 + 80 and found.full == 4 * 150
    assert found.saved == pytest.approx(1 - 200 / 600)
    assert found.same_front and found.same_best


def test_no_arm_is_stopped_before_its_first_comparison_point():
    """``late`` would be last at 10 and 20, and is best in the end."""
    late = arm("late", [0, 1, 9, 12], first=40)
    found = halve([arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 5, 6]), late])
    assert found.rungs[0].waiting == found.rungs[1].waiting == ("late",)
    assert all("late" not in r.stopped and "late" not in r.compared for r in found.rungs[:2])
    assert ("late", 80) in found.runs and ("late", 10) not in found.runs and found.same_best
    blind = halve([arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 5, 6]), arm("late", [0, 1, 9, 12])])
    assert "late" in blind.rungs[0].stopped and not blind.same_best


def test_arms_without_a_run_at_a_rung_wait():
    other = Arm(name="long only", method="x", scores={80: 20.0})
    found = halve([arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 5, 6]), other])
    assert [r.waiting for r in found.rungs[:3]] == [("long only",)] * 3 and found.same_best


def test_more_is_kept_within_a_margin_and_of_every_method():
    close = [arm("a", [4, 5, 6, 7]), arm("b", [3.9, 9, 9, 9]), arm("c", [1, 1, 1, 1])]
    assert halve(close, Rule(reduction=3)).rungs[0].stopped == ("b", "c")
    assert halve(close, Rule(reduction=3, margin=0.2)).rungs[0].stopped == ("c",)
    sizes = [arm("a s", [4, 5, 6, 7], method="a"), arm("a l", [3, 5, 7, 9], method="a"), arm("b", [1, 1, 1, 1])]
    assert halve(sizes, Rule(reduction=3)).rungs[0].stopped == ("a l", "b")
    assert halve(sizes, Rule(reduction=3, per_method=1)).rungs[0].stopped == ("a l",)
    assert halve(sizes, Rule(reduction=3, per_method=2)).rungs[0].stopped == ()


def test_no_tie_is_broken_by_a_name():
    assert halve([arm("a", [4, 5, 6, 7]), arm("b", [4, 5, 6, 7]), arm("c", [1, 1, 1, 1])]).rungs[0].stopped == ("c",)
    assert Rule().stopped({"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}, dict.fromkeys("abcd", "m")) == ["d"]


def test_a_front_that_changes_is_seen():
    crossing = [arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 9, 12])]
    found = halve(crossing)
    assert not found.same_front and not found.same_best
    assert halve(crossing, Rule(margin=1.1)).same_front


def test_trunks_cost_less_both_ways():
    found = halve([arm("a", [4, 5, 6, 7]), arm("b", [3, 4, 5, 6])], cooldown=0.2)
    assert found.spent == pytest.approx(80 + 0.2 * 70 + 10) and found.full == pytest.approx(2 * (80 + 0.2 * 70))


def test_everything_is_run_where_nothing_is_stopped():
    found = halve([arm("a", [1, 2, 3, 4])])
    assert found.saved == 0 and found.same_front


def test_arms_of_points(make_row):
    rows = [
        make_row(f"mae {v}", b, float(b % 7), flops=b, settings={"method": "mae"})
        for v in "ab"
        for b in (100, 200, 400)
    ]
    items = frontier.points(frontier.select(rows, axes(rows)[0]))
    found = arms(items, {"mae a": 200.0})
    assert [(a.name, a.method, a.first) for a in found] == [("mae a", "mae", 200.0), ("mae b", "mae", 0.0)]
    assert found[0].scores == {100: 2.0, 200: 4.0, 400: 1.0}


def test_lower_is_better_is_turned_round(make_row, make_score):
    row = make_row("a", 100, flops=100, scores=(make_score(3.0, higher_is_better=False),))
    assert arms(frontier.points(frontier.select([row], axes([row])[0])))[0].scores == {100: -3.0}


@pytest.mark.parametrize("scores", [{}, {0: 1.0}, {-1: 1.0}, {math.nan: 1.0}, {10: math.nan}])
def test_arms_that_mean_nothing(scores):
    with pytest.raises(DataError, match="arm 'x'"):
        Arm(name="x", method="x", scores=scores)


def test_options_that_mean_nothing():
    one = arm("a", [1, 2, 3, 4])
    for wrong in ({"reduction": 1}, {"margin": -1}, {"per_method": -1}):
        with pytest.raises(ConfigError, match="halving with"):
            Rule(**wrong)
    for wrong in ([], [one, one]):
        with pytest.raises(ConfigError, match="names of their own"):
            halve(wrong)
