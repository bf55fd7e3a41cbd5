"""RankMe: the effective rank of features, without labels (Garrido et al. 2023, arXiv 2210.02885).

For the singular values s_k of the matrix of all features [N D], K = min(N, D) of them:

    rankme = exp(- sum_k p_k ln p_k),    p_k = s_k / sum_j s_j + eps,    eps = 1e-7                                 (1)

The paper takes features as they are: their mean is a direction, too. ``centre=True`` takes it out. It shows a collapse
to few dimensions; a high rank is necessary for good features and not sufficient: features of noise have all dimensions.

N bounds it. The paper has 25,600 images: choose many more than dimensions (``train[:25600]``), and compare runs on one
split. Singular values are those of all features at once, exact to float64 rounding of the largest.

Deviation: images are resized as a whole, or cropped at the centre; the paper's are augmented as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts import geometry
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.preprocess import Resize, resize_id


class RankMe(Evaluator):
    """``rankme``, equation (1), and the same as a part of the largest possible value.

    Args:
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        centre: Whether the mean of all features is subtracted first.
        epsilon: Of equation (1).
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.

    Raises:
        ConfigError: Another word, or a number outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)
    unit: ClassVar[str] = ""
    expected_failures: ClassVar = {"bounds": "a rank, not a part: what is best depends on the width of the features"}

    def __init__(
        self,
        *,
        feature: str = "summary",
        centre: bool = False,
        epsilon: float = 1e-7,
        resize: str = "squash",
        crop_fraction: float = 0.875,
    ):
        if not 0 <= epsilon <= 1e-3:
            raise ConfigError(f"rankme with epsilon={epsilon}", fix="a number in 0..1e-3; the paper's is 1e-7")
        self._feature, self._centre, self._epsilon = check_feature(feature), centre, epsilon
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        mean = "centred" if centre else "raw"
        self.protocol = f"rankme/1:{feature}:{mean}:eps={epsilon:g}:{resize_id(resize, crop_fraction)}"
        self.primary = "rankme"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size; nothing else is read."""
        return Resize.of(info=info, spec=spec, read=("image",), asker="rankme", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features.

        Raises:
            ConfigError: The class token of a backbone without one.
        """
        return {"metrics": {}, "rows": {"feature": feature_of(predictions["features"], self._feature)}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``rankme`` in 1..K, ``relative`` = ``rankme`` / K, ``examples`` N and ``dimensions`` D; K = min(N, D).

        Raises:
            DataError: Fewer than two examples.
            DivergedError: Features that are not finite.
        """
        features = geometry.check_rows(rows.get("eval", {}), "feature", info=info, asker="rankme")
        values = geometry.singular_values(features, centre=self._centre)
        rank = geometry.effective_rank(values, epsilon=self._epsilon)
        count, width = features.shape
        return {"rankme": rank, "relative": rank / len(values), "examples": count, "dimensions": width}
