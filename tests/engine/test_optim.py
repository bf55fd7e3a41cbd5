"""Optimisers against independent numpy in float64, and the rules of groups: every parameter in exactly one."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enginelib import stage

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group
from spendflops.contracts.types import Context
from spendflops.engine import sharding
from spendflops.engine.build import build_stage
from spendflops.engine.optim import Clip, adamw, lars, sgd
from spendflops.engine.state import create, flatten

WEIGHTS = {
    "body": {"kernel": [[0.3, -0.2], [0.5, 0.1]], "bias": [0.01, -0.02]},
    "head": {"kernel": [[1.0], [-1.0]], "bias": [0.0]},
}
PATHS = ("body/bias", "body/kernel", "head/bias", "head/kernel")


class Official:
    """Stands for an objective: only its official groups are read."""

    groups = (Group(match=r".*/bias", decay=False),)


def ctx(step, steps=100):
    return Context(key=jax.random.key(0), step=jnp.asarray(step), steps=jnp.asarray(steps))


def params64():
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), WEIGHTS, is_leaf=lambda x: isinstance(x, list))


def gradients(step):
    rng = np.random.default_rng(step)
    return {p: jnp.asarray(rng.normal(size=np.shape(x))) for p, x in flatten(params64()).items()}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def run(optimizer, steps, objective=Official, given=gradients, first=0):
    """Parameters by path after each step."""
    params, history = params64(), []
    state = optimizer.init(params, objective)
    for step in range(first, first + steps):
        params, state, metrics = optimizer.update(given(step), state, params, objective=objective, ctx=ctx(step))
        history.append(({p: np.asarray(x) for p, x in flatten(params).items()}, metrics))
    return history


def close(found, expected):
    assert set(found) == set(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-10, atol=1e-14)


def start():
    return {p: np.asarray(x) for p, x in flatten(params64()).items()}


def norm(arrays):
    return math.sqrt(sum(float(np.sum(np.square(np.asarray(a)))) for a in arrays))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw(double, decay):
    lr, b1, b2, eps = 0.01, 0.9, 0.95, 1e-8
    found = run(adamw(lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=decay), 5)
    p, m, v = start(), dict.fromkeys(PATHS, 0.0), dict.fromkeys(PATHS, 0.0)
    lr32, decay32 = float(np.float32(lr)), float(np.float32(decay))  # schedules are float32
    for t in range(1, 6):
        g = {path: np.asarray(x) for path, x in gradients(t - 1).items()}
        for path in PATHS:
            m[path] = b1 * m[path] + (1 - b1) * g[path]
            v[path] = b2 * v[path] + (1 - b2) * g[path] ** 2
            direction = (m[path] / (1 - b1**t)) / (np.sqrt(v[path] / (1 - b2**t)) + eps)
            wd = decay32 if path.endswith("kernel") else 0.0
            p[path] = p[path] - lr32 * (direction + wd * p[path])
        close(found[t - 1][0], p)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_adds_its_decay_to_the_gradient(double, nesterov):
    lr, mu, decay = 0.125, 0.9, 0.0625  # exact in float32
    found = run(sgd(lr=lr, momentum=mu, nesterov=nesterov, weight_decay=decay), 4)
    p, buffer = start(), dict.fromkeys(PATHS, 0.0)
    for t in range(4):
        for path in PATHS:
            g = np.asarray(gradients(t)[path]) + (decay * p[path] if path.endswith("kernel") else 0)
            buffer[path] = mu * buffer[path] + g
            p[path] = p[path] - lr * (g + mu * buffer[path] if nesterov else buffer[path])
        close(found[t][0], p)


def test_sgd_without_momentum(double):
    found = run(sgd(lr=0.5, momentum=0.0), 1)[0][0]
    close(found, {p: x - 0.5 * np.asarray(gradients(0)[p]) for p, x in start().items()})


def test_t10_lars(double):
    params = {"kernel": jnp.asarray([3.0, 4.0]), "bias": jnp.asarray([3.0, 4.0])}
    grads = {name: jnp.asarray([0.6, 0.8]) for name in params}
    optimizer = lars(lr=6.4, trust=0.001, groups=(Group(match="bias", decay=False),))
    new, _, _ = optimizer.update(grads, optimizer.init(params, Official), params, objective=Official, ctx=ctx(0))
    np.testing.assert_allclose(new["kernel"], [2.9808, 3.9744], rtol=1e-7)
    np.testing.assert_allclose(new["bias"], np.array([3, 4]) - 6.4 * np.array([0.6, 0.8]), rtol=1e-7)


@pytest.mark.parametrize("inside", [True, False], ids=["simclr", "byol"])
def test_lars_takes_its_momentum_after_or_before_the_learning_rate(double, inside):
    lr, mu, trust, decay = 0.5, 0.9, 0.125, 0.25
    schedule = functools.partial(lambda c: jnp.where(c.step == 0, lr, lr / 2))
    found = run(lars(lr=schedule, momentum=mu, trust=trust, weight_decay=decay, lr_in_momentum=inside), 3)
    p, buffer = start(), dict.fromkeys(PATHS, 0.0)
    for t in range(3):
        rate = lr if t == 0 else lr / 2
        for path in PATHS:
            g = np.asarray(gradients(t)[path])
            if path.endswith("kernel"):
                g = g + decay * p[path]
                g = g * trust * norm([p[path]]) / norm([g])
            buffer[path] = mu * buffer[path] + (rate if inside else 1.0) * g
            p[path] = p[path] - (1.0 if inside else rate) * buffer[path]
        close(found[t][0], p)


def test_lars_leaves_a_tensor_of_zeros_unscaled(double):
    params = {"kernel": jnp.zeros(2)}
    optimizer = lars(lr=1.0, groups=())
    new, _, _ = optimizer.update(
        {"kernel": jnp.ones(2)}, optimizer.init(params, Official), params, objective=Official, ctx=ctx(0)
    )
    np.testing.assert_allclose(new["kernel"], [-1.0, -1.0])


def test_clipping_to_a_norm_of_all_or_of_each(double):
    g = {p: np.asarray(x) for p, x in gradients(3).items()}
    whole = norm(g.values())
    assert whole > 1
    everything = Clip(norm=1.0)(gradients(3))
    close({p: np.asarray(x) for p, x in everything.items()}, {p: x / whole for p, x in g.items()})
    each = Clip(norm=1.0, per="tensor")(gradients(3))
    close({p: np.asarray(x) for p, x in each.items()}, {p: x / max(1.0, norm([x])) for p, x in g.items()})
    unchanged = Clip(norm=1e6)(gradients(3))
    close({p: np.asarray(x) for p, x in unchanged.items()}, g)
    with pytest.raises(ConfigError, match="'global' or 'tensor'"):
        Clip(norm=1.0, per="layer")


def test_the_norm_that_is_shown_is_that_before_clipping(double):
    _, metrics = run(sgd(lr=1.0, momentum=0.0, clip=Clip(norm=0.001)), 1)[0]
    assert float(metrics["grad_norm"]) == pytest.approx(norm(gradients(0).values()))


@pytest.mark.parametrize("start_step", [0, 2000])
def test_a_group_that_starts_late_takes_its_first_step_at_the_learning_rate(double, start_step):
    groups = (Group(match="head/.*", start=start_step),)
    optimizer = adamw(lr=0.5, groups=groups)
    constant = {p: jnp.ones_like(x) for p, x in flatten(params64()).items()}
    # As DINO cancels it: no gradient for the frozen group, whose count must not run on meanwhile.
    cancelled = {p: g * (not p.startswith("head")) for p, g in constant.items()}
    params, state = params64(), None
    state = optimizer.init(params, Official)
    for step in (0, 1, 1999):  # three frozen steps are enough to spoil a shared count
        if step < start_step:
            params, state, _ = optimizer.update(cancelled, state, params, objective=Official, ctx=ctx(step))
            assert np.array_equal(params["head"]["kernel"], params64()["head"]["kernel"])
            assert not np.array_equal(params["body"]["kernel"], params64()["body"]["kernel"])
    before = np.asarray(params["head"]["kernel"])
    params, state, _ = optimizer.update(constant, state, params, objective=Official, ctx=ctx(start_step))
    # With one Adam state for all it would be 2.9 times the learning rate, and 6.1 times twelve steps later.
    np.testing.assert_allclose(before - np.asarray(params["head"]["kernel"]), 0.5, rtol=1e-6)
    for step in range(start_step + 1, start_step + 13):
        before = np.asarray(params["head"]["kernel"])
        params, state, _ = optimizer.update(constant, state, params, objective=Official, ctx=ctx(step))
        np.testing.assert_allclose(before - np.asarray(params["head"]["kernel"]), 0.5, rtol=1e-6)


def test_a_group_that_has_not_started_does_not_decay(double):
    optimizer = adamw(lr=0.5, weight_decay=0.5, groups=(Group(match="head/.*", start=5),))
    close({"head/kernel": run(optimizer, 3)[-1][0]["head/kernel"]}, {"head/kernel": start()["head/kernel"]})


@pytest.mark.parametrize(
    "options, first",
    [
        ({"start_fraction": 0.05}, 5),
        ({"start": 3, "start_fraction": 0.05}, 3),
        ({"start": 9, "start_fraction": 0.05}, 5),
    ],
)
def test_a_group_may_start_at_a_part_of_the_stage_and_with_both_the_earlier_one_counts(double, options, first):
    optimizer = sgd(lr=1.0, momentum=0.0, groups=(Group(match="head/.*", **options),))
    found = [start(), *(p for p, _ in run(optimizer, 8))]
    moved = [not np.array_equal(a["head/kernel"], b["head/kernel"]) for a, b in itertools.pairwise(found)]
    assert moved == [step >= first for step in range(8)]
    assert "5.00% of the stage" in optimizer.table(params64(), Official)[0][3]


def test_the_first_group_that_matches_wins_and_every_parameter_has_one(double):
    groups = (Group(match="head/kernel", lr=0.0), Group(match="head/.*", lr=2.0))
    table = adamw(lr=1.0, groups=groups).assign(params64(), Official)
    assert [(g.match, paths) for g, paths in table] == [
        ("head/kernel", ["head/kernel"]),
        ("head/.*", ["head/bias"]),
        (".*", ["body/bias", "body/kernel"]),
    ]
    shown = adamw(lr=1.0, groups=(Group(match="head/.*", train=False), Group(match=".*s", start=7, lr=0.5))).table(
        params64(), Official
    )
    assert shown == [
        ("head/.*", 2, 3, "frozen: closed over, no backward work"),
        (".*s", 1, 2, "lr x0.5, decay, from step 7"),
        (".*", 1, 4, "lr x1, decay"),
    ]


def test_the_factor_of_a_group(double):
    found = run(sgd(lr=0.5, momentum=0.0, groups=(Group(match="head/.*", lr=0.25),)), 1)[0][0]
    g = {p: np.asarray(x) for p, x in gradients(0).items()}
    close(found, {p: x - 0.5 * (0.25 if p.startswith("head") else 1) * g[p] for p, x in start().items()})


def test_a_group_of_the_users_that_matches_nothing_is_an_error_and_one_of_the_method_is_not():
    with pytest.raises(ConfigError, match=r"the optimiser group 'haed/\.\*' matches no parameter"):
        adamw(lr=1.0, groups=(Group(match="haed/.*"),)).assign(params64(), Official)

    class Other:
        groups = (Group(match="nothing"),)

    assert [g.match for g, _ in adamw(lr=1.0).assign(params64(), Other)] == [".*"]


def test_frozen_parameters_are_not_differentiated_and_not_billed():
    frozen = (Group(match="backbone/.*", train=False),)
    probe = build_stage(stage("supervised", optimizer=adamw(lr=1e-3, groups=frozen))).train
    full = build_stage(stage("supervised")).train
    assert probe.cost().phases["forward"] == full.cost().phases["forward"]
    # Backward of a probe: the head's weights alone, 2 x batch x width x classes.
    assert probe.cost().phases["backward"] == 2 * 8 * 16 * 4
    assert full.cost().phases["backward"] > full.cost().phases["forward"]
    assert probe.cost(hardware=True).total == probe.cost().total


def test_frozen_parameters_keep_their_values_and_have_no_state():
    frozen = (Group(match="backbone/.*", train=False),)
    optimizer = adamw(lr=1e-3, groups=frozen)
    built = build_stage(stage("supervised", optimizer=optimizer))
    state = create(built.definition, optimizer, jax.random.key(0))
    assert {p for s in state["opt"]["groups"].values() for p in s.mu} == {"head/bias", "head/kernel"}
    batch = {"image": jnp.ones((8, 16, 16, 3), jnp.uint8), "labels": jnp.zeros((8, 1), jnp.int32)}
    before = jax.device_get(flatten(state["params"]))
    call = {"key": jax.random.key(1), "steps": np.int32(9)}
    new, _ = built.train.compile()(*sharding.place((state, batch, call), built.train.args))
    after = flatten(new["params"])
    changed = {p for p in before if not np.array_equal(before[p], after[p])}
    assert changed == {"head/bias", "head/kernel"}


def test_the_official_groups_of_a_method_are_used():
    built = build_stage(stage("mae"))
    table = adamw(lr=1.0).assign(built.definition.params, built.definition.example)
    assert [g.decay for g, _ in table] == [False, True]
    assert all(p.endswith(("bias", "scale")) for p in table[0][1])
