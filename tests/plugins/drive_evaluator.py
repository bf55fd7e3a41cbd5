"""Runs an evaluator on arrays as the core does: compiled steps, a padded last batch, metrics summed, rows streamed."""

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.contracts.types import Context, DatasetInfo, Features, InputSpec
from spendflops.engine.build import open_source

SPEC = InputSpec(size=(8, 8), stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)


def info(classes=0, mask_classes=0, features=("image", "label", "mask")):
    return DatasetInfo(
        name="toy",
        features={name: "" for name in features},
        classes=tuple(f"c{i}" for i in range(classes)),
        mask_classes=tuple(f"m{i}" for i in range(mask_classes)),
    )


def features_of(summary, tokens=None, grid=None):
    """``Features`` of arrays."""
    summary = jnp.asarray(summary, jnp.float32)
    tokens = summary[:, None] if tokens is None else jnp.asarray(tokens, jnp.float32)
    return Features(tokens=tokens, prefix=jnp.zeros((len(summary), 0, tokens.shape[-1])), summary=summary, grid=grid)


def run_role(evaluator, predictions, batch, batch_size, order=None):
    """(merged metrics, rows) of one role. Padding repeats example 0, which must not count."""
    count = len(jax.tree.leaves(batch)[0])
    order = np.arange(count) if order is None else order
    context = Context(key=jax.random.key(0), step=jnp.int32(0), steps=jnp.int32(1), train=False)
    step = jax.jit(evaluator.step)
    merged, rows = {}, {}
    for start in range(0, count, batch_size):
        real = order[start : start + batch_size]
        index = np.concatenate([real, np.zeros(batch_size - len(real), int)])
        take = lambda x, index=index: np.asarray(x)[index]  # noqa: E731
        inputs = {**jax.tree.map(take, dict(batch)), "_mask": jnp.arange(batch_size) < len(real)}
        out = step(jax.tree.map(take, predictions), inputs, context)
        for name, value in out["metrics"].items():
            merged[name] = merged.get(name, 0) + np.asarray(value, np.int64)
        for name, value in out["rows"].items():
            rows.setdefault(name, []).append(np.asarray(value)[: len(real)])
    return merged, {name: np.concatenate(parts) for name, parts in rows.items()}


def score(evaluator, data, *, about, batch_size=4, order=None):
    """The result for ``{role: (predictions, batch)}``; ``order`` permutes the examples of the last role."""
    merged, rows = {}, {}
    for role, (predictions, batch) in data.items():
        last = role == evaluator.roles[-1]
        merged[role], rows[role] = run_role(evaluator, predictions, batch, batch_size, order if last else None)
    assert tuple(data) == evaluator.roles
    result = evaluator.result(merged, rows, info=about)
    assert evaluator.primary in result
    assert (evaluator.primary + "_sd" in result) == bool(evaluator.spread)
    assert all(isinstance(value, (int, float)) for value in result.values())
    return result


def check(evaluator, **data):
    """Asks an evaluator about its data, a (data set, split) by role, as the core does before anything is trained."""
    evaluator.check(data, lambda role, features: open_source(*data[role], features))
