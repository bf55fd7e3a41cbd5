"""Segmentation of pets as in the code of the ViNy study ("Diminishing Returns in SSL", arXiv 2512.03862).

Everything that this code does and others do not is here, so that its numbers can be compared with. The plain task is
the objective ``segmentation`` on the data set ``pets``, scored by ``segmentation_miou``.

    head       one linear layer turns a patch token into the logits of its pixels, in the order (class, row, column);
               no class token, no upsampling
    loss       a log-softmax over all pixels, class by class, comes before the cross-entropy's softmax over classes, and
               before the argmax: with x the logits of an image, y_pc = x_pc - log sum_q exp x_qc. A bias of a class
               has no effect
    images     resized by nearest neighbour, not normalised (``mean`` 0 and ``std`` 1 in the backbone)
    draws      flip and contrast are drawn once an image, not once a visit, and for test images as well
    splits     the official ones in one, permuted, the first N for training, the next 1,000 for the test: a test set
               that moves with N
    score      ``segmentation_miou`` with ``average="image"`` and ``absent="zero"``

Deviation: the permutation is ours, of the seed that the code names (its generator is not ours to repeat). Deviation:
draws come from the place of an image and a seed, not from a global generator. Deviation: contrast changes 8-bit pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, InputSpec, Loss, Sample
from spendflops.parts import closed_form, images
from spendflops.parts.augment.torchvision import adjust_contrast_torchvision
from spendflops.parts.masking import prefix_length, token_backbone
from spendflops.parts.metrics import IGNORE
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.patches import grid_of
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.pixel_loss import pixel_accuracy, pixel_cross_entropy
from spendflops.parts.splits import permutation
from spendflops.parts.windows import label_map

SPLITS = ("train", "test")


def prepared(
    sample: Sample, rng: np.random.Generator, size: tuple[int, int], *, flip: float, contrast: float
) -> dict[str, np.ndarray]:
    """``image`` uint8 [H W 3] and ``mask`` uint8 [H W]: resized by nearest neighbour, flipped alike, then contrast.

    Args:
        sample: Image and label map.
        rng: All randomness.
        size: Height and width in pixels.
        flip: Its probability.
        contrast: The factor is from U(1 - contrast, 1 + contrast), on the image alone.

    Raises:
        DataError: A label map of another size than its image.
    """
    mask = images.resize(label_map(sample), size, "nearest")
    image = images.resize(sample["image"].decode(), size, "nearest")
    if rng.random() < flip:
        image, mask = images.flip(image), images.flip(mask)
    if contrast:
        factor = rng.uniform(1 - contrast, 1 + contrast)
        image = np.asarray(adjust_contrast_torchvision(PIL.Image.fromarray(np.ascontiguousarray(image)), factor))
    return {"image": np.ascontiguousarray(image), "mask": np.ascontiguousarray(mask)}


class VinyPets(Dataset):
    """``train`` and ``test`` of a permutation of all images, resized and augmented once and for all.

    Args:
        dataset: With ``image``, ``mask`` and the splits ``train`` and ``test``: the pets.
        train: Images to train on, 250 to 6,000.
        test: Images of the test, those that follow.
        size: Side of the images in pixels.
        seed: Of the permutation.
        draws: Seed of flips and contrasts, one for each of several runs.
        flip: Probability of a horizontal flip.
        contrast: The factor is from U(1 - contrast, 1 + contrast).

    Raises:
        ConfigError: A data set without label maps.
        DataError: More images than there are, where their number is known.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        train: int = 6000,
        test: int = 1000,
        size: int = 128,
        seed: int = 42,
        draws: int = 0,
        flip: float = 0.5,
        contrast: float = 0.3,
    ):
        if not isinstance(dataset, Dataset):
            raise ConfigError(f"viny_pets.dataset is {dataset!r}", fix="give a Dataset, in gin with ()")
        inner = dataset.info
        if "mask" not in inner.features:
            raise ConfigError(f"{inner.name} has no label maps", why=f"it has {', '.join(inner.features)}")
        self._dataset, self._counts, self._size = dataset, {"train": train, "test": test}, (size, size)
        self._seed, self._draws, self._flip, self._contrast = seed, draws, flip, contrast
        if all(split in inner.sizes for split in SPLITS):
            self._check(sum(inner.sizes[split] for split in SPLITS))
        self.info = dataclasses.replace(
            inner,
            # The test set is another one for every number of training images.
            name=f"{inner.name}_viny_{train}",
            features={"image": "uint8 H W C", "mask": "uint8 H W"},
            classes=(),
            class_names=(),
            label_names=(),
            sizes=dict(self._counts),
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image", "mask")) -> VinySource:
        """Images and label maps of ``split``.

        Raises:
            ConfigError: Another feature than ``image`` and ``mask``.
            DataError: Another split, more images than there are; or what the data set raises.
        """
        if split not in SPLITS:
            raise DataError(f"{self.info.name} has no split {split!r}{suggest(split, SPLITS)}", fix=f"use {SPLITS}")
        for feature in features:
            if feature not in self.info.features:
                raise ConfigError(f"{self.info.name} has no feature {feature!r}", why="it has image and mask")
        parts = tuple(self._dataset.source(name, features=("image", "mask")) for name in SPLITS)
        total = sum(len(part) for part in parts)
        self._check(total)
        begin = 0 if split == "train" else self._counts["train"]
        chosen = permutation(total, self._seed)[begin : begin + self._counts[split]]
        options = {"size": self._size, "draws": self._draws, "flip": self._flip, "contrast": self._contrast}
        return VinySource(parts, chosen, **options)

    def _check(self, total: int) -> None:
        wanted = sum(self._counts.values())
        if min(self._counts.values()) < 1 or wanted > total:
            raise DataError(
                f"viny_pets asks for {self._counts['train']:,} and {self._counts['test']:,} images of {total:,}",
                fix="at least one of each, and no more than there are",
            )


class VinySource:
    """The images ``chosen`` of several sources, one after the other; the same index always gives the same pixels.

    Args:
        parts: The sources.
        chosen: Places in all of them together.
        size, draws, flip, contrast: As :class:`VinyPets` and :func:`prepared` say.
    """

    def __init__(
        self,
        parts: Sequence[Source],
        chosen: np.ndarray,
        *,
        size: tuple[int, int],
        draws: int,
        flip: float,
        contrast: float,
    ):
        self._parts, self._chosen, self._size = tuple(parts), np.asarray(chosen, np.int64), size
        self._draws, self._flip, self._contrast = draws, flip, contrast

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} examples")
        place = int(self._chosen[index])
        rng = np.random.Generator(np.random.Philox(key=(self._draws << 64) + place))
        part = 0
        while place >= len(self._parts[part]):
            place, part = place - len(self._parts[part]), part + 1
        made = prepared(self._parts[part][place], rng, self._size, flip=self._flip, contrast=self._contrast)
        return {"image": images.ArrayImage(made["image"]), "mask": made["mask"]}

    def __repr__(self) -> str:
        return f"VinySource({len(self)} of {', '.join(map(repr, self._parts))})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VinyViews(Views):
    """Image and label map at the model's size, resized by nearest neighbour; those of ``viny_pets`` are left alone.

    Attributes:
        flip, contrast: Drawn at every visit, for data sets that do not draw them once: 0.5 and 0.3.
    """

    flip: float = 0.0
    contrast: float = 0.0

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", "mask")

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        return prepared(sample, rng, spec.size, flip=self.flip, contrast=self.contrast)


class VinySegmentation(Objective):
    """A linear layer from each patch token to the classes of its pixels, trained with the backbone.

    Everything is decayed, but for the class token: it is not in the sequence, gets no gradient, and stays as it is.

    Args:
        backbone: A TokenBackbone with square patches.
        info: ``info.mask_classes`` gives the number of classes.
        rngs: Source of the initial values.
        pixel_softmax: Whether the log-softmax over pixels comes first. Without it this is an ordinary linear head.
        compute_dtype: Of the head's product, see the backbone's.

    Raises:
        ConfigError: A backbone that takes no tokens, a data set without pixel classes.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "mask": "uint8 B H W"}
    outputs = ("features", "seg_logits")
    couples_batch = True
    groups = (Group(match="backbone/cls_token", train=False),)
    views = VinyViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        pixel_softmax: bool = True,
        compute_dtype: str = "float32",
    ):
        if not info.mask_classes:
            raise ConfigError(f"data set {info.name!r} has no pixel classes", why="segmentation needs label maps")
        self.backbone, self.patch = token_backbone(backbone, "viny_segmentation"), backbone.stride[0]
        self.prefix_length, self.classes = prefix_length(backbone), len(info.mask_classes)
        self.pixel_softmax = pixel_softmax
        self.head = Linear(
            backbone.dim,
            self.classes * self.patch**2,
            rngs=rngs,
            kernel_init=initialisers.torch_uniform(backbone.dim),
            bias_init=initialisers.torch_uniform(backbone.dim),
            compute_dtype=dtype_of(compute_dtype),
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        features, labels = self._features(batch, ctx), batch["mask"].astype(jnp.int32)
        logits, valid = self._seg_logits(features), labels != IGNORE
        return Loss(
            value=pixel_cross_entropy(logits, labels, valid, normalise_by="valid"),
            metrics={
                "pixel_accuracy": pixel_accuracy(logits, labels, valid),
                "monitor": feature_std(features.summary),
            },
        )

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self._features(batch, ctx)
        return {"features": features} | ({"seg_logits": self._seg_logits(features)} if "seg_logits" in want else {})

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        count, *size, _ = batch["image"].shape
        grid = grid_of(batch["image"].shape, self.patch)
        patches = grid[0] * grid[1]
        # Without the prefix the sequence is as long as one of so many patches fewer with it.
        trunk = self.backbone.flops(tuple(size), kept=patches - self.prefix_length, train=True, images=count)
        return trunk + 3 * count * closed_form.linear(patches, *self.head.kernel.shape)

    def _features(self, batch: Batch, ctx: Context) -> Features:
        tokens = self.backbone.embed(batch["image"])
        return self.backbone.encode(dataclasses.replace(tokens, prefix=tokens.prefix[:, :0]), ctx)

    def _seg_logits(self, features: Features) -> Float[Array, "B H W K"]:
        count, (rows, columns), side = len(features.tokens), features.grid, self.patch
        y = self.head(features.tokens).reshape(count, rows, columns, self.classes, side, side)
        logits = y.transpose(0, 1, 4, 2, 5, 3).reshape(count, rows * side, columns * side, self.classes)
        return jax.nn.log_softmax(logits, axis=(1, 2)) if self.pixel_softmax else logits
