"""Few labelled images a class: draws, agreement with normal equations that have the constant column, T12."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins import low_shot
from spendflops_plugins.low_shot import LowShot, draw_of_each_class

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts.ridge import fit_ridge

test_kit = spendflops.testing.evaluator_tests(LowShot, shots=2)
test_kit_fewer = spendflops.testing.evaluator_tests(
    LowShot, shots=40, splits=2, allow_fewer=True, regularisation="loo", resize="square_crop"
)


def blobs(count, seed, classes=4, width=6, noise=1.5):
    centres = np.random.default_rng(99).standard_normal((classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    return (centres[labels] + noise * rng.standard_normal((count, width))).astype(np.float32), labels.astype(np.int32)


def run(bank, query, batch_size=16, order=None, classes=4, **options):
    data = {
        role: ({"features": drive.features_of(x)}, {"label": y})
        for role, (x, y) in {"bank": bank, "query": query}.items()
    }
    return drive.score(LowShot(**options), data, about=drive.info(classes), batch_size=batch_size, order=order)


def slow(bank, query, penalty, constant):
    """Standardise by the labelled images, append the constant, solve: big_vision's probe, one class at a time."""
    x, y = np.asarray(bank[0], float), bank[1]
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    x, q = ((z - mean) / scale for z in (x, np.asarray(query[0], float)))
    x, q = (np.column_stack([z, np.full(len(z), constant)]) for z in (x, q))
    gram = x.T @ x + penalty * np.eye(x.shape[1])
    scores = [q @ np.linalg.solve(gram, x.T @ np.where(y == c, 1.0, -1.0)) for c in range(4)]
    return float((np.argmax(scores, axis=0) == query[1]).mean())


@pytest.mark.parametrize("shots, splits, penalty", [(1, 3, 1024.0), (5, 3, 1024.0), (5, 2, 1.0)])
def test_against_normal_equations(shots, splits, penalty):
    bank, query = blobs(80, 0), blobs(60, 1)
    result = run(bank, query, shots=shots, splits=splits, regularisation=penalty)
    draws = [draw_of_each_class(bank[1], shots, seed=0, index=i) for i in range(splits)]
    want = [slow((bank[0][d], bank[1][d]), query, penalty, 100.0) for d in draws]
    assert [result[f"accuracy/{i}"] for i in range(splits)] == want and len(set(want)) > 1
    assert result["accuracy"] == pytest.approx(np.mean(want)) and 0.3 < result["accuracy"] < 1
    assert result["accuracy_sd"] == pytest.approx(np.std(want, ddof=1))
    assert result["labelled"] == 4 * shots


def test_t12_is_what_the_probe_fits():
    # x = 0 (class 0), 2 (class 1): weights -+2 / 1026, no bias; at x = 2 the targets are predicted as -+.0019493.
    fit = fit_ridge(np.array([[0.0], [2.0]]), np.array([[1.0, -1], [-1, 1]]), penalty=1024.0, intercept="constant_100")
    np.testing.assert_allclose(fit(np.array([[2.0]])), [[-0.0019493, 0.0019493]], atol=5e-8)
    bank = (np.array([[0.0], [2.0]], np.float32), np.array([0, 1], np.int32))
    query = (np.array([[0.9], [1.1], [5.0]], np.float32), np.array([0, 1, 1], np.int32))
    assert run(bank, query, classes=2, shots=1)["accuracy"] == 1


def test_a_draw_has_k_of_each_class_and_smaller_ones_lie_in_larger_ones():
    labels = blobs(80, 0)[1]
    seen = set()
    for index in range(3):
        small, large = (draw_of_each_class(labels, k, seed=0, index=index) for k in (2, 7))
        assert (np.bincount(labels[small]) == 2).all() and (np.bincount(labels[large]) == 7).all()
        assert set(small) < set(large) and len(set(large)) == 28
        seen.add(tuple(large))
    seen.add(tuple(draw_of_each_class(labels, 7, seed=1, index=0)))
    assert len(seen) == 4


def test_draws_are_uniform_within_a_class():
    labels = np.array([0] * 3 + [1] * 7)
    counts = np.zeros(10)
    for seed in range(3000):
        counts[draw_of_each_class(labels, 1, seed=seed, index=0)] += 1
    expected = np.where(labels == 0, 1000, 3000 / 7)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_classes_with_too_few_images():
    bank, query = blobs(40, 0), blobs(20, 1)
    keep = (bank[1] != 2) | (np.cumsum(bank[1] == 2) <= 3)
    bank = bank[0][keep], bank[1][keep]
    with pytest.raises(DataError, match="1 of 4 classes have fewer than 5") as caught:
        run(bank, query, shots=5)
    assert "c2 (3)" in caught.value.why
    assert run(bank, query, shots=3)["labelled"] == 12
    result = run(bank, query, shots=5, allow_fewer=True, splits=2)
    assert result["labelled"] == 18
    for i in range(2):
        draw = draw_of_each_class(bank[1], 5, seed=0, index=i)
        assert result[f"accuracy/{i}"] == slow((bank[0][draw], bank[1][draw]), query, 1024.0, 100.0)
    # A class without any image is an error, too, unless it may be.
    none = bank[0][bank[1] != 2], bank[1][bank[1] != 2]
    with pytest.raises(DataError, match=r"1 of 4 classes"):
        run(none, query, shots=1)
    assert run(none, query, shots=1, allow_fewer=True)["labelled"] == 3


def test_nothing_is_fitted_before_the_counts_are_known(monkeypatch):
    monkeypatch.setattr(low_shot, "fit_ridge", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(DataError, match="4 of 4 classes"):
        run(blobs(16, 0), blobs(20, 1), shots=5)


def test_options_of_the_regression_reach_it(monkeypatch):
    given = []
    monkeypatch.setattr(low_shot, "fit_ridge", lambda *a, **kw: given.append(kw) or fit_ridge(*a, **kw))
    run(blobs(40, 0), blobs(20, 1), splits=1)
    run(blobs(40, 0), blobs(20, 1), splits=1, regularisation=3.0, intercept="free")
    assert given == [{"penalty": 1024.0, "intercept": "constant_100"}, {"penalty": 3.0, "intercept": "free"}]


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_batch_size_order_of_queries_and_blocks_change_nothing(batch_size, monkeypatch):
    bank, query = blobs(60, 0), blobs(40, 1)
    want = run(bank, query)
    monkeypatch.setattr(low_shot, "_QUERIES", 7)
    assert run(bank, query, batch_size=batch_size, order=np.random.default_rng(0).permutation(40)) == want


def test_one_draw_has_no_spread_and_more_shots_help():
    bank, query = blobs(400, 0), blobs(400, 1)
    assert LowShot(splits=1).spread == "" and LowShot().spread == "5 draws of the labelled images"
    assert "accuracy_sd" not in run(bank, query, splits=1)
    assert run(bank, query, shots=1)["accuracy"] < run(bank, query, shots=50)["accuracy"]
    loo = run(bank, query, shots=10, regularisation="loo", intercept="free")
    assert loo["accuracy"] > 0.5


def test_what_is_refused():
    bank, query = blobs(40, 0), blobs(20, 1)
    with pytest.raises(DataError, match="20 query"):
        run(bank, (query[0], query[1] - 5))
    with pytest.raises(DataError, match="label of the 3 classes"):
        run(bank, query, classes=3)
    with pytest.raises(DivergedError):
        run((bank[0] * np.inf, bank[1]), query)
    with pytest.raises(ConfigError, match="low_shot needs label"):
        LowShot().preprocess(role="bank", info=drive.info(features=("image",)), spec=drive.SPEC)
    for options in (
        {"shots": 0},
        {"splits": 0},
        {"seed": -1},
        {"feature": "tokens"},
        {"regularisation": "gcv"},
        {"regularisation": 0.0},
        {"intercept": "no"},
        {"resize": "center"},
    ):
        with pytest.raises(ConfigError):
            LowShot(**options)


def test_protocol_says_what_changes_the_score():
    default = LowShot().protocol
    assert default == "low_shot/1:summary:shots=5x5:seed=0:lambda=1024:intercept=constant_100:resize=squash"
    variants = [
        {"shots": 1},
        {"splits": 3},
        {"seed": 1},
        {"allow_fewer": True},
        {"feature": "class"},
        {"regularisation": "loo"},
        {"intercept": "free"},
        {"resize": "square_crop"},
        {"resize": "square_crop", "crop_fraction": 1.0},
    ]
    assert len({default, *(LowShot(**v).protocol for v in variants)}) == 10
