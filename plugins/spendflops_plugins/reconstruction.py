"""How much of hidden patches a masked-image model predicts on held-out images, and pictures of it.

    correlation = mean over hidden patches of corr(y, x)                                                            (1)

of the predicted pixels y and the true ones x of a patch, over all its values jointly. It minds neither their mean nor
their scale: models that predict normalised patches (MAE's ``norm_pix``) and pixels stand on one axis. Flat patches, of
which all true pixels nearly agree, hold nothing to predict and do not count. A model that knows nothing has 0.

No paper has this score: pictures such as those of He et al. 2022 (arXiv 2111.06377, figures 2 to 4) are what is looked
at, and a low loss is not good features. Which patches are hidden is the model's own choice, the same in every image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from spendflops.contracts.errors import DataError, DivergedError
from spendflops.contracts.evaluator import INDEX, Evaluator, Opened
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts import pictures
from spendflops.parts.images import resize
from spendflops.parts.nn.patches import grid_of, patchify, unpatchify
from spendflops.parts.preprocess import Resize, resize_id

FLAT = 1.0
"""Least standard deviation of the pixels of a patch that counts, on the scale 0..255."""
SEEN, SIDE = 112, 140
"""Most pixels along a side of what is kept to be looked at, and of the longer side of a tile of a picture."""
HIDDEN = 118
"""Grey of hidden patches in a picture."""


class Reconstruction(Evaluator):
    """``correlation``, equation (1), and ``patches``, how many counted.

    Some hundred images are enough: a picture of each goes to the host before all but the first ones are dropped.

    Args:
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.
        pictures: Images that are kept as pictures.
    """

    requires: ClassVar[tuple[str, ...]] = ("reconstruction", "hidden")
    roles: ClassVar[tuple[str, ...]] = ("eval",)
    unit: ClassVar[str] = ""

    def __init__(self, *, resize: str = "squash", crop_fraction: float = 0.875, pictures: int = 3):
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        self._pictures = pictures
        self.protocol = f"reconstruction/1:{resize_id(resize, crop_fraction)}"
        self.primary = "correlation"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size; nothing else is read."""
        return Resize.of(info=info, spec=spec, read=("image",), asker="reconstruction", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Sums over the hidden patches of each image, and small pictures."""
        predicted, hidden = predictions["reconstruction"].astype(jnp.float32), predictions["hidden"]
        patch = round((predicted.shape[-1] / 3) ** 0.5)
        true = patchify(batch["image"].astype(jnp.float32), patch)
        found = correlations(predicted, true)
        counts = hidden & (jnp.std(true, axis=-1) >= FLAT)
        sums = {"correlation": jnp.sum(jnp.where(counts, found, 0), axis=1), "patches": jnp.sum(counts, axis=1)}
        if not self._pictures:
            return {"metrics": {}, "rows": sums}
        shown = jnp.where(hidden[:, :, None], jnp.clip(predicted, 0, 255), true)
        images = jnp.round(unpatchify(shown, patch, grid_of(batch["image"].shape, patch))).astype(jnp.uint8)
        rows, columns = (_places(side) for side in images.shape[1:3])
        return {"metrics": {}, "rows": {**sums, "seen": images[:, rows][:, :, columns], "hidden": hidden}}

    def compact(self, role: str, rows: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Pictures are kept of the first images alone."""
        first = rows[INDEX] < self._pictures
        kept = {name: rows[name][first] for name in ("seen", "hidden") if name in rows}
        return {**rows, **kept, "seen_index": rows[INDEX][first]}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``correlation`` in -1..1, and ``patches``.

        Raises:
            DataError: No hidden patch counts.
            DivergedError: Predictions that are not finite.
        """
        total = float(np.sum(rows["eval"]["correlation"], dtype=np.float64))
        patches = int(np.sum(rows["eval"]["patches"]))
        if not patches:
            raise DataError(
                f"no hidden patch of {info.name} counts", why="all are flat", fix="choose images that show something"
            )
        if not np.isfinite(total):
            raise DivergedError("predicted pixels are not finite", fix="look at the training loss")
        return {"correlation": total / patches, "patches": patches}

    def files(
        self, rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo, opened: Opened
    ) -> dict[str, bytes]:
        """``example_N.jpg``: what the model sees, what it makes of it, what is there, and how far the two are apart."""
        found = rows["eval"]
        if not self._pictures:
            return {}
        small = Resize(size=found["seen"].shape[1:3], read=("image",), **self._resize)
        source, files = opened("eval", ("image",)), {}
        for row in np.argsort(found["seen_index"]):
            index = int(found["seen_index"][row])
            true = small(source[index])["image"]
            files[f"example_{index}.jpg"] = _picture(true, found["seen"][row], found["hidden"][row])
        return files


def correlations(y: Float[Array, "B N P"], x: Float[Array, "B N P"]) -> Float[Array, "B N"]:
    """Pearson's correlation over the last axis; 0 where one of them does not vary."""
    y, x = (v - jnp.mean(v, axis=-1, keepdims=True) for v in (y, x))
    scale = jnp.sqrt(jnp.sum(y * y, axis=-1) * jnp.sum(x * x, axis=-1))
    return jnp.where(scale == 0, 0, jnp.sum(y * x, axis=-1) / jnp.where(scale == 0, 1, scale))


def _places(side: int) -> np.ndarray:
    """At most :data:`SEEN` places along a side, evenly spread."""
    count = min(side, SEEN)
    return ((2 * np.arange(count) + 1) * side) // (2 * count)


def _picture(
    true: UInt8[np.ndarray, "h w 3"], seen: UInt8[np.ndarray, "h w 3"], hidden: Bool[np.ndarray, " N"]
) -> bytes:
    height, width = true.shape[:2]
    rows = round((len(hidden) * height / width) ** 0.5)
    mask = resize(hidden.reshape(rows, -1).astype(np.uint8), (height, width), "nearest").astype(bool)
    masked = np.where(mask[:, :, None], np.uint8(HIDDEN), true)
    apart = np.abs(seen.astype(int) - true) * mask[:, :, None]
    tiles = (("masked", masked), ("predicted", seen), ("true", true), ("difference", apart.astype(np.uint8)))
    drawn = [pictures.named(pictures.fitted(tile, SIDE, interpolation="nearest"), name) for name, tile in tiles]
    return pictures.jpeg(pictures.tiled(drawn, 2))
