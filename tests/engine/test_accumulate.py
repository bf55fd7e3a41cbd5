"""A batch in micro-batches: the step of the whole batch at the price of the whole batch, or an error."""

from __future__ import annotations

import dataclasses
import functools

import enginelib
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enginelib import VIT, recipe, rows, stage
from spendflops_plugins.dino import DINO
from spendflops_plugins.linear_probe import LinearProbe
from spendflops_plugins.resnet import ResNet

from spendflops.contracts import errors
from spendflops.engine.build import build_stage
from spendflops.engine.loop import MODEL, run_recipe
from spendflops.engine.optim import sgd
from spendflops.engine.state import create, flatten
from spendflops.engine.step import _mean, micro_batches, train_step
from spendflops.testing.model import Subject, context

DINO_OPTIONS = {"out_dim": 32, "hidden": 16, "bottleneck": 8}


def wide(tree):
    """In float64, as numpy arrays."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), tree)


def steps(cls, options):
    """(state of two steps of whole batches, of the same in four micro-batches, metrics of both), in float64."""
    subject = Subject(cls, options=options, batch_size=16)
    optimizer = sgd(lr=0.1, momentum=0.5)
    start = create(subject.definition, optimizer, jax.random.key(0))
    call = {"key": jax.random.key(1), "steps": np.int32(100)}
    found = []
    with jax.enable_x64(True):
        for parts in (1, 4):
            state, step = wide(start), jax.jit(train_step(subject.definition, optimizer, accumulate=parts))
            for batch in subject.batches[:2]:
                state, metrics = step(state, batch, call)
            found.append((flatten({kind: jax.device_get(state[kind]) for kind in MODEL}), metrics))
    return found


@pytest.mark.parametrize(
    ("cls", "options"), [(enginelib.METHODS["supervised"].func, {}), (DINO, DINO_OPTIONS)], ids=["supervised", "dino"]
)
def test_micro_batches_take_the_step_of_the_batch(cls, options):
    (one, shown), (four, parts) = steps(cls, options)
    assert set(one) == set(four) and any(p.startswith("stats/") for p in one) == (cls is DINO)
    for path in one:
        assert np.linalg.norm(one[path] - four[path]) <= 1e-12 * max(1.0, np.linalg.norm(one[path])), path
    assert float(shown["loss"]) == pytest.approx(float(parts["loss"]), rel=1e-6)
    assert float(shown["grad_norm"]) == pytest.approx(float(parts["grad_norm"]), rel=1e-6)


def test_micro_batches_are_every_nth_example():
    batch = {"image": jnp.arange(24).reshape(12, 2), "label": jnp.arange(12)}
    made = micro_batches(batch, 3)
    assert made["image"].shape == (3, 4, 2)
    for number in range(3):
        assert np.array_equal(made["label"][number], np.arange(12)[number::3])
        assert np.array_equal(made["image"][number], batch["image"][number::3])


def test_means_are_over_parts_and_whole_numbers_are_the_last():
    numbers = jnp.asarray([1.0, 2.0, 6.0])
    found = _mean(lambda n, x: {"mean": x, "last": n + 7}, numbers, 3)
    assert float(found["mean"]) == 3.0 and int(found["last"]) == 9 and found["last"].dtype == jnp.int32


@pytest.mark.parametrize("method", ["supervised", "mae"])
def test_the_price_is_that_of_the_batch(method):
    one, four = (build_stage(stage(method, accumulate=parts)).train for parts in (1, 4))
    assert one is not four and one.digest != four.digest
    assert one.cost().total == four.cost().total and dict(one.cost().phases) == dict(four.cost().phases)
    # What the compiler made counts the loop as often as it runs.
    assert four.cost(hardware=True).total == four.cost().total
    assert four.closed_form == one.closed_form == four.cost().total


def test_parts_draw_random_numbers_of_their_own():
    """Of two equal images each is masked in its own way, with the key of its part."""
    subject = Subject(enginelib.METHODS["mae"].func, options=enginelib.METHODS["mae"].keywords, batch_size=2)
    optimizer, key = sgd(lr=0.1), jax.random.key(1)
    state = create(subject.definition, optimizer, jax.random.key(0))
    half = {name: x[:1] for name, x in subject.batches[0].items()}

    @jax.jit
    def alone(number):
        own = jax.random.fold_in(jax.random.fold_in(key, 0), number)
        ctx = dataclasses.replace(context(), key=own)
        return subject.definition.merge(state["params"], state["stats"]).loss(half, None, ctx).value

    batch = {name: np.repeat(x, 2, axis=0) for name, x in half.items()}
    step = jax.jit(train_step(subject.definition, optimizer, accumulate=2))
    both = step(state, batch, {"key": key, "steps": np.int32(100)})[1]["loss"]
    losses = [float(alone(n)) for n in (0, 1)]
    assert float(both) == pytest.approx(np.mean(losses), rel=1e-5) and abs(losses[0] - losses[1]) > 1e-3


def test_a_run_accumulates_and_says_so_in_its_description(tmp_path):
    one, four = (recipe(stage("supervised", accumulate=n), budget="3 steps", log_every=1) for n in (1, 4))
    run_recipe(one, tmp_path / "one", quiet=True)
    run_recipe(four, tmp_path / "four", quiet=True)
    a, b = ([r["loss"] for r in rows(tmp_path / n / "metrics.jsonl")] for n in ("one", "four"))
    assert a == pytest.approx(b, rel=1e-5) and len(a) == 3
    with pytest.raises(errors.ConfigError, match="another configuration"):
        run_recipe(one, tmp_path / "four", quiet=True)


RESNET = functools.partial(ResNet, image_size=32, depths=(1, 1, 1, 1), width=0.25)


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"method": "simclr"}, "SimCLR"),
        ({"method": "supervised", "backbone": RESNET}, "ResNet"),
        ({"objective": LinearProbe}, "LinearProbe"),
    ],
    ids=["negatives", "backbone", "norm"],
)
def test_what_couples_a_batch_is_refused_with_the_reason(changes, who):
    with pytest.raises(errors.ConfigError, match="micro-batches") as error:
        build_stage(stage(accumulate=2, **changes))
    assert f"in {who} the examples of a batch meet" in error.value.why


def test_a_frozen_backbone_meets_nobody():
    probe = functools.partial(LinearProbe, norm="none")
    assert build_stage(stage(objective=probe, backbone=RESNET, views=LinearProbe.views(), accumulate=2)).train


@pytest.mark.parametrize(("size", "parts"), [(8, 3), (8, 0), (4, 8)])
def test_parts_must_divide_the_batch(size, parts):
    with pytest.raises(errors.ConfigError, match=r"accumulate|micro-batches"):
        build_stage(stage(backbone=VIT, batch_size=size, accumulate=parts))
