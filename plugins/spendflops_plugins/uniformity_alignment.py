"""Uniformity and alignment of features on the unit sphere, without labels (Wang and Isola 2020, arXiv 2005.10242).

For unit features x_i, y_i of two views of each of N images:

    uniformity = 1/2 (u(x) + u(y)),    u(x) = ln mean over pairs i < j of exp(-t |x_i - x_j|^2),    t = 2           (1)
    alignment  = mean_i |x_i - y_i|^alpha,    alpha = 2                                                             (2)

Lower is better for both, and neither says much alone: features that are all one are perfectly aligned, those of noise
perfectly uniform. ``uniformity`` is primary, because what has to be found early is collapse, where it is 0, its worst,
and alignment at its best. Read ``alignment`` beside it.

The views are two crops of the image, each perhaps flipped. They are drawn from the digest of the image's content: the
same image has the same two views in every run, at every place of the data set. Their distribution is an option and is
in the protocol; the version of the protocol stands for the rest (torchvision's sampler, ratios 3/4..4/3, bicubic).

Pairs are summed in float64, exactly, N^2 D multiply-adds a view on the host: so ``examples`` bounds N.

Deviation: no changes of colour or blur, which the paper's views have: methods that are trained to ignore colour have
nothing to ignore here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Evaluator, Preprocess
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Sample
from spendflops.parts import geometry
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.images import random_flip, random_resized_crop
from spendflops.parts.preprocess import Resize
from spendflops.parts.splits import parse_split

VIEWS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoCrops(Preprocess):
    """``image`` uint8 [2 H W 3]: two crops that depend on the content of the image and on nothing else.

    Attributes:
        size: Height and width in pixels.
        scale: Range of a crop's area, as parts of the image's.
        flip: Probability of a horizontal flip.
        seed: Another one gives other crops.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    flip: float
    seed: int

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return ("image",)

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        return {"image": ("uint8", (VIEWS, *self.size, 3))}

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One example."""
        image = sample["image"]
        # A digest is hexadecimal, of 128 bits.
        rng = np.random.Generator(np.random.Philox(key=[int(image.digest(), 16) % 2**64, self.seed]))
        crops = (random_resized_crop(image, rng, size=self.size, scale=self.scale) for _ in range(VIEWS))
        return {"image": np.stack([random_flip(crop, rng, probability=self.flip) for crop in crops])}


class UniformityAlignment(Evaluator):
    """``uniformity`` and ``alignment``, equations (1) and (2).

    Args:
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        t: Of equation (1).
        alpha: Of equation (2).
        scale: Range of a crop's area, as parts of the image's.
        flip: Probability that a crop is flipped.
        seed: Of the crops.
        examples: The most that are accepted: time grows with the square.

    Raises:
        ConfigError: Another feature, or a number outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = ""
    expected_failures: ClassVar = {"bounds": "no error rate: the best value is below 0 and depends on t"}

    def __init__(
        self,
        *,
        feature: str = "summary",
        t: float = 2.0,
        alpha: float = 2.0,
        scale: tuple[float, float] = (0.4, 1.0),
        flip: float = 0.5,
        seed: int = 0,
        examples: int = 10_000,
    ):
        if not (0 < t <= 100 and 0 < alpha <= 100):
            raise ConfigError(f"uniformity_alignment with t={t}, alpha={alpha}", fix="both in (0, 100]; usually 2")
        if not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1 and 0 <= flip <= 1 and 0 <= seed < 2**63):
            raise ConfigError(
                f"uniformity_alignment with scale={scale}, flip={flip}, seed={seed}",
                fix="scale is (least, most) in (0, 1], flip in 0..1, seed at least 0",
            )
        if examples < 2:
            raise ConfigError(f"uniformity_alignment with examples={examples}", fix="at least 2, which make a pair")
        self._feature, self._t, self._alpha, self._examples = check_feature(feature), t, alpha, examples
        self._scale, self._flip, self._seed = (scale[0], scale[1]), flip, seed
        views = f"digest:crop={scale[0]:g}-{scale[1]:g}:flip={flip:g}:seed={seed}"
        self.protocol = f"uniformity_alignment/1:{feature}:t={t:g}:alpha={alpha:g}:views={views}"
        self.primary = "uniformity"

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Callable[[str, tuple[str, ...]], Source]) -> None:
        """Raises a DataError where there are more examples than are accepted."""
        dataset, split = data["eval"]
        self._check(len(opened("eval", ("image",))), f"{dataset.info.name}:{split}", parse_split(split).name)

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> TwoCrops:
        """Two crops at the model's size; nothing else is read."""
        size = Resize.of(info=info, spec=spec, read=("image",), asker="uniformity_alignment").size
        return TwoCrops(size=size, scale=self._scale, flip=self._flip, seed=self._seed)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features [B 2 D]; they are normalised on the host.

        Raises:
            ConfigError: The class token of a backbone without one.
        """
        vectors = jax.vmap(lambda pair: feature_of(pair, self._feature))(predictions["features"])
        return {"metrics": {}, "rows": {"feature": vectors}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``uniformity`` (at most 0), ``alignment`` (at least 0) and ``examples``.

        Raises:
            DataError: Fewer than two examples, or more than ``examples``.
            DivergedError: Features that are not finite.
        """
        features = geometry.check_rows(rows.get("eval", {}), "feature", info=info, asker="uniformity_alignment")
        self._check(len(features), info.name, "test")
        first, second = features[:, 0], features[:, 1]
        spread = (geometry.uniformity(view, t=self._t) for view in (first, second))
        together = geometry.alignment(first, second, alpha=self._alpha)
        return {"uniformity": sum(spread) / VIEWS, "alignment": together, "examples": len(features)}

    def _check(self, count: int, where: str, name: str) -> None:
        if count > self._examples:
            raise DataError(
                f"uniformity_alignment: {where} has {count} examples, examples={self._examples} is the most",
                why="it sums over all pairs: ten times the examples take a hundred times the time",
                fix=f"score a part, {name}[:{self._examples}], or raise `examples`",
            )
