"""Standard deviation of features at length 1, without labels: the collapse monitor of SimSiam on held-out images.

Chen and He 2021, "Exploring simple Siamese representation learning" (arXiv 2011.10566, figure 2):

    deviation = mean over dimensions d of std over images of (z / |z|)_d                                            (1)

It is 0 when all features are one, and near 1 / sqrt(D) when they point in all directions alike. It does not see a
collapse to some dimensions of many as well as the rank does: features on a circle in D dimensions have
``relative`` = sqrt(2 / D) if it lies along two axes, and up to 1 if it lies across all.

Deviation: the standard deviation divides by N; PyTorch's, by N - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts import geometry
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.preprocess import Resize, resize_id


class FeatureDeviation(Evaluator):
    """``deviation``, equation (1), and ``relative``, the same times sqrt(D), which ranks models of any width.

    Args:
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.

    Raises:
        ConfigError: Another word, or a number outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)
    unit: ClassVar[str] = ""
    expected_failures: ClassVar = {"bounds": "features of perfect predictions need not point in all directions alike"}

    def __init__(self, *, feature: str = "summary", resize: str = "squash", crop_fraction: float = 0.875):
        self._feature = check_feature(feature)
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        self.protocol = f"feature_deviation/1:{feature}:{resize_id(resize, crop_fraction)}"
        self.primary = "relative"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size; nothing else is read."""
        return Resize.of(info=info, spec=spec, read=("image",), asker="feature_deviation", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features; they are normalised on the host.

        Raises:
            ConfigError: The class token of a backbone without one.
        """
        return {"metrics": {}, "rows": {"feature": feature_of(predictions["features"], self._feature)}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``deviation`` in 0..1/sqrt(D), ``relative`` in 0..1, ``examples`` and ``dimensions`` D.

        Raises:
            DataError: Fewer than two examples.
            DivergedError: Features that are not finite.
        """
        features = geometry.check_rows(rows.get("eval", {}), "feature", info=info, asker="feature_deviation")
        count, width = features.shape
        value = geometry.deviation(features)
        return {"deviation": value, "relative": value * width**0.5, "examples": count, "dimensions": width}
