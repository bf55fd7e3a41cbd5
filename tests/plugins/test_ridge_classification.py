"""Ridge classification: agreement with plain solves, subsets, order, protocol."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.ridge_classification import RidgeClassification

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts.splits import label_subsets
from spendflops.testing.samples import KitData

test_kit = spendflops.testing.evaluator_tests(RidgeClassification, feature="class", resize="square_crop")


def blobs(count, seed, classes=3, width=5, noise=1.0):
    centres = np.random.default_rng(99).standard_normal((classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + noise * rng.standard_normal((count, width))).astype(np.float32), labels.astype(np.int32)


def role(x, y, tokens=None):
    return {"features": drive.features_of(x, tokens)}, {"label": y}


def run(bank, query, batch_size=16, order=None, **options):
    options = {"feature": "summary", **options}
    data = {"bank": role(*bank), "query": role(*query)}
    return drive.score(RidgeClassification(**options), data, about=drive.info(3), batch_size=batch_size, order=order)


def slow(bank, query, penalty):
    """Normal equations with an unpenalised intercept, one class against the others at a time."""
    x = np.asarray(bank[0], float)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-5
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    shrink = np.diag([penalty] * (x.shape[1] - 1) + [0])
    q = np.column_stack([(query[0] - mean) / scale, np.ones(len(query[0]))])
    scores = [q @ np.linalg.solve(x.T @ x + shrink, x.T @ np.where(bank[1] == c, 1.0, -1.0)) for c in range(3)]
    return float((np.argmax(scores, axis=0) == query[1]).mean())


def test_the_whole_bank_against_plain_solves():
    bank, query = blobs(60, 0), blobs(80, 1)
    for penalty in (0.1, 10.0, 1024.0):
        result = run(bank, query, regularisation=penalty)
        assert result == {"accuracy": slow(bank, query, penalty), "accuracy/0": result["accuracy"], "lambda/0": penalty}
    assert 0.4 < result["accuracy"] < 1


def test_subsets_are_draws_of_the_bank_and_the_spread_is_theirs():
    bank, query = blobs(90, 0), blobs(80, 1)
    result = run(bank, query, labels=30, subsets=3, regularisation=5.0)
    want = [slow((bank[0][d], bank[1][d]), query, 5.0) for d in label_subsets(90, labels=30, subsets=3)]
    assert [result[f"accuracy/{i}"] for i in range(3)] == want and len(set(want)) > 1
    assert result["accuracy"] == pytest.approx(np.mean(want))
    assert result["accuracy_sd"] == pytest.approx(np.std(want, ddof=1))
    assert RidgeClassification(labels=30).spread == "3 label subsets"
    assert run(bank, query, labels=30, seed=1) != run(bank, query, labels=30)
    assert run(bank, query, labels=1 / 3) == run(bank, query, labels=30)
    assert "labels=0.5x3" in RidgeClassification(labels=0.5).protocol


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_batch_size_and_order_change_nothing(batch_size):
    bank, query = blobs(50, 0), blobs(40, 1)
    want = run(bank, query, labels=20)
    order = np.random.default_rng(0).permutation(40)
    assert run(bank, query, labels=20, batch_size=batch_size, order=order) == want


def test_bounds_and_features():
    bank, query = blobs(60, 0, noise=0.01), blobs(50, 1, noise=0.01)
    assert run(bank, query)["accuracy"] == 1
    assert run(bank, (query[0], (query[1] + 1) % 3))["accuracy"] == 0
    # The summary says nothing here, the mean over tokens says all.
    zeros = np.zeros_like
    tokens = [x[:, None] + np.array([-1, 0, 1])[None, :, None] for x in (bank[0], query[0])]
    data = {"bank": role(zeros(bank[0]), bank[1], tokens[0]), "query": role(zeros(query[0]), query[1], tokens[1])}
    assert drive.score(RidgeClassification(), data, about=drive.info(3))["accuracy"] == 1
    assert drive.score(RidgeClassification(feature="summary"), data, about=drive.info(3))["accuracy"] < 0.6


def test_what_is_refused():
    bank, query = blobs(10, 0), blobs(5, 1)
    with pytest.raises(DataError, match="11 labelled"):
        run(bank, query, labels=11)
    kit = {"bank": (KitData(), "train"), "query": (KitData(), "test")}
    for fine in (None, 48, 0.99):
        drive.check(RidgeClassification(labels=fine), **kit)
    with pytest.raises(DataError, match="49 labelled"):
        drive.check(RidgeClassification(labels=49), **kit)
    with pytest.raises(DataError, match="labelled"):
        run(bank, (query[0], query[1] - 5))
    with pytest.raises(DivergedError):
        run((bank[0] * np.inf, bank[1]), query)
    for options in (
        {"feature": "tokens"},
        {"regularisation": "gcv"},
        {"regularisation": 0.0},
        {"intercept": "no"},
        {"labels": 1},
        {"labels": 1.0},
        {"labels": 30.5},
        {"subsets": 0},
        {"seed": -1},
        {"resize": "center"},
    ):
        with pytest.raises(ConfigError):
            RidgeClassification(**options)


def test_protocol_says_what_changes_the_score():
    default = RidgeClassification().protocol
    assert default == "ridge_classification/1:mean_tokens:labels=all:lambda=loo:intercept=free:resize=squash"
    variants = [
        {"labels": 512},
        {"labels": 512, "subsets": 5},
        {"labels": 512, "seed": 1},
        {"feature": "summary"},
        {"regularisation": 1024},
        {"intercept": "constant_100"},
        {"resize": "crop"},
        {"resize": "crop", "crop_fraction": 1.0},
    ]
    assert len({default, *(RidgeClassification(**v).protocol for v in variants)}) == 9
    assert "labels=512x3:seed=0" in RidgeClassification(labels=512).protocol
