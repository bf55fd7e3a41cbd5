"""Weighted nearest neighbours against a loop; T11."""

import dataclasses
import math

import cv2
import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins import knn
from spendflops_plugins.knn import KNN

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts import pictures
from spendflops.parts.images import ArrayImage
from spendflops.testing.samples import KitData

test_kit = spendflops.testing.evaluator_tests(KNN, k=3)
test_kit_as_dino = spendflops.testing.evaluator_tests(KNN, k=3, feature="class", resize="crop")


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


def run(bank, query, k=5, temperature=0.07, feature="summary", **options):
    data = {
        role: ({"features": drive.features_of(x)}, {"label": y})
        for role, (x, y) in {"bank": bank, "query": query}.items()
    }
    evaluator = KNN(k=k, temperature=temperature, feature=feature)
    return drive.score(evaluator, data, about=drive.info(4), **options)["accuracy"]


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


@pytest.mark.parametrize("k", [1, 4, 7, 23, 40])
def test_selection_in_chunks_is_a_sort_of_all_similarities(k, monkeypatch):
    monkeypatch.setattr(knn, "_BANK", 6)
    monkeypatch.setattr(knn, "_QUERIES", 4)
    # Few different rows, so that similarities tie, at the edge of the selection, too. Their entries are +-1/4, so that
    # no sum is rounded: other numbers would tie on one processor and not on another.
    rows = np.random.default_rng(3).choice([-1, 1], (5, 16)).astype(np.float32)
    pick = np.random.default_rng(4).integers(0, 5, 40)
    query = knn.normalised(np.random.default_rng(5).choice([-1, 1], (9, 16)))
    similar, where = knn.neighbours(query, rows[pick], k)
    exact = query.astype(float) @ (rows[pick].astype(float) / 4).T
    for i in range(9):
        want = sorted(range(40), key=lambda j: (-exact[i, j], j))[:k]
        assert sorted(where[i]) == sorted(want)
        np.testing.assert_array_equal(similar[i], exact[i, where[i]])


def test_order_of_the_bank_changes_nothing_even_where_similarities_tie(monkeypatch):
    monkeypatch.setattr(knn, "_BANK", 5)
    bank, query = blobs(4, 0), blobs(30, 1)
    features = np.concatenate([bank[0]] * 6)  # each of them under several labels
    labels = np.random.default_rng(2).integers(0, 4, 24).astype(np.int32)
    scores = set()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(24)
        scores.add(run((features[order], labels[order]), query, k=3))
    assert len(scores) == 1


def test_features_are_the_one_that_is_asked_for():
    bank, query = blobs(40, 0, noise=0.01), blobs(30, 1, noise=0.01)
    spread = np.array([-1, 0, 1])[None, :, None]  # the mean over tokens is what they have in common
    assert run_tokens(bank, query, "mean_tokens", lambda x: (0 * x, x[:, None] + spread, None)) == 1
    assert run_tokens(bank, query, "class", lambda x: (0 * x, None, np.stack([x, 0 * x], axis=1))) == 1
    assert run_tokens(bank, query, "summary", lambda x: (0 * x, x[:, None], None)) < 0.6
    with pytest.raises(ConfigError, match="class token"):
        run(bank, query, feature="class")


def run_tokens(bank, query, feature, split):
    data = {}
    for role, (x, y) in {"bank": bank, "query": query}.items():
        summary, tokens, prefix = split(x)
        made = drive.features_of(summary, tokens)
        made = made if prefix is None else dataclasses.replace(made, prefix=np.asarray(prefix, np.float32))
        data[role] = ({"features": made}, {"label": y})
    return drive.score(KNN(k=5, feature=feature), data, about=drive.info(4))["accuracy"]


def test_scale_of_features_does_not_matter_and_bounds():
    bank, query = blobs(40, 0, noise=0.01), blobs(30, 1, noise=0.01)
    assert run(bank, query) == 1
    assert run((bank[0] * 1e3, bank[1]), (query[0] * 1e-3, query[1])) == 1
    assert run(bank, (query[0], (query[1] + 1) % 4)) == 0


def test_what_is_refused():
    bank, query = blobs(10, 0), blobs(3, 1)
    with pytest.raises(DataError, match="k=20 has 10 bank"):
        run(bank, query, k=20)
    drive.check(KNN(k=48), bank=(KitData(), "train"), query=(KitData(), "test"))
    with pytest.raises(DataError, match="k=49 has 48 bank"):
        drive.check(KNN(k=49), bank=(KitData(), "train"), query=(KitData(), "test"))
    with pytest.raises(DataError, match="no label"):
        run((bank[0], bank[1] - 4), query)
    with pytest.raises(DivergedError, match="query"):
        run(bank, (query[0] * np.nan, query[1]))
    for options in ({"k": 0}, {"temperature": 0.0}, {"feature": "cls"}, {"resize": "none"}, {"crop_fraction": 0.0}):
        with pytest.raises(ConfigError):
            KNN(**options)
    with pytest.raises(ConfigError, match="knn needs label"):
        KNN().preprocess(role="bank", info=drive.info(features=("image",)), spec=drive.SPEC)


def test_protocol_says_what_changes_the_score():
    variants = [{"k": 10}, {"temperature": 0.1}, {"feature": "class"}, {"resize": "crop"}, {"resize": "square_crop"}]
    variants.append({"resize": "crop", "crop_fraction": 1.0})
    assert KNN().protocol == "knn/1:summary:k=20:T=0.07:resize=squash"
    assert KNN(feature="class", resize="crop").protocol == "knn/1:class:k=20:T=0.07:resize=crop0.875"
    assert len({KNN().protocol, *(KNN(**v).protocol for v in variants)}) == 7


def test_preprocess_crops_where_it_is_asked_to():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    made = KNN(resize="crop").preprocess(role="query", info=drive.info(4), spec=drive.SPEC)
    assert (made({"image": ArrayImage(pixels), "label": 0})["image"] == pixels[:8, :8]).all()  # 8 / 0.875 is 9


def test_pictures_show_the_nearest_of_the_bank_right_and_wrong():
    rng = np.random.default_rng(3)
    shades = {"bank": rng.permutation(200)[:12].astype(np.uint8), "query": np.array([250, 251], np.uint8)}
    features, labels = rng.normal(size=(12, 4)), rng.integers(0, 2, 12)
    asked = rng.normal(size=(2, 4))

    def opened(role, names):
        assert names == ("image",)
        return [{"image": ArrayImage(np.full((30, 30, 3), shade, np.uint8))} for shade in shades[role]]

    order = rng.permutation(12)
    rows = {
        "bank": {"feature": features[order], "label": labels[order], "_index": order},
        "query": {"feature": asked, "label": np.array([0, 1]), "_index": np.arange(2)},
    }
    files = KNN(k=3, pictures=2).files(rows, info=drive.info(classes=2), opened=opened)
    assert sorted(files) == ["example_0.jpg", "example_1.jpg"]
    for number in (0, 1):
        picture = cv2.imdecode(np.frombuffer(files[f"example_{number}.jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        cosine = features @ asked[number] / np.linalg.norm(features, axis=1)
        nearest = sorted(range(12), key=lambda i: -cosine[i])[:5]
        wanted = [(shades["query"][number], pictures.PLAIN)]
        wanted += [(shades["bank"][i], pictures.RIGHT if labels[i] == number else pictures.WRONG) for i in nearest]
        cell = 124 + pictures.GAP
        for place, (shade, bar) in enumerate(wanted):
            x, y = place % 2 * cell, place // 2 * (cell + pictures.BAR)
            assert abs(int(picture[y + pictures.BAR + 60, x + 60, 0]) - int(shade)) <= 2
            assert np.abs(picture[y + 2, x + 110].astype(int) - bar).max() < 40
