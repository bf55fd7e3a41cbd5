"""The draw of boxes to train on: its counts, and that it is uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.sampling import sample, sample_masks

from spendflops.contracts.errors import ConfigError

JITTED = jax.jit(sample, static_argnames=("count", "positives"))


def labels(positive, negative, neither, seed=0):
    parts = [np.full(positive, 1), np.full(negative, 0), np.full(neither, -1)]
    return np.random.default_rng(seed).permutation(np.concatenate(parts)).astype(np.int8)


@pytest.mark.parametrize(
    "positive, negative, want",
    [(50, 200, (8, 24)), (3, 200, (3, 29)), (0, 200, (0, 32)), (50, 5, (8, 5)), (2, 0, (2, 0)), (0, 0, (0, 0))],
)
def test_counts(positive, negative, want):
    label = labels(positive, negative, 270 - positive - negative)
    drawn = JITTED(jnp.asarray(label), jax.random.key(0), count=32, positives=8)
    index, first, valid = map(np.asarray, drawn)
    assert (index.dtype, index.shape, first.shape, valid.shape) == (np.int32, (32,), (32,), (32,))
    taken, others = want
    # Positives, negatives, and what is left over.
    assert first.tolist() == [True] * taken + [False] * (32 - taken)
    assert valid.tolist() == [True] * (taken + others) + [False] * (32 - taken - others)
    assert (label[index[:taken]] == 1).all() and (label[index[taken : taken + others]] == 0).all()
    assert len(set(index[valid])) == taken + others and (index[~valid] == 0).all()


@pytest.mark.parametrize("count, most", [(10, 5), (10, 0), (10, 10), (7, 3)])
def test_the_quota(count, most):
    drawn = JITTED(jnp.asarray(labels(40, 40, 0)), jax.random.key(1), count=count, positives=most)
    assert int(drawn.positive.sum()) == most and bool(drawn.valid.all())


def test_fewer_boxes_than_slots():
    drawn = JITTED(jnp.asarray([0, 1, 0], jnp.int8), jax.random.key(0), count=8, positives=4)
    assert drawn.positive.tolist() == [True] + [False] * 7
    assert drawn.valid.tolist() == [True] * 3 + [False] * 5
    assert sorted(drawn.index[:3].tolist()) == [0, 1, 2]


def test_masks_are_the_same_draw():
    label, keys = np.stack([labels(30, 300, 50, s) for s in range(6)]), jax.random.split(jax.random.key(2), 6)
    label[4][label[4] == 0] = -1  # positives alone
    label[5] = -1
    options = {"count": 40, "positives": 20}
    drawn = jax.jit(jax.vmap(lambda x, k: sample(x, k, **options)))(label, keys)
    positive, negative = jax.jit(jax.vmap(lambda x, k: sample_masks(x, k, **options)))(label, keys)
    for row in range(6):
        index, first, valid = (np.asarray(one[row]) for one in drawn)
        assert np.flatnonzero(positive[row]).tolist() == sorted(index[valid & first])
        assert np.flatnonzero(negative[row]).tolist() == sorted(index[valid & ~first])
    assert positive.sum(axis=1).tolist() == [20, 20, 20, 20, 20, 0]
    assert negative.sum(axis=1).tolist() == [20, 20, 20, 20, 0, 0]


def test_each_box_is_as_likely_as_any_other_of_its_kind():
    label, draws = jnp.asarray(labels(12, 30, 8)), 4000
    keys = jax.random.split(jax.random.key(3), draws)
    positive, negative = jax.jit(jax.vmap(lambda k: sample_masks(label, k, count=16, positives=4)))(keys)
    for which, kind, chance in ((positive, 1, 4 / 12), (negative, 0, 12 / 30)):
        shares = np.asarray(which).mean(axis=0)
        assert (shares[np.asarray(label) != kind] == 0).all()
        # Five standard errors of a share.
        error = 5 * np.sqrt(chance * (1 - chance) / draws)
        np.testing.assert_allclose(shares[np.asarray(label) == kind], chance, atol=error)
        pairs = np.asarray(which, np.float64)[:, np.asarray(label) == kind]
        assert np.linalg.matrix_rank(pairs) == pairs.shape[1]  # no two boxes are always drawn together


def test_a_key_decides():
    label = jnp.asarray(labels(50, 50, 0))
    first, again, other = (
        JITTED(label, jax.random.key(seed), count=16, positives=8).index.tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_many_anchors_are_not_sorted():
    shapes = jax.ShapeDtypeStruct((4096,), jnp.int8), jax.eval_shape(lambda: jax.random.key(0))
    run = jax.jit(lambda x, k: sample_masks(x, k, count=256, positives=128))
    assert "sort(" not in run.lower(*shapes).compile().as_text()


def test_more_positives_than_boxes_are_refused():
    with pytest.raises(ConfigError, match="up to 3 positive boxes of 2"):
        sample(jnp.zeros(4, jnp.int8), jax.random.key(0), count=2, positives=3)
