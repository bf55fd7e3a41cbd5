"""Weighted nearest neighbours on frozen features (Wu et al., arXiv:1805.01978; as in DINO, arXiv:2104.14294).

The k bank examples of largest cosine similarity s vote for their class with weight exp(s / T); of equal sums the first
class wins. DINO's protocol is ``feature="class"`` and ``resize="crop"`` (the shorter side to 256, the centre 224), T =
0.07 and k of 10, 20, 100 or 200.

Where the k-th similarity is shared, neighbours of lower classes come first: the order of the bank changes nothing.

Deviation: by default images are resized as a whole, and the feature is the backbone's summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import INDEX, Evaluator, Opened
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Sample
from spendflops.parts import pictures
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.metrics import PARTS, binomial_spread
from spendflops.parts.preprocess import Resize, resize_id

_QUERIES, _BANK = 256, 16_384
_SHOWN, _SIDE = 5, 124
"""Neighbours of a picture, and pixels of the longer side of each."""


class KNN(Evaluator):
    """``accuracy`` of a weighted vote of the nearest neighbours.

    Args:
        k: Neighbours.
        temperature: T of the weight exp(similarity / T).
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.
        pictures: Queries that are kept as pictures with their nearest neighbours, for the report.

    Raises:
        ConfigError: An argument outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("bank", "query")

    def __init__(
        self,
        *,
        k: int = 20,
        temperature: float = 0.07,
        feature: str = "summary",
        resize: str = "squash",
        crop_fraction: float = 0.875,
        pictures: int = 3,
    ):
        if k < 1 or not temperature > 0:
            raise ConfigError(f"knn with k={k}, temperature={temperature}", fix="both must be above 0")
        self._k, self._temperature, self._feature = k, temperature, check_feature(feature)
        self._pictures = pictures
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        self.protocol = f"knn/1:{feature}:k={k}:T={temperature:g}:{resize_id(resize, crop_fraction)}"
        self.primary = "accuracy"
        self.spread = f"{PARTS} equal parts of the test images, binomial"

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Opened) -> None:
        """Raises a DataError where the bank has fewer examples than neighbours are asked for."""
        self._check_bank(len(opened("bank", ("label",))))

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size, and its label."""
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="knn", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features and labels; they are normalised on the host."""
        feature = feature_of(predictions["features"], self._feature)
        return {"metrics": {}, "rows": {"feature": feature, "label": batch["label"]}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` in 0..1 and its binomial ``accuracy_sd`` over ``accuracy_n`` parts of the queries.

        Raises:
            DataError: Fewer bank examples than neighbours, no queries, or labels below 0.
            DivergedError: Features that are not finite.
        """
        bank, query = rows["bank"], rows["query"]
        self._check_bank(len(bank["label"]))
        if not len(query["label"]):
            raise DataError(f"knn has no query examples of {info.name}", fix="check the splits of the evaluation")
        if min(bank["label"].min(), query["label"].min()) < 0:
            raise DataError(f"examples of {info.name} have no label", fix="choose splits in which all are labelled")
        for role, data in (("bank", bank), ("query", query)):
            if not np.isfinite(data["feature"]).all():
                raise DivergedError(f"features of the {role} images are not finite", fix="look at the training loss")
        classes = max(len(info.classes), int(bank["label"].max()) + 1)
        # By class, so that it is the lower one that stays where similarities tie, whatever the order of the bank.
        order = np.argsort(bank["label"], kind="stable")
        labels = bank["label"][order]
        near = neighbours(normalised(query["feature"]), bank["feature"], self._k, order=order)
        predicted = [
            vote(near[0][rows], near[1][rows], labels, self._temperature, classes)
            for rows in _slices(len(query["label"]), _QUERIES)
        ]
        accuracy = float(np.mean(np.concatenate(predicted) == query["label"]))
        deviation = binomial_spread(accuracy, len(query["label"]))
        return {"accuracy": accuracy, "accuracy_sd": deviation, "accuracy_n": PARTS}

    def files(
        self, rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo, opened: Opened
    ) -> dict[str, bytes]:
        """``example_N.jpg``: a query and its nearest neighbours, the nearest first, each right or wrong."""
        bank, query = (_by_index(rows[role]) for role in self.roles)
        places = pictures.spread(len(query["label"]), self._pictures)
        if not places:
            return {}
        chosen = {name: values[places] for name, values in query.items()}
        count = min(_SHOWN, len(bank["label"]))
        similar, near = neighbours(normalised(chosen["feature"]), bank["feature"], count)
        near = np.take_along_axis(near, np.argsort(-similar, axis=1, kind="stable"), axis=1)
        seen = {role: opened(role, ("image",)) for role in self.roles}
        files = {}
        for number, (index, label, found) in enumerate(zip(chosen[INDEX], chosen["label"], near, strict=True)):
            tiles = [_tile(seen["query"][int(index)], f"query: {_name(info, label)}", pictures.PLAIN)]
            for place in found:
                right = bank["label"][place] == label
                said = f"{'right' if right else 'wrong'}: {_name(info, bank['label'][place])}"
                colour = pictures.RIGHT if right else pictures.WRONG
                tiles.append(_tile(seen["bank"][int(bank[INDEX][place])], said, colour))
            files[f"example_{number}.jpg"] = pictures.jpeg(pictures.tiled(tiles, 2))
        return files

    def _check_bank(self, count: int) -> None:
        if count < self._k:
            raise DataError(
                f"knn with k={self._k} has {count} bank examples", fix="give a larger bank split, or a smaller k"
            )


def _by_index(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(rows[INDEX], kind="stable")
    return {name: values[order] for name, values in rows.items()}


def _name(info: DatasetInfo, label: int) -> str:
    return info.classes[label] if label < len(info.classes) else str(label)


def _tile(sample: Sample, name: str, colour: tuple[int, int, int]) -> np.ndarray:
    return pictures.named(pictures.fitted(sample["image"].decode(), _SIDE), name, bar=colour)


def normalised(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of unit length, float32; a row of zeros stays."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def neighbours(
    query: Float[np.ndarray, "Q D"],
    bank: Float[np.ndarray, "N D"],
    k: int,
    *,
    order: Int[np.ndarray, " N"] | None = None,
) -> tuple[Float[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """The ``k`` largest cosine similarities of each query, and their places in the bank; of equal ones the first.

    The bank is read in chunks with a running selection: only a chunk of it is held a second time.

    Args:
        query: Of unit length.
        bank: Of any length.
        k: At most N.
        order: The bank is read in this order, and places are places in it.
    """
    best = np.empty((len(query), 0), np.float32)
    where = np.empty((len(query), 0), np.int64)
    for chunk in _slices(len(bank), _BANK):
        part = normalised(bank[chunk] if order is None else bank[order[chunk]])
        places = np.arange(chunk.start, chunk.start + len(part))
        kept = []
        for rows in _slices(len(query), _QUERIES):
            similar = query[rows] @ part.T
            found = np.concatenate([where[rows], np.broadcast_to(places, similar.shape)], axis=1)
            kept.append(_largest(np.concatenate([best[rows], similar], axis=1), found, k))
        best, where = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return best, where


def _largest(values: np.ndarray, where: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest of each row in the order in which they stand; of those equal to the k-th the first ones."""
    if values.shape[1] <= k:
        return values, where
    edge = -np.partition(-values, k - 1, axis=1)[:, k - 1 : k]
    above, level = values > edge, values == edge
    chosen = above | (level & (np.cumsum(level, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(chosen)[1].reshape(len(values), k)
    return np.take_along_axis(values, columns, axis=1), np.take_along_axis(where, columns, axis=1)


def vote(
    similarity: Float[np.ndarray, "Q k"],
    where: Int[np.ndarray, "Q k"],
    labels: Int[np.ndarray, " N"],
    temperature: float,
    classes: int,
) -> Int[np.ndarray, " Q"]:
    """The class with the largest sum of exp(similarity / T); of equal sums the first."""
    return np.argmax(class_scores(similarity, labels[where], temperature, classes), axis=1)


def class_scores(
    similarity: Float[np.ndarray, "Q k"], labels: Int[np.ndarray, "Q k"], temperature: float, classes: int
) -> Float[np.ndarray, "Q C"]:
    """Sums of exp(similarity / T) by class."""
    scores = np.zeros((len(similarity), classes))
    np.add.at(
        scores, (np.arange(len(similarity))[:, None], labels), np.exp(similarity.astype(np.float64) / temperature)
    )
    return scores


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
