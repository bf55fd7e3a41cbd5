"""The checks of an objective."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.contracts.objective import OUTPUTS
from spendflops.contracts.types import Loss
from spendflops.engine import data
from spendflops.engine.checkpoint import Checkpoints, abstract
from spendflops.engine.describe import describe
from spendflops.engine.state import create, flatten
from spendflops.testing import flops
from spendflops.testing.kit import CheckFailed, Skipped, needs
from spendflops.testing.model import Subject, context, has_option
from spendflops.testing.samples import differences, global_state, listed

RESERVED = ("loss", "lr", "grad_norm", "health")


def builds(s: Subject) -> None:
    """It is built on a small backbone without allocating anything, and keeps it as ``self.backbone``."""
    if getattr(s.definition.example, "backbone", None) is None:
        raise CheckFailed("self.backbone is not set", fix="assign the backbone in __init__")
    jax.eval_shape(lambda key: create(s.definition, s.optimizer(s.definition), key), jax.random.key(0))


def described(s: Subject) -> None:
    """A run can write down what it was made with."""
    describe([s.objective, s.views])


def no_random_state(s: Subject) -> None:
    """The module keeps no random state: results would depend on the history of calls."""
    kept = [p for p, x in flatten(s.definition.stats).items() if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    if kept:
        raise CheckFailed(f"the module keeps random keys: {listed(kept)}", fix="take keys from ctx.fork(name)")


def views(s: Subject) -> None:
    """The views give what ``inputs`` declares, from features that they declare."""
    missing = [f for f in s.views.features if f not in s.dataset.info.features]
    if missing:
        raise CheckFailed(f"the kit's samples have no {missing[0]!r}", fix="pass dataset=... with that feature")
    data.check_batch(s.batches[0], s.inputs(), s.cls.__name__)


@needs("views")
def views_pure(s: Subject) -> None:
    """The views are a pure function of the sample and ``rng``, and can be sent to another process."""
    sample, other = s.samples[0], pickle.loads(pickle.dumps(s.views))
    before, kept = global_state(), pickle.dumps(sample)
    first = s.views(sample, np.random.default_rng(0), s.spec)
    if global_state() != before:
        raise CheckFailed("the views draw from a global random generator", fix="draw from the argument `rng`")
    random.random(), np.random.random()
    if bad := differences(first, other(sample, np.random.default_rng(0), s.spec)):
        raise CheckFailed(f"the same sample and rng give another {listed(bad)}", fix="draw only from `rng`")
    if pickle.dumps(sample) != kept:
        raise CheckFailed("the views write into the sample", fix="copy an array before you change it in place")


class Recorder(Mapping):
    """A batch that remembers which of its entries were read."""

    def __init__(self, batch: Mapping[str, Any], read: set[str]):
        self._batch, self._read = batch, read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return self._batch[name]

    def __contains__(self, name: object) -> bool:
        return name in self._batch

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch)

    def __len__(self) -> int:
        return len(self._batch)


def _traced(s: Subject, batch: Mapping[str, Any], read: set[str]) -> tuple[Any, set[str], set[str]]:
    """The loss, and the statistics that ``targets`` and ``loss`` assign, of abstract values."""
    changed: list[set[str]] = []
    kinds: list[type] = []

    def trace(params: Any, stats: Any, batch: Any) -> Any:
        ctx, module, recorder = context(), s.definition.merge(params, stats), Recorder(batch, read)
        old = flatten(s.definition.stats_of(module))
        targets = module.targets(recorder, ctx)
        after = flatten(s.definition.stats_of(module))
        changed.append({p for p in after if after[p] is not old.get(p)})
        module = s.definition.merge(params, stats)
        old = flatten(s.definition.stats_of(module))
        loss = module.loss(recorder, targets, ctx)
        kinds.append(type(loss))
        after = flatten(s.definition.stats_of(module))
        changed.append({p for p in after if after[p] is not old.get(p)})
        return (loss.value, dict(loss.metrics)) if isinstance(loss, Loss) else None

    loss = jax.eval_shape(trace, s.definition.params, s.definition.stats, dict(batch))
    if loss is None:
        raise CheckFailed(f"loss() returns a {kinds[0].__name__}", fix="return Loss(value=..., metrics={...})")
    return loss, *changed


def inputs(s: Subject) -> None:
    """``inputs`` names exactly the entries of the batch that ``targets`` and ``loss`` read."""
    read: set[str] = set()
    structs = s.inputs()
    optional = {name.rstrip("?") for name in s.cls.inputs if name.endswith("?")}
    for batch in (structs, {n: x for n, x in structs.items() if n not in optional}):
        try:
            _traced(s, batch, read)
        except KeyError as error:
            name = error.args[0] if error.args else "?"
            if name in read and name not in batch:
                say = "is optional but read without asking" if name in optional else "is not declared in `inputs`"
                raise CheckFailed(f"{name!r} {say}", why=f"declared: {', '.join(s.cls.inputs)}") from error
            raise
    if unread := sorted(set(structs) - read):
        raise CheckFailed(
            f"{unread[0]!r} is declared in `inputs` and never read",
            why="the host would make and send it for nothing",
            fix="remove it from `inputs` and from the views",
        )


@needs("inputs")
def state_kept(s: Subject) -> None:
    """A step leaves the structure, the shapes and the dtypes of the state as they are."""
    old, new = (flatten(tree) for tree in (s.train.args[0], jax.eval_shape(s.train.fn, *s.train.args)[0]))
    for tree, other in ((old, new), (new, old)):
        if lost := sorted(set(tree) - set(other)):
            raise CheckFailed(f"{lost[0]} comes or goes with a step", fix="create every Stat in __init__")
    for path in old:
        if str(jax.tree.map(_shape, old[path])) != str(jax.tree.map(_shape, new[path])):
            raise CheckFailed(
                f"{path} is {_shape(old[path])} before a step and {_shape(new[path])} after",
                fix="cast to the old dtype before assigning a Stat",
            )


def _shape(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else str(x)


@needs("views", "state_kept")
def loss(s: Subject) -> None:
    """The loss is a finite float32 scalar, its metrics are finite scalars, in each of three steps."""
    (value, metrics), *_ = _traced(s, s.inputs(), set())
    if value.shape != () or value.dtype != jnp.float32:
        raise CheckFailed(f"the loss is {value.dtype}{list(value.shape)}", fix="a mean over everything, in float32")
    if bad := [n for n, x in metrics.items() if x.shape != () or n in RESERVED]:
        raise CheckFailed(f"the metric {bad[0]!r} is no scalar or has a name of the core ({', '.join(RESERVED)})")
    for number, (_, shown) in enumerate(s.trajectory):
        if bad := [n for n, x in shown.items() if not math.isfinite(x)]:
            raise CheckFailed(
                f"{listed(bad)} not finite in step {number}",
                why="often the gradient of a norm, a square root or a logarithm at zero",
                fix="bound its argument from below, before the operation",
            )


@needs("loss")
def repeats(s: Subject) -> None:
    """Traced again, the same step with the same key gives the same state, bit for bit; no global generator is used."""
    before = global_state()
    program = s.program()
    again, _ = s.step(s.initial, s.batches[0], program=program)
    if global_state() != before:
        raise CheckFailed("a global random generator is drawn from", fix="take keys from ctx.fork(name)")
    if bad := differences(s.trajectory[0][0], again):
        raise CheckFailed(
            f"other values of {listed(bad)}",
            why="something besides state, batch and key decides, perhaps a global that is read while tracing",
            fix="take randomness from ctx.fork(name) and keep state in a Stat",
        )


@needs("loss")
def randomness(s: Subject) -> None:
    """Another key gives another state if, and only if, the objective draws random numbers."""
    draws = bool(re.search(r"random_bits|threefry2x32|random_gamma", str(s.train._traced.jaxpr)))
    differs = bool(differences(s.trajectory[1][0], s.run(s.initial, range(2), key=1)[-1][0]))
    if draws and not differs:
        raise CheckFailed(
            "random numbers are drawn, but not from ctx.key",
            why="every step of every run would draw the same ones",
            fix="use ctx.fork(name) as their key",
        )
    if differs and not draws:
        raise CheckFailed("the state depends on the key, but no random number is drawn", fix="use jax.random")


@needs("loss")
def gradients(s: Subject) -> None:
    """Every trained parameter gets a gradient within three steps."""
    dead = [p for p, g in s.gradient(s.trajectory[-1][0]).items() if not np.any(g)]
    if dead:
        raise CheckFailed(
            f"no gradient reaches {listed(dead)}",
            why="the loss does not depend on them, or a stop_gradient is in the way",
            fix="remove them, or freeze them with Group(match=..., train=False)",
        )


@needs("loss")
def teacher(s: Subject) -> None:
    """The EMA copy is what ``targets`` sees, out of the gradient's reach; its decay is within 0 and 1 all the time."""
    if not s.cls.teacher:
        raise Skipped("no teacher")
    for step in (0, 50, 99):
        decay = np.asarray(s.definition.example.teacher_decay(_at(step)))
        if decay.shape != () or not 0 <= decay <= 1:
            raise CheckFailed(f"teacher_decay is {decay} at step {step} of 100", fix="a scalar in 0..1")
    state = s.trajectory[-1][0]

    @jax.jit
    def targets(ema: Any) -> Any:
        module = s.definition.merge({**state["params"], **ema}, state["stats"])
        return module.targets(dict(s.batches[0]), context())

    moved = jax.tree.map(lambda x: 1.5 * x + 0.1, state["ema"])
    given, other = targets(state["ema"]), targets(moved)
    if not jax.tree.leaves(given) or not differences(given, other):
        raise CheckFailed(
            "the targets do not depend on the EMA copy",
            why="then the copy is kept and updated for nothing, or the gradient flows through the targets in loss()",
            fix="compute them in targets(), with the submodules named in `teacher`",
        )


def _at(step: int) -> Any:
    return dataclasses.replace(context(), step=jnp.asarray(step))


@needs("loss")
def targets_state(s: Subject) -> None:
    """No ``Stat`` is assigned in ``targets`` alone: the core drops such changes."""
    _, in_targets, in_loss = _traced(s, s.inputs(), set())
    if lost := sorted(in_targets - in_loss):
        raise CheckFailed(f"{listed(lost)} only changes in targets()", fix="return the value and assign it in loss()")


@needs("loss")
def couples_batch(s: Subject) -> None:
    """Without ``couples_batch`` the loss is a mean over examples: exchanging two of them has two separate effects."""
    if s.definition.example.couples_batch:
        raise Skipped("couples_batch is declared")
    state, batches = s.trajectory[-1][0], []
    for chosen in ((), (0,), (1,), (0, 1)):
        batch = {name: x.copy() for name, x in s.batches[0].items()}
        for name, x in s.batches[3].items():
            batch[name][list(chosen)] = x[list(chosen)]
        batches.append(float(s.step(state, batch)[1]["loss"]))
    none, first, second, both = batches
    together = abs(both - first - second + none)
    if together > 2e-2 * (abs(first - none) + abs(second - none)) + 1e-5 * abs(none):
        raise CheckFailed(
            "the loss couples the examples of a batch, but couples_batch is False",
            why=f"exchanging two examples changes it by {both - none:.3g}, singly by {first + second - 2 * none:.3g}",
            fix="set couples_batch = True (contrast, batch norm, statistics over the batch)",
        )


@needs("loss")
def accumulates(s: Subject) -> None:
    """Without ``couples_batch`` every ``Stat`` moves by means over examples: two halves move it as their batch does."""
    if s.definition.example.couples_batch or not flatten(s.definition.stats):
        raise Skipped("couples_batch is declared, or there is no Stat")
    state, program = s.trajectory[0][0], s.program(accumulate=2)
    whole = s.step(state, s.batches[1])[0]
    halves, others = (s.step(state, s.batches[1], key=key, program=program)[0] for key in (0, 1))
    old, one, two, three = (flatten(tree["stats"]) for tree in (state, whole, halves, others))
    for path in one:
        moved, off, noise = (
            float(np.linalg.norm(np.subtract(a[path], b[path], dtype=np.float64)))
            for a, b in ((one, old), (one, two), (two, three))
        )
        # Halves draw other random numbers than their batch, as they do with another key.
        if off > 1e-3 * moved + 3 * noise:
            raise CheckFailed(
                f"{path} moves by {moved:.3g} with a batch, and ends {off:.3g} elsewhere with its two halves",
                why="the halves' values are averaged, which is right for running means alone",
                fix="set couples_batch = True (a queue, a variance, a counter of examples)",
            )


@needs("loss")
def learns(s: Subject) -> None:
    """Thirty steps of Adam on one batch lower the loss."""
    state, losses = s.initial, []
    for _ in range(30):
        state, metrics = s.step(state, s.batches[0])
        losses.append(float(metrics["loss"]))
    if not np.mean(losses[-5:]) < np.mean(losses[:3]):
        raise CheckFailed(
            f"the loss goes from {np.mean(losses[:3]):.4g} to {np.mean(losses[-5:]):.4g}",
            why="a sign, a stop_gradient in the wrong place, or targets that move with the model",
        )


@needs("loss")
def devices(s: Subject) -> None:
    """One device and several give the same loss and gradient (in a process of its own, when asked for)."""
    from spendflops.testing.devices import compare

    compare(s)


@needs("loss")
def bfloat16(s: Subject) -> None:
    """With bfloat16 operands the loss is within 5 % of float32's and the gradient is finite."""
    if not (has_option(s.backbone, "compute_dtype") or has_option(s.objective, "compute_dtype")):
        raise Skipped("neither the backbone nor the objective has compute_dtype")
    state = s.trajectory[-1][0]
    program = s.program(s.define(compute_dtype="bfloat16"))
    _, wide = s.step(state, s.batches[0])
    _, narrow = s.step(state, s.batches[0], program=program)
    a, b = float(wide["loss"]), float(narrow["loss"])
    if not (abs(a - b) <= 0.05 * max(abs(a), 0.1) and math.isfinite(narrow["grad_norm"])):
        raise CheckFailed(
            f"the loss is {a:.4g} in float32 and {b:.4g} in bfloat16 (gradient norm {float(narrow['grad_norm']):.3g})",
            fix="do sums, norms, softmaxes and the loss in float32; only products take bfloat16 operands",
        )


@needs("loss")
def resumes(s: Subject) -> None:
    """Saved after a step, restored and built anew, it goes on bit for bit."""
    state = s.trajectory[0][0]
    with tempfile.TemporaryDirectory() as folder:
        saved = Checkpoints(folder)
        saved.save(1, state)
        _, state = saved.restore(abstract(state))
        saved.close()
    state = s.run(state, range(1, 3), program=s.program(s.define()))[-1][0]
    if bad := differences(s.trajectory[-1][0], state):
        raise CheckFailed(
            f"after a restart there are other values of {listed(bad)}",
            why="some state is neither a parameter nor a Stat: an attribute, a class, a global",
            fix="keep it in a Stat, or derive it from ctx.step",
        )


@needs("loss")
def predict(s: Subject) -> None:
    """``predict`` gives every output that the class declares, finite, one row an image, the same for every key.

    Beside images it is given the inputs that are no images (tokens, labels) of the first examples.
    """
    if strange := sorted(set(s.cls.outputs) - set(OUTPUTS)):
        raise CheckFailed(f"unknown output {strange[0]!r}", why=f"the table is {', '.join(OUTPUTS)}")
    state, size = s.trajectory[-1][0], s.spec.size
    others = {n: x[:2] for n, x in s.batches[0].items() if n in s.cls.inputs and x.dtype != np.uint8}
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)

    @jax.jit
    def run(key: jax.Array) -> Any:
        module = s.definition.merge(state["params"], state["stats"])
        ctx = dataclasses.replace(context(train=False), key=key)
        return module.predict({**others, "image": images}, ctx, want=tuple(s.cls.outputs))

    given = run(jax.random.key(0))
    if missing := [name for name in s.cls.outputs if name not in given]:
        raise CheckFailed(f"predict() does not give {missing[0]!r}", why="the class declares it in `outputs`")
    for name in s.cls.outputs:
        for x in jax.tree.leaves(given[name]):
            if x.shape[:1] != (2,) or not np.all(np.isfinite(x)):
                raise CheckFailed(f"{name} of 2 images is {_shape(x)} or not finite", fix="one row an image")
    if bad := differences(given, run(jax.random.key(1))):
        raise CheckFailed(f"predictions depend on the key: {listed(bad)}", fix="draw only where ctx.train")


CHECKS = (
    builds, described, no_random_state, views, views_pure, inputs, state_kept, loss, repeats, randomness, gradients,
    teacher, targets_state, couples_batch, accumulates, learns, devices, bfloat16, resumes, *flops.CHECKS, predict,
)  # fmt: skip
