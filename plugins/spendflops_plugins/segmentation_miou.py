"""Mean intersection over union of an objective's segmentation logits, over all pixels of the data set.

Logits are upsampled to the masks (bilinear, pixel centres at half coordinates) before the argmax. Label 255 is ignored;
classes that occur in neither labels nor predictions are left out of the mean, and how many were averaged is a result.
ViNy (arXiv:2512.03862) averages scores of single images instead, and counts an absent class as 0: ``average="image"``,
``absent="zero"``.

What the model sees is a protocol of its own. Label maps are scored at the size of the image that it sees, resized by
nearest neighbour, or as they are stored.

    squash        the whole image at the model's size, sides scaled apart
    center_crop   the middle of the stored image, not rescaled (Koppula et al. 2022, arXiv 2209.15589, A.4: "one crop"):
                  pixels outside it do not count, so its scores are not comparable with those of whole images
    slide         the shorter side at the model's size, windows along the longer one, logits averaged where they overlap
                  (mmsegmentation's slide inference: MAE's protocol with 512 pixels, a stride of 341 and stored labels)

Deviation: in "slide" images are resized by Pillow's antialiased bilinear filter, not by OpenCV's; a side that stays
shorter than the model's size, in images of more than 4:1, is padded with mean colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.evaluator import INDEX, Evaluator, Opened, Preprocess
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Sample
from spendflops.parts import pictures
from spendflops.parts.images import resize
from spendflops.parts.metrics import IGNORE, count_confusion, iou, resize_scores, segmentation_scores
from spendflops.parts.preprocess import Resize
from spendflops.parts.windows import CenterCrop, Windows, classes_of_labels, label_map, most_windows

AVERAGES, ABSENT = ("dataset", "image"), ("skipped", "zero")
VIEWS, LABELS = ("squash", "center_crop", "slide"), ("input", "stored")

PIXELS = 1 << 22
"""Pixels of the largest label map that is scored as it is stored, unless an option says another number."""
SEEN, SIDE, NAMED = 128, 240, 8
"""Predictions that are kept along a side of an image, pixels of its longer side in a picture, classes that it names."""


class SegmentationMIoU(Evaluator):
    """``miou``, ``pixel_accuracy``, ``mean_accuracy``, ``classes`` and the IoU of each class.

    Windows take memory: an example of ``slide`` keeps the logits of all pixels of its windows and of its resized image
    in float32, 1.6 GB with 6 windows of 512 pixels and 150 classes. Choose a small ``Evaluation.batch_size``.

    Args:
        average: "dataset": one confusion matrix of all pixels. "image": ``miou`` and ``pixel_accuracy`` are means over
            images, the other scores are of all pixels.
        absent: A class in neither labels nor predictions is "skipped" in the mean over classes, or counts as "zero".
        view: "squash", "center_crop" or "slide", see above.
        labels: Label maps at the size of the image that the model sees ("input"), or as they are ("stored"). In
            "center_crop" these are the same.
        stride: Pixels from one window of "slide" to the next; None for two thirds of the model's size.
        windows: Windows an image of "slide". All of them cost a prediction, needed or not; None has as many as an image
            of 4:1 needs, 6 with the default stride. Images of 4:3 need 2, of 2:1 they need 3.
        pixels: Most pixels of a stored label map; None for 4,194,304.
        pictures: Images that are kept as pictures, with what was predicted and what is true, for the report.

    Raises:
        ConfigError: Another word, or an option that the view does not have.
    """

    requires: ClassVar[tuple[str, ...]] = ("seg_logits",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(
        self,
        *,
        average: str = "dataset",
        absent: str = "skipped",
        view: str = "squash",
        labels: str = "input",
        stride: int | None = None,
        windows: int | None = None,
        pixels: int | None = None,
        pictures: int = 3,
    ):
        for option, value, known in (
            ("average", average, AVERAGES),
            ("absent", absent, ABSENT),
            ("view", view, VIEWS),
            ("labels", labels, LABELS),
        ):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}"
                )
        stored, sliding = labels == "stored", view == "slide"
        for option, idle, why in (
            (
                "labels",
                stored and view == "center_crop",
                "a centre crop is not rescaled: it has stored labels",
            ),
            ("stride", stride is not None and not sliding, "only the view 'slide' has windows"),
            ("windows", windows is not None and not sliding, "only the view 'slide' has windows"),
            ("pixels", pixels is not None and not stored, "only stored labels have sizes of their own"),
        ):
            if idle:
                raise ConfigError(f"{option} has no effect with view={view!r}, labels={labels!r}", why=why)
        self.average, self.absent, self.view = average, absent, view
        self.stride, self.windows, self.pixels = stride, windows, (pixels or PIXELS) if stored else None
        self.cut, self.pictures = sliding or stored, pictures
        shown = {"squash": "", "center_crop": ":center_crop", "slide": f":slide:stride={stride or '2/3'}"}[view]
        masks = "stored_size" if stored or view == "center_crop" else "input_size"
        self.protocol = f"segmentation_miou/1:{average}:absent={absent}{shown}:masks={masks}"
        self.primary = "miou"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Preprocess:
        """Image and label map of the view.

        Raises:
            ConfigError: A data set without label maps, or a stride that does not fit the model's size.
        """
        whole = Resize.of(info=info, spec=spec, read=("image", "mask"), asker="segmentation_miou")
        if self.cut:
            return self._windows(spec.size, spec.mean)
        return CenterCrop(size=spec.size, mean=spec.mean) if self.view == "center_crop" else whole

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """The confusion matrix of the batch, in integers."""
        logits, masks = predictions["seg_logits"], batch["mask"]
        if self.cut:
            classes = classes_of_labels(logits, batch, canvas=self._windows(batch["image"].shape[2:4]).canvas)
        else:
            classes = resize_scores(logits.astype(jnp.float32), (masks.shape[1], masks.shape[2])).argmax(axis=-1)
        labels = jnp.where(batch["_mask"].reshape(-1, *[1] * (masks.ndim - 1)), masks, IGNORE)
        metrics = count_confusion(labels, classes, logits.shape[-1])
        rows = self._looked_at(classes, batch) if self.pictures else {}
        if self.average == "dataset":
            return {"metrics": metrics, "rows": rows}
        single = jax.vmap(lambda one, other: count_confusion(one, other, logits.shape[-1]))(labels, classes)
        return {"metrics": metrics, "rows": {"confusion": single["confusion"], **rows}}

    def _looked_at(self, classes: Array, batch: Batch) -> dict[str, Array]:
        """The predicted classes at :data:`SEEN` x :data:`SEEN` places, and the size of what they lie on."""
        if self.cut:
            sizes = batch["label_size"]
        else:
            sizes = jnp.broadcast_to(jnp.array(batch["mask"].shape[1:]), (len(classes), 2))
        steps = jnp.arange(SEEN)

        def sampled(flat: Array, size: Array) -> Array:
            rows, columns = ((2 * steps + 1) * size[axis] // (2 * SEEN) for axis in (0, 1))
            return flat[rows[:, None] * size[1] + columns[None]].astype(jnp.uint8)

        return {"seen": jax.vmap(sampled)(classes.reshape(len(classes), -1), sizes), "seen_size": sizes}

    def compact(self, role: str, rows: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Predictions to look at are kept for the first images alone, with their places in the data."""
        if "seen" not in rows:
            return rows
        first = rows[INDEX] < self.pictures
        kept = {name: rows[name][first] for name in ("seen", "seen_size")}
        return {**rows, **kept, "seen_index": rows[INDEX][first]}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """Scores in 0..1; ``iou/<class>`` only for classes that occur.

        Raises:
            ConfigError: The model has another number of classes than the data set.
            DataError: No labelled pixel, or labels outside the classes.
        """
        confusion, invalid = np.asarray(merged["eval"]["confusion"], np.int64), int(merged["eval"]["invalid"])
        names = info.mask_classes or tuple(str(i) for i in range(len(confusion)))
        if len(names) != len(confusion):
            raise ConfigError(
                f"the model segments {len(confusion)} classes, {info.name} has {len(names)}",
                fix="evaluate on the data set that the head was trained for",
            )
        if invalid or not confusion.sum():
            raise DataError(
                f"{info.name}: {invalid} pixels have a label outside the {len(confusion)} classes"
                if invalid
                else f"no pixel of {info.name} has a label",
                why=f"labels are 0..{len(confusion) - 1}, and {IGNORE} for ignored pixels",
                fix="map the labels where the data set is read",
            )
        classes = {f"iou/{n}": float(v) for n, v in zip(names, iou(confusion), strict=True) if np.isfinite(v)}
        scores = segmentation_scores(confusion, absent=self.absent)
        if self.average == "image":
            images = [segmentation_scores(one, absent=self.absent) for one in rows["eval"]["confusion"] if one.sum()]
            scores |= {name: float(np.mean([s[name] for s in images])) for name in ("miou", "pixel_accuracy")}
        return scores | classes

    def files(
        self, rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo, opened: Opened
    ) -> dict[str, bytes]:
        """``example_N.jpg``: an image, its predicted and its true classes, and their names."""
        found = rows["eval"]
        if "seen_index" not in found:
            return {}
        source, files = opened("eval", ("image", "mask")), {}
        for row in np.argsort(found["seen_index"]):
            index, size = int(found["seen_index"][row]), tuple(found["seen_size"][row].tolist())
            files[f"example_{index}.jpg"] = self._picture(source[index], found["seen"][row], size, info)
        return files

    def _picture(self, sample: Sample, seen: np.ndarray, size: tuple[int, int], info: DatasetInfo) -> bytes:
        if self.view == "center_crop":
            entries = CenterCrop(size=size, mean=(0.5, 0.5, 0.5))(sample)
            image, mask = entries["image"], entries["mask"]
        else:
            image, mask = sample["image"].decode(), label_map(sample)
        image = pictures.fitted(image, SIDE)
        truth = resize(mask, image.shape[:2], "nearest")
        predicted = np.where(truth == IGNORE, IGNORE, resize(seen, image.shape[:2], "nearest"))
        maps = (("predicted", predicted), ("true", truth))
        tiles = [pictures.named(pictures.covered(image, classes), name) for name, classes in maps]
        labels, counts = np.unique(np.concatenate([m[m != IGNORE] for _, m in maps]), return_counts=True)
        names = info.mask_classes or tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
        largest = labels[np.argsort(-counts, kind="stable")][:NAMED]
        together = pictures.tiled([pictures.named(image, "image"), *tiles], 2 if image.shape[0] > image.shape[1] else 1)
        return pictures.jpeg(pictures.keyed(together, [int(x) for x in largest], names))

    def _windows(self, size: tuple[int, int], mean: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Windows:
        squash = self.view == "squash"
        stride = tuple(size) if squash else tuple(self.stride or max(1, side * 2 // 3) for side in size)
        return Windows(
            size=tuple(size),
            windows=1 if squash else most_windows(size, stride) if self.windows is None else self.windows,
            stride=stride,
            squash=squash,
            pixels=self.pixels,
            mean=mean,
            interpolation="bicubic" if squash else "bilinear",
        )
