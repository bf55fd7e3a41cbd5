"""Recommendations: on curves whose truth is known, by hand where data are thin, and what is said where they are."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import optimize, stats

from spendflops.cli.main import main
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study.frontier.table import parse
from spendflops.study.recommend import flops_of, recommend, to_json, to_text
from spendflops.study.recommend.next_run import _gain
from spendflops.study.recommend.offers import field
from spendflops.study.report import write
from spendflops.testing.coverage import CROSSING, drawn
from spendflops.testing.simulated import Curve, Simulated

LENGTHS = tuple(int(x * 1e18) for x in (1, 2, 4, 8))
SMALL, LARGE = Curve(limit=44.0, drop=9.0, rate=0.45), Curve(limit=50.0, drop=20.0, rate=0.4)
TRUTH = Simulated(curves={"small": SMALL, "large": LARGE}, budgets=LENGTHS, seeds=3, sd=0.4)
FLIP = optimize.brentq(lambda x: SMALL(x) - LARGE(x), 1e18, 8e18)
"""Where the two cross."""

FIVE = """method,model,data,flops,seed,score
mae,ViT-B,photos,1e18,0,41.0
mae,ViT-B,photos,1e18,1,43.0
mae,ViT-B,photos,4e18,0,46.0
simclr,ViT-B,photos,1e18,0,39.0
simclr,ViT-B,photos,4e18,0,47.0
"""


@pytest.fixture(scope="module")
def rows():
    return TRUTH.draw(np.random.default_rng(1))


@pytest.mark.parametrize("budget, best", [(1e18, "small"), (1.5e18, "small"), (8e18, "large"), (1.5e19, "large")])
def test_the_better_curve_is_chosen(rows, budget, best):
    found = recommend(rows, budget)
    truth = TRUTH.curves[best](budget)
    assert found.choice.offer.name == best and found.choice.offer.flops == budget
    assert found.choice.interval.low < truth < found.choice.interval.high
    assert found.choice.best > 0.95 and not found.candidates[1].tied
    assert sum(c.best for c in found.candidates) == pytest.approx(1)


def test_where_the_choice_flips(rows):
    (flip,) = recommend(rows, 1e18).flips
    assert (flip.cheap, flip.dear, flip.factor, flip.note) == ("small", "large", 1, "")
    assert flip.low < FLIP < flip.high and flip.low < flip.flops < flip.high
    near = recommend(rows, flip.flops)
    assert near.candidates[1].tied and 0.4 < near.choice.best < 0.6


def test_the_next_run_is_about_what_is_not_told_apart(rows):
    at = recommend(rows, FLIP)
    assert at.next.flops <= FLIP * 1.05 and at.next.changes > 0.1
    clear = recommend(rows, 8e18)
    assert clear.next.gain is None and "likely to change" in clear.next.note and clear.next.flops == 1.6e19


def test_beyond_the_factor_nothing_is_said(rows):
    inside, outside = recommend(rows, 1.6e19), recommend(rows, 1.7e19)
    assert inside.choice.offer.factor == 2 and "extrapolated 2.00 times" in to_text(inside)
    assert outside.choice is None and "2.12 times that" in outside.reason
    assert "The data do not say" in to_text(outside)
    assert outside.next.name == "large" and outside.next.flops == 1.6e19
    further = recommend(rows, 1.7e19, beyond=3)
    assert further.choice.offer.name == "large" and further.choice.offer.factor == pytest.approx(2.125)


def test_below_the_shortest_runs_nothing_is_said():
    found = recommend(parse(FIVE), 2e17)
    assert found.choice is None and "cheapest run cost 1.00e18" in found.reason
    assert [s.name for s in found.silent] == ["mae", "simclr"]
    assert found.next.flops == 2e17


def test_a_curve_that_ends_offers_its_longest_run():
    found = recommend(parse(FIVE), 5e18)
    assert found.choice.offer.name == "simclr" and found.choice.offer.flops == 4e18
    assert all(c.offer.open for c in found.candidates)
    assert "simclr and mae: the longest run cost 4.00e18 FLOPs" in to_text(found)


def test_the_best_curve_that_ends_far_below_the_budget_is_no_answer():
    text = "method,flops,seed,score\n" + "".join(
        f"{m},{x},{s},{y + s}\n" for m, x, y in (("good", "1e18", 50), ("dear", "8e18", 40)) for s in range(2)
    )
    assert recommend(parse(text), 1.9e18).choice.offer.name == "good"
    found = recommend(parse(text), 8e18)
    assert found.choice is None and "good, ends at 1.00e18 FLOPs, the budget is 8 times that" in found.reason
    assert found.next.name == "good" and found.next.flops == 2e18


def test_few_runs_are_interpolated_by_hand():
    found = recommend(parse(FIVE.replace("4e18", "2e18")), 2**0.5 * 1e18)
    assert found.choice.offer.basis == "interpolated"
    assert found.choice.offer.value == pytest.approx((42 + 46) / 2)
    assert found.candidates[1].offer.value == pytest.approx((39 + 47) / 2)
    sd = np.std([41.0, 43.0], ddof=1)
    assert found.candidates[1].offer.belief.error == pytest.approx(sd * np.hypot(0.5, 0.5))


def test_between_lengths_far_apart_there_is_a_score_and_no_interval():
    """Coverage of the line between lengths a factor of 4 apart is a half: no noise tells what is wrong with it."""
    found = recommend(parse(FIVE), 2e18)
    assert found.choice.offer.value == pytest.approx((42 + 46) / 2) and found.choice.interval is None
    assert found.choice.best is None and found.candidates[1].tied
    told = " ".join(to_text(found).split())
    assert "44.000 (no interval: the lengths around it are a factor of 4 apart)" in told
    assert "Not every score has an interval (the lengths around it are a factor of 4 apart)" in told
    at_a_run = recommend(parse(FIVE), 4e18)
    assert at_a_run.choice.interval is not None and at_a_run.choice.best is not None


def test_seeds_that_agree_to_the_last_digit_say_nothing_of_the_noise():
    text = "method,flops,seed,score,unit\na,1e18,0,100,%\na,1e18,1,100,%\nb,1e18,0,63.3,%\n"
    found = recommend(parse(text), 1e18)
    assert found.choice.offer.name == "a" and found.choice.interval is None and found.choice.best is None
    assert "the seeds agree to the last digit" in found.noise
    flat = "method,flops,score\n" + "".join(
        f"{m},{x:g},{y}\n" for m, y in (("a", 50), ("b", 40)) for x in (1e18, 2e18, 4e18, 8e18)
    )
    found = recommend(parse(flat), 1.6e19)
    assert found.choice.best is None and any("to the last digit" in note for note in found.notes)


def test_a_budget_just_below_a_run_says_that_the_run_costs_more():
    text = "method,flops,seed,score\na,2.15e18,0,44\na,2.15e18,1,45\n"
    assert "2.15e18 FLOPs (4.4 % more than the budget" in to_text(recommend(parse(text), 2.06e18))


def test_a_law_that_falls_is_followed_no_further_than_its_runs():
    text = "method,flops,seed,score\n" + "".join(
        f"a,{x:g},{seed},{y + seed / 2}\n"
        for x, y in ((1e18, 60.2), (2e18, 60.05), (4e18, 59.9), (8e18, 59.8))
        for seed in (0, 1)
    )
    found = recommend(parse(text), 1.6e19)
    assert found.candidates[0].offer.factor == 1 and found.candidates[0].offer.flops <= 8e18


def test_a_line_that_falls_is_left_where_its_ends_are_told_apart():
    text = "method,flops,seed,score\n" + "".join(
        f"a,{x:g},{seed},{y + seed / 10}\n" for x, y in ((1e18, 60), (2e18, 56)) for seed in (0, 1)
    )
    for budget in (1.1e18, 1.2e18, 1.5e18, 1.9e18):
        assert recommend(parse(text), budget).choice.offer.flops == 1e18


def test_without_a_second_seed_nothing_is_told_apart():
    text = FIVE.replace("mae,ViT-B,photos,1e18,1,43.0\n", "")
    found = recommend(parse(text), 4e18)
    assert found.choice.best is None and found.choice.interval is None and found.candidates[1].tied
    assert "not enough data: no point has a second seed" in found.noise
    assert found.next.seed and "second seed" in found.next.note
    assert "Others:" in to_text(found) and "no interval" in to_text(found)
    stated = recommend(parse(text), 4e18, noise=0.1)
    assert stated.choice.best > 0.99 and "assumed" in stated.noise


def test_residuals_stand_in_for_seeds():
    one = dataclasses.replace(TRUTH, seeds=1, sd=0.2).draw(np.random.default_rng(0))
    found = recommend(
        [*one, *parse("method,flops,score,task,protocol,metric,unit\nlone,1e18,30,accuracy,simulated/1,accuracy,%\n")],
        1e18,
    )
    assert "residuals of 2 curves" in found.noise
    assert {c.offer.name: c.interval is not None for c in found.candidates}["lone"]


def test_more_flops_made_it_worse():
    text = "method,flops,seed,score\n" + "".join(
        f"overfits,{x}e18,{s},{y + 0.1 * s}\n" for x, y in ((1, 40), (2, 36), (4, 30), (8, 22)) for s in range(3)
    )
    found = recommend(parse(text), 8e18)
    assert (found.choice.offer.flops, found.choice.offer.basis) == (1e18, "run")


def test_where_one_curve_is_no_law_none_is_extrapolated():
    text = "method,flops,seed,score\n" + "".join(
        f"{m},{x}e18,{s},{y + 0.1 * s}\n"
        for m, ys in (("jumps", (30, 40, 31, 44)), ("law", (30, 33, 35, 36.35)))
        for x, y in zip((1, 2, 4, 8), ys, strict=True)
        for s in range(3)
    )
    found = recommend(parse(text), 1.2e19)
    offers = {c.offer.name: c.offer for c in found.candidates}
    assert (offers["jumps"].basis, offers["jumps"].open, offers["jumps"].flops) == ("run", True, 8e18)
    assert (offers["law"].basis, offers["law"].open) == ("run", True)
    assert any("jumps: its seeds say" in note for note in found.notes)
    assert any("law: jumps, of the same task, is no" in note for note in found.notes)
    alone = recommend(parse("".join(line for line in text.splitlines(True) if not line.startswith("jumps"))), 1.2e19)
    (only,) = alone.candidates
    assert (only.offer.basis, only.offer.factor) == ("curve", 1.5)


def test_many_true_laws_are_seldom_taken_for_none():
    """5 % for all curves of a task together: with 5 % for each, twenty are refused in a fifth of draws."""
    curve = Curve(limit=46.0, drop=13.5, rate=0.35)
    study = dataclasses.replace(CROSSING, curves={str(i): curve for i in range(20)})
    refused = [not field(points).members for points in drawn(study, 40, 0)]
    assert sum(refused) <= 2


def test_errors_turn_the_whole_answer_round(rows):
    turned = [
        dataclasses.replace(
            row,
            scores=tuple(dataclasses.replace(s, value=100 - s.value, higher_is_better=False) for s in row.scores),
        )
        for row in rows
    ]
    for budget in (1e18, 3e18, 1.5e19):
        up, down = recommend(rows, budget), recommend(turned, budget)
        assert [c.offer.name for c in up.candidates] == [c.offer.name for c in down.candidates]
        one, other = up.choice.interval, down.choice.interval
        assert (other.low, other.high) == pytest.approx((100 - one.high, 100 - one.low), abs=1e-6)
        assert to_json(down)["choice"]["score"] == pytest.approx(100 - to_json(up)["choice"]["score"])


def test_the_lower_end_is_that_of_the_best_of_those_not_told_apart(rows):
    """Sidak's end for two, the ordinary one for the upper end."""
    found = recommend(rows, FLIP)
    belief = found.choice.offer.belief
    assert found.choice.interval.low == pytest.approx(belief.quantile(1 - 0.95**0.5))
    assert found.choice.interval.high == pytest.approx(belief.quantile(0.95))
    clear = recommend(rows, 8e18)
    assert clear.choice.interval.low == pytest.approx(clear.choice.offer.belief.quantile(0.05))


def test_only_what_the_user_has():
    text = FIVE + "simclr,ViT-L,scenes,1e18,0,60\n"
    assert recommend(parse(text), 1e18).choice.offer.name == "simclr/ViT-L/scenes"
    found = recommend(parse(text), 1e18, wanted={"data": ["photos"]})
    assert found.choice.offer.name == "mae" and len(found.candidates) == 2
    with pytest.raises(ConfigError, match=r"no run has the model 'ViT-l'.*did you mean 'ViT-L'"):
        recommend(parse(text), 1e18, wanted={"model": ["ViT-l"]})


def test_a_study_with_transfers_counts_the_phases_that_are_asked_for(study):
    task = "accuracy-finetune-v1"
    paid = recommend(study.rows, 3e12, task=task)
    assert paid.choice.offer.name == "fine-tune of simclr" and paid.filled["transfer"] == 6e11
    assert paid.choice.offer.flops == pytest.approx(1.98e12 + 6e11)
    pretrain = recommend(study.rows, 2e12, task=task, cost="pretrain")
    assert pretrain.choice.offer.flops == pytest.approx(1.98e12)
    assert any("1 run failed" in note for note in paid.notes)
    assert recommend(study.rows, 2e12, task="ridge-frozen-v1").floor == {"random": 34.2}


def test_equal_tuning(make_row):
    tried = [
        make_row(name, 10, value, kind="tuning", candidate=str(i), flops=10)
        for name, values in (("many", [50.0, 60.0, 70.0]), ("few", [62.0]))
        for i, value in enumerate(values)
    ]
    rows = [make_row("many", 10, 70.0, flops=10), make_row("few", 10, 62.0, flops=10), *tried]
    assert recommend(rows, 10).choice.offer.name == "many"
    found = recommend(rows, 10, equal_tuning=True)
    assert found.choice.offer.name == "few"
    assert {c.offer.name: c.offer.value for c in found.candidates} == {"few": 62.0, "many": 60.0}
    assert any("many tried 3 settings" in note for note in found.notes)
    unknown = recommend([*rows, make_row("third", 10, 65.0, flops=10)], 10, equal_tuning=True)
    assert unknown.choice is None and "third" in unknown.reason


def test_json_is_plain_and_whole(rows):
    found = recommend(rows, FLIP)
    plain = json.loads(json.dumps(to_json(found)))
    assert plain["says"] and plain["choice"]["tied"] is False and plain["candidates"][1]["tied"] is True
    assert plain["flips"][0]["cheap"] == "small" and plain["next"]["flops"] > 0
    nothing = json.loads(json.dumps(to_json(recommend(rows, 1e21))))
    assert nothing["choice"] is None and nothing["reason"] and len(nothing["candidates"]) == 2


def test_the_length_in_steps_and_passes(make_row):
    rows = [make_row("mae", 100, flops=100, steps=10, epochs=2.0), make_row("mae", 400, 60.0, flops=400, steps=40)]
    found = recommend(rows, 200)
    assert found.filled["steps"] == pytest.approx(20) and "about 20 steps" in to_text(found)


def test_steps_of_a_transfer_are_not_those_of_pre_training(study):
    rows = [dataclasses.replace(r, steps=50) if r.kind == "transfer" else r for r in study.rows]
    found = recommend(rows, 2e12, task="accuracy-finetune-v1")
    assert found.choice.offer.name == "fine-tune of simclr" and found.filled["transfer"]
    assert "steps" not in found.filled and "epochs" not in found.filled
    recommend(rows, 7e9, task="accuracy-finetune-v1")  # a step of a transfer is no least budget


def test_a_percentage_ends_at_100():
    rows = parse("method,flops,seed,score,unit\na,1e18,0,99,%\na,1e18,1,100,%\n")
    assert recommend(rows, 1e18).choice.interval.high == 100


def test_flips_that_are_close_are_all_there():
    """b and c begin within a hundredth of a step of the search; each takes over from the one before."""
    rows = parse("method,flops,score\na,1e18,1\nb,4.00e18,2\nc,4.01e18,3\n")
    found = recommend(rows, 4e18, noise=0.1).flips
    assert [(f.cheap, f.dear) for f in found] == [("a", "b"), ("b", "c")]
    assert found[0].flops == pytest.approx(4e18 / 1.05, rel=0.01) and found[0].flops < found[1].flops


def test_budgets():
    assert float(flops_of("3 EFLOP").amount) == 3e18 and flops_of("2h@1xH200").converted is not None
    for wrong, said in (("250000 steps", "steps of two methods"), ("0", "buys nothing"), ("lots", "is not a budget")):
        with pytest.raises(ConfigError, match=said):
            flops_of(wrong)


def test_a_budget_below_one_step(make_row):
    rows = [make_row("mae", 100, flops=100, steps=10), make_row("byol", 400, flops=400, steps=10)]
    with pytest.raises(ConfigError, match="9 FLOPs are below one step"):
        recommend(rows, 9)
    assert recommend(rows, 11).choice is None


def test_several_protocols_are_no_task(study):
    with pytest.raises(ConfigError, match="2 axes for one question"):
        recommend(study.rows, 1e12)
    with pytest.raises(ConfigError, match="2 axes for one question: 'shapes/test'"):
        recommend(study.rows, 1e12, task="shapes/test")
    with pytest.raises(ConfigError, match=r"no run was scored on 'ridge-frozen-v2'.*did you mean 'ridge-frozen-v1'"):
        recommend(study.rows, 1e12, task="ridge-frozen-v2")


def test_an_evaluator_comes_before_a_metric_of_its_name(make_row, make_score):
    tuned = make_row("tuned", 10, flops=10, scores=(make_score(70.0, protocol="p2", evaluator="accuracy"),))
    found = recommend([make_row("frozen", 10, flops=10), tuned], 10, task="accuracy")
    assert found.axis.protocol == "p2" and found.choice.offer.name == "tuned"


def test_seeds_that_look_like_lengths_are_refused():
    text = "method,flops,seed,score\na,1.00e18,0,1\na,1.01e18,1,2\n"
    with pytest.raises(DataError, match=r"line 2, line 3.*different seeds"):
        recommend(parse(text), 1e18)
    named = "method,flops,budget,seed,score\na,1.00e18,1e18,0,1\na,1.01e18,1e18,1,2\n"
    assert recommend(parse(named), 1e18).choice.offer.points[0].values == (1, 2)


def test_runs_that_cost_nothing_are_refused(make_row):
    with pytest.raises(DataError, match="mae: mae-10-0 cost no FLOPs"):
        recommend([make_row("mae", 10, flops=0), make_row("byol", 10, flops=10)], 10)


def test_what_a_run_is_worth_against_an_integral():
    """The expected best of a moved score and a rival that stays, less today's best."""
    place = np.linspace(-12, 12, 200_001)
    density = np.exp(-place * place / 2) / np.sqrt(2 * np.pi)
    for value, rival, moved in ((40.0, 41.0, 0.8), (41.0, 40.0, 0.8), (40.0, 40.0, 2.0)):
        scores = value + moved * place
        best = np.trapezoid(np.maximum(scores, rival) * density, place)
        other = (scores > rival) if value < rival else (scores < rival)
        gain, changes = _gain(value, rival, moved)
        assert gain == pytest.approx(best - max(value, rival), abs=1e-6)
        assert changes == pytest.approx(np.trapezoid(other * density, place), abs=1e-4)


def test_one_more_seed_of_two_by_hand():
    """Two seeds of two methods at one length: what a third moves, and the cheaper of two that tell as much."""
    text = "method,flops,seed,score\n" + "".join(
        f"{m},{x},{s},{y + s}\n" for m, x, y in (("first", "1.04e18", 41), ("rival", "1e18", 40.5)) for s in range(2)
    )
    found = recommend(parse(text), 1.04e18).next
    own = np.std([0, 1], ddof=1) / np.sqrt(2) * stats.t.ppf(0.95, 2) / stats.norm.ppf(0.95)
    moved = own**2 / np.hypot(own, np.std([0, 1], ddof=1))
    assert (found.name, found.seed, found.flops) == ("rival", True, 1e18)
    assert (found.gain, found.changes) == pytest.approx(_gain(40.5, 41, moved))


def test_one_point_a_method():
    found = recommend(parse("method,flops,score\na,1e18,40\nb,2e18,50\n"), 2e18)
    assert found.choice.offer.name == "b" and {c.offer.name: c.offer.open for c in found.candidates} == {
        "b": False,
        "a": True,
    }
    assert found.candidates[1].tied


def test_wrong_options(rows):
    for beyond in (0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="curves believed up to"):
            recommend(rows, 1e18, beyond=beyond)
    with pytest.raises(ConfigError, match="assumed noise"):
        recommend(rows, 1e18, noise=-1)
    with pytest.raises(DataError, match="no finished run with a score"):
        recommend([], 1e18)


def test_the_folder_of_a_study_answers(study, tmp_path, capsys):
    write(study, tmp_path)
    for source in (["--study", str(tmp_path)], ["--csv", str(tmp_path / "points.csv")]):
        assert main(["recommend", *source, "--task", "ridge-frozen-v1", "--budget", "2e12"]) == 0
        out = capsys.readouterr().out
        assert "Spend it on supervised" in out and "For no FLOPs of pre-training and transfer: random" in out
    assert main(["recommend", "--study", str(tmp_path), "--budget", "2e12"]) == 2
