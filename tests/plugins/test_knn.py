"""Weighted nearest neighbours against a loop; T11."""

import math

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins import knn
from spendflops_plugins.knn import KNN

from spendflops.contracts.errors import ConfigError, DataError, DivergedError


def test_t11_votes():
    similarity, labels = np.array([[0.9, 0.8, 0.7]]), np.array([[0, 1, 1]])
    sharp = knn.class_scores(similarity, labels, 0.07, 2)[0]
    np.testing.assert_allclose(sharp, [383518.4, 113937.0], rtol=1e-5)
    flat = knn.class_scores(similarity, labels, 1.0, 2)[0]
    np.testing.assert_allclose(flat, [2.4596, 4.2393], atol=1e-4)
    where = np.array([[0, 1, 2]])
    assert knn.vote(similarity, where, labels[0], 0.07, 2) == [0]
    assert knn.vote(similarity, where, labels[0], 1.0, 2) == [1]
    assert knn.vote(np.array([[0.5, 0.5]]), np.array([[0, 1]]), np.array([1, 0]), 0.07, 2) == [0]  # a tie


def slow(bank, bank_labels, query, k, temperature):
    predicted = []
    for q in query:
        similar = [
            sum(a * b for a, b in zip(q, x, strict=True)) / math.sqrt(sum(a * a for a in q) * sum(b * b for b in x))
            for x in bank
        ]
        votes = {}
        for i in sorted(range(len(bank)), key=lambda i: -similar[i])[:k]:
            votes[bank_labels[i]] = votes.get(bank_labels[i], 0) + math.exp(similar[i] / temperature)
        predicted.append(min(votes, key=lambda c: (-votes[c], c)))
    return np.array(predicted)


def blobs(count, seed, classes=4, width=6, noise=1.0):
    centres = np.random.default_rng(99).standard_normal((classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return centres[labels] + noise * rng.standard_normal((count, width)), labels.astype(np.int32)


def run(bank, query, k=5, temperature=0.07, **options):
    data = {
        role: ({"features": drive.features_of(x)}, {"label": y})
        for role, (x, y) in {"bank": bank, "query": query}.items()
    }
    return drive.score(KNN(k=k, temperature=temperature), data, about=drive.info(4), **options)["accuracy"]


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (40, 0.5)])
def test_against_a_loop(k, temperature, monkeypatch):
    bank, query = blobs(40, 0), blobs(30, 1)
    want = (slow(*bank, query[0], k, temperature) == query[1]).mean()
    assert 0.4 < want < 1
    assert run(bank, query, k, temperature) == want
    assert run(bank, query, k, temperature, batch_size=7, order=np.random.default_rng(0).permutation(30)) == want
    monkeypatch.setattr(knn, "_BANK", 7)
    monkeypatch.setattr(knn, "_QUERIES", 4)
    assert run(bank, query, k, temperature) == want


def test_scale_of_features_does_not_matter_and_bounds():
    bank, query = blobs(40, 0, noise=0.01), blobs(30, 1, noise=0.01)
    assert run(bank, query) == 1
    assert run((bank[0] * 1e3, bank[1]), (query[0] * 1e-3, query[1])) == 1
    assert run(bank, (query[0], (query[1] + 1) % 4)) == 0


def test_what_is_refused():
    bank, query = blobs(10, 0), blobs(3, 1)
    with pytest.raises(DataError, match="k=20 has 10 bank"):
        run(bank, query, k=20)
    with pytest.raises(DataError, match="no label"):
        run((bank[0], bank[1] - 4), query)
    with pytest.raises(DivergedError, match="query"):
        run(bank, (query[0] * np.nan, query[1]))
    for options in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            KNN(**options)
    with pytest.raises(ConfigError, match="knn needs label"):
        KNN().preprocess(role="bank", info=drive.info(features=("image",)), spec=drive.SPEC)


def test_protocol_says_what_changes_the_score():
    ids = [KNN().protocol, KNN(k=10).protocol, KNN(temperature=0.1).protocol]
    assert ids[0] == "knn/1:summary:k=20:T=0.07:resize=squash" and len(set(ids)) == 3
