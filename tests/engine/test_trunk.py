"""Trunks: a longer run that goes on from a shorter one is the run that it would have been alone, to the last bit."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
from enginelib import knn, outcome, recipe, rows, stage, wasted
from spendflops_plugins.byol import BYOL
from spendflops_plugins.dino import DINO

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.objective import Group
from spendflops.engine import trunk
from spendflops.engine.build import build_stage
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import adamw
from spendflops.parts.schedules import Constant, Cosine, WarmupCosine, WarmupStableDecay

WSD = WarmupStableDecay(peak=1e-3, warmup_steps=3, cooldown_fraction=0.25)
BYOL_TINY = functools.partial(BYOL, hidden_dim=8, output_dim=4, head_norm="ln")
DINO_TINY = functools.partial(DINO, out_dim=8, hidden=8, bottleneck=4)


def wsd(method="mae", **changes):
    """A stage whose learning rate has a trunk."""
    options = {"weight_decay": changes.pop("weight_decay", 0.1), "groups": changes.pop("groups", None)}
    return stage(method, optimizer=adamw(lr=WSD, **options), **changes)


def with_teacher():
    """BYOL whose target moves at one pace."""
    return stage(objective=functools.partial(BYOL_TINY, ema_end=0.996), name="byol", optimizer=adamw(lr=WSD))


def ran(folder, steps, *stages, **options):
    changes = {"evaluations": (knn(),), "checkpoint_every": 5, "log_every": 5}
    shorter = options.pop("shorter", None)
    wanted = recipe(*(stages or (wsd(),)), budget=f"{steps} steps", **{**changes, **options})
    return run_recipe(wanted, folder, quiet=True, shorter=shorter)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A short run, a long one that goes on from it, and the same alone."""
    folder = tmp_path_factory.mktemp("family")
    ran(folder / "short", 12)
    ran(folder / "alone", 24)
    ran(folder / "long", 24, shorter="../short")
    return folder


def same(left, right):
    """Whether two runs reproduce each other: state, scores, the sums of their ledgers."""
    a, b = outcome(left), outcome(right)
    assert a["state"] == b["state"] and a["step"] == b["step"] and a["scores"] == b["scores"]
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    for name in ("pretrain", "evaluate"):
        assert results[0]["flops"][name] == results[1]["flops"][name]
    assert results[0]["phases"] == results[1]["phases"]
    assert results[0]["hardware_flops"] == results[1]["hardware_flops"]


def test_a_branch_is_the_run_that_it_would_have_been_alone(family):
    same(family / "long", family / "alone")
    # The steps that both logged have the same losses and learning rates.
    alone = [r for r in outcome(family / "alone")["metrics"] if r["step"] > 9]
    assert outcome(family / "long")["metrics"] == alone and alone


def test_the_trunk_is_charged_once(family):
    per_step = rows(family / "short" / "ledger.jsonl")[0]["flops"]
    train = [r for r in rows(family / "long" / "ledger.jsonl") if r["program"] == "mae/train"]
    assert [(r["first"], r["last"], r["cached"]) for r in train] == [
        (0, 9, 9),
        *((first, last, 0) for first, last in ((9, 10), (10, 15), (15, 18), (18, 20), (20, 24))),
    ]
    assert train[0]["note"] == "trained by short" and train[0]["seconds"] > 0
    result = json.loads((family / "long" / "result.json").read_text())
    assert result["flops"]["pretrain"] == 24 * per_step and result["flops"]["trunk"] == 9 * per_step
    assert result["flops"]["cached"] == 0
    assert 0 < result["seconds"]["trunk"] < result["seconds"]["pretrain"]


def test_a_third_length_goes_on_from_the_second(family):
    ran(family / "longest", 32, shorter="../long")
    ran(family / "longest-alone", 32)
    same(family / "longest", family / "longest-alone")
    # Its trunk begins in the first run: all of it is paid there and in the second.
    first = rows(family / "longest" / "ledger.jsonl")[0]
    assert (first["last"], first["cached"]) == (18, 18)


def test_a_teacher_goes_along(tmp_path):
    ran(tmp_path / "short", 8, with_teacher())
    ran(tmp_path / "alone", 12, with_teacher())
    ran(tmp_path / "long", 12, with_teacher(), shorter="../short")
    a, b = (outcome(tmp_path / name, "byol") for name in ("alone", "long"))
    assert a["state"] == b["state"] and a["scores"] == b["scores"]
    assert any(path.startswith("ema/") for path in a["state"])


@pytest.mark.parametrize(("lost", "kept"), [((24,), 20), ((20, 24), 18), ((18, 20, 24), 9)])
def test_a_branch_that_is_killed_goes_on_bit_for_bit(family, tmp_path, lost, kept):
    shutil.copytree(family / "short", tmp_path / "short")
    shutil.copytree(family / "long", tmp_path / "long")
    (tmp_path / "long" / "result.json").unlink()
    for step in lost:
        shutil.rmtree(tmp_path / "long" / "checkpoints" / "mae" / str(step))
    ran(tmp_path / "long", 24, shorter="../short")
    same(tmp_path / "long", family / "alone")
    assert outcome(tmp_path / "long")["ledger"] == outcome(family / "long")["ledger"]
    # And once more the evaluation, whose scores were lost.
    assert wasted(tmp_path / "long")[0] == (kept, 24)


def test_a_run_keeps_the_end_of_its_trunk(family):
    kept = {}
    for name in ("short", "alone"):
        checkpoints = Checkpoints(family / name / "checkpoints" / "mae")
        kept[name] = checkpoints.steps()
        checkpoints.close()
    assert kept == {"short": [9, 10, 12], "alone": [18, 20, 24]}


def test_a_row_ends_where_the_trunk_does_after_any_kill(family, tmp_path):
    shutil.copytree(family / "alone", tmp_path / "alone")
    (tmp_path / "alone" / "result.json").unlink()
    for step in (20, 24):
        shutil.rmtree(tmp_path / "alone" / "checkpoints" / "mae" / str(step))
    # Killed between the checkpoint at the end of the trunk and its row.
    ledger = tmp_path / "alone" / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows(ledger)[:3]))
    assert [row["last"] for row in rows(ledger)] == [5, 10, 15]
    ran(tmp_path / "alone", 24)
    assert outcome(tmp_path / "alone")["ledger"] == outcome(family / "alone")["ledger"]


def test_what_is_no_trunk_is_refused(family, tmp_path):
    with pytest.raises(ConfigError, match=r"no trunk of this run\n  why: its first stage or its seed"):
        ran(tmp_path / "seed", 24, shorter=str(family / "short"), seed=1)
    with pytest.raises(ConfigError, match=r"no trunk of this run\n  why: its first stage or its seed"):
        ran(tmp_path / "decay", 24, wsd(weight_decay=0.2), shorter=str(family / "short"))
    with pytest.raises(ConfigError, match="is left after 18 steps, this run cools down after 9"):
        ran(tmp_path / "longer", 12, shorter=str(family / "alone"))
    with pytest.raises(DataError, match="not a finished run"):
        ran(tmp_path / "nowhere", 24, shorter=str(family / "nowhere"))
    with pytest.raises(ConfigError, match=r"has no trunk\n  why: its learning rate depends on the length"):
        ran(tmp_path / "cosine", 24, stage(optimizer=adamw(lr=1e-3)), shorter=str(family / "short"))


def test_two_stages_have_no_trunk():
    two = recipe(wsd(name="a", share=0.5), wsd(name="b", share=0.5))
    with pytest.raises(ConfigError, match="stages a, b have no trunk"):
        trunk.check_stages(two)
    after = wsd(name="b", role="transfer", length="2 steps")
    assert trunk.check_stages(recipe(wsd(name="a"), after)).label == "a"


def check(given, *lengths):
    trunk.check_lengths(given, build_stage(given), lengths or (12, 24))


WRONG = {
    "weight decay": (lambda: wsd(weight_decay=Cosine(start=0.04, end=0.4)), "why: .* the weight decay"),
    "BYOL's target": (
        lambda: wsd(objective=BYOL_TINY, name="byol"),
        r"why: .* the decay of the teacher's moving average \(teacher_decay\)",
    ),
    "DINO's temperature": (
        lambda: wsd(
            objective=functools.partial(
                DINO_TINY, teacher_decay_end=0.996, teacher_temp=0.07, teacher_temp_warmup_fraction=0.3
            ),
            name="dino",
        ),
        "why: .* its loss or its targets, which read how long the run is",
    ),
    "a late start": (
        lambda: wsd(groups=(Group(match="decoder/.*", start_fraction=0.5),)),
        "why: .* the start of the parameters 'decoder/",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_depends_on_the_length_is_named(case):
    given, told = WRONG[case]
    with pytest.raises(ConfigError, match=rf"cannot share a trunk\n  {told}"):
        check(given())
    check(given(), 12)  # alone it may


def test_what_is_constant_or_counted_in_steps_may_share_a_trunk():
    check(wsd(weight_decay=Cosine(start=0.1, end=0.1)))
    check(with_teacher())
    still = functools.partial(
        DINO_TINY, teacher_decay_end=0.996, teacher_temp=0.07, teacher_temp_warmup_steps=4, freeze_last_layer_steps=2
    )
    check(wsd(objective=still, name="dino"))
    check(wsd(groups=(Group(match="decoder/.*", start=5),)))
    assert trunk.leaves(stage(optimizer=adamw(lr=Constant(value=1e-3))), 12) is None
    assert trunk.leaves(stage(optimizer=adamw(lr=WarmupCosine(peak=1.0, warmup_fraction=0.1))), 12) is None
