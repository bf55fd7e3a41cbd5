"""All that runs say: what a table was made of is found again, and what it does not say is said."""

from __future__ import annotations

import json
import math
import random

import pytest

from spendflops.contracts.errors import DataError
from spendflops.study import findings
from spendflops.study.frontier import NotEnough
from spendflops.study.frontier.table import parse
from spendflops.study.points import axes

SIZES = {"S": 20_000_000, "M": 40_000_000, "B": 80_000_000, "L": 320_000_000}
BUDGETS = (1e18, 2e18, 4e18, 8e18)
HEAD = "method,model,parameters,data,flops,seed,task,score,unit,kind,candidate\n"


def best_size(flops):
    return 40e6 * (flops / 1e18) ** 0.5


def made(noise=0.1, methods=(("mae", 0.0, 4.0), ("simclr", 3.0, 2.0))):
    """Scores that are a parabola in log size, whose vertex grows with the root of the FLOPs; MAE overtakes SimCLR."""
    dice = random.Random(0)
    lines = []
    for method, lift, slope in methods:
        for model, size in SIZES.items():
            for flops in BUDGETS:
                value = 50 + lift + slope * math.log2(flops / 1e18) ** 0.8 - 2 * math.log(size / best_size(flops)) ** 2
                for seed in (0, 1, 2):
                    for task, shift in (("acc", 0.0), ("miou", -10.0)):
                        score = value + shift + dice.gauss(0, noise)
                        lines.append(f"{method},{model},{size},photos,{flops:g},{seed},{task},{score:.3f},%,method,")
    tried = [f"mae,B,,photos,1e17,0,acc,{score},%,tuning,lr={score}" for score in (40, 44, 42)]
    return parse(HEAD + "\n".join([*lines, *tried, "simclr,B,,photos,1e17,0,acc,41,%,tuning,lr=1"]) + "\n")


@pytest.fixture(scope="module")
def rows():
    return made()


@pytest.fixture(scope="module")
def found(rows):
    return findings.find(rows, next(axis for axis in axes(rows) if axis.evaluator == "acc"))


def test_the_best_size_and_how_it_grows(found):
    profiles = [p for p in found.profiles if p.name == "mae on photos"]
    assert [p.flops for p in profiles] == [int(flops) for flops in BUDGETS]
    assert all(p.sizes == tuple(SIZES.values()) for p in profiles)
    assert all(p.best.size.value == pytest.approx(best_size(p.flops), rel=0.05) for p in profiles)
    assert found.allocations["mae on photos"].exponent.value == pytest.approx(0.5, abs=0.05)
    assert "the best size grows with FLOPs to the power 0.5" in findings.to_text(found)


def test_the_front_and_what_each_method_has_best(found):
    assert [p.name for p, _ in found.front] == ["simclr/M", "simclr/M", "mae/B", "mae/B"]
    assert all(share > 0.5 for _, share in found.front)
    assert [p.name for p in found.envelopes["mae"].points] == ["mae/M", "mae/M", "mae/B", "mae/B"]
    assert found.envelopes["mae"].variants == ("mae/B", "mae/L", "mae/M", "mae/S")


def test_crossings_and_laws(found):
    (cross,) = (c for c in found.crossovers if (c.cheap, c.dear) == ("simclr/B", "mae/B"))
    # 3 + 2 x = 4 x at x = log2(FLOPs / 1e18) ^ 0.8.
    assert cross.low < 1e18 * 2 ** (1.5**1.25) < cross.high
    law = found.laws["mae/B"]
    assert law.lengths == 4 and law.predict(1.6e19).factor == 2
    assert "the longest left out, its prediction is" in findings.to_text(found)


def test_differences_are_paired_by_seed(found):
    at_most = [pair for pair in found.pairs if pair.flops == 8e18]
    assert {pair.best for pair in at_most} == {"mae/B"} and len(at_most) == 7
    against = next(pair for pair in at_most if pair.other == "simclr/B")
    assert against.difference.mean.n == 3 and against.difference.mean.value == pytest.approx(
        -3 + 2 * 3**0.8, abs=0.3
    )  # the same size: what differs is lift and slope


def test_ranks_over_tasks_at_flops_that_all_have(found, rows):
    assert found.budget == 8e18 and found.places[0].method == "mae/B"
    (agreement,) = found.agreements
    assert agreement.tau > 0.7 and len(agreement.methods) == 8
    early = findings.find(rows, found.axis, budget=1e18)
    assert early.budget == 1e18 and early.places[0].method == "simclr/M"


def test_what_choosing_settings_has_cost(found):
    mae, simclr = found.tuning
    assert (mae.tried, mae.flops, mae.best, mae.allowed, simclr.tried) == (3, 3 * 10**17, 44, 1, 1)
    assert "mae: 3 settings tried, 3.00e17 FLOPs; the best scores 44.0 %, the best of 1 42.0 %" in findings.to_text(
        found
    )


def test_what_the_data_do_not_say_is_said():
    text = "method,flops,flops_unknown,score,kind\na,1e18,,1,\nb,2e18,,2,\nc,,not published,3,\nr,0,,0.5,baseline\n"
    rows = parse(text)
    found = findings.find(rows, axes(rows)[0])
    assert all(isinstance(law, NotEnough) for law in found.laws.values()) and set(found.laws) == {"a", "b"}
    assert isinstance(found.places, NotEnough) and isinstance(found.tuning, NotEnough) and found.unplaced == ("c",)
    told = findings.to_text(found)
    for words in (
        "a and b: not enough data: 1 length",
        "without known FLOPs, so without a place: c",
        "r 0.500 for no FLOPs",
        "how sure that is: not enough data: 2 of 2 points have no spread",
        "no two curves change places",
        "no method was run with two sizes",
        "no two methods were run at the same FLOPs",
    ):
        assert words in " ".join(told.split())


def test_seeds_that_look_like_lengths_are_refused():
    rows = parse("method,flops,seed,score\na,1e18,0,1\na,1.01e18,1,2\n")
    with pytest.raises(DataError, match="a column 'budget'"):
        findings.find(rows, axes(rows)[0])


def test_only_floors():
    rows = parse("method,flops,score,kind\nr,0,0.5,baseline\n")
    found = findings.find(rows, axes(rows)[0])
    assert found.front == () and "r 0.500 for no FLOPs" in findings.to_text(found)


def test_two_protocols_of_one_name_are_two_tasks():
    text = "method,flops,score,task,protocol\n" + "".join(
        f"{m},1e18,{s},acc,{p}\n" for p in ("p1", "p2") for m, s in (("a", 1), ("b", 2), ("c", 3))
    )
    rows = parse(text)
    (agreement,) = findings.find(rows, axes(rows)[0]).agreements
    assert agreement.tasks == ("acc score (p1)", "acc score (p2)") and agreement.tau == 1


def test_scores_of_which_less_is_better():
    text = "method,flops,score,metric,higher_is_better,seed\n" + "".join(
        f"{m},1e18,{v + seed / 100},loss,false,{seed}\n" for m, v in (("a", 1.0), ("b", 2.0)) for seed in (0, 1)
    )
    rows = parse(text)
    found = findings.find(rows, axes(rows)[0])
    (pair,) = found.pairs
    assert [p.name for p, _ in found.front] == ["a"] and (pair.best, pair.other) == ("a", "b")
    assert pair.difference.mean.value == pytest.approx(1)  # ahead is positive


def test_plain_data_have_no_number_that_json_has_not(found):
    plain = findings.to_json(found)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["laws"]["mae/B"]["ahead"]["factor"] == 2 and plain["profiles"][0]["best"]["inside"]
