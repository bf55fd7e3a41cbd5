"""Sound plugins, small enough to be compiled in a second, and for every check of the kit one with a planted bug.

Keys are (group, check); ``ALSO`` lists the other checks that a bug cannot but break as well.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from flax import nnx

from spendflops.contracts import errors
from spendflops.contracts.backbone import TokenBackbone
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import DatasetInfo, FeatureMap, Features, Loss, Stat, Tokens
from spendflops.parts import closed_form, images
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.patches import patchify
from spendflops.parts.preprocess import Resize

BUGS: dict[tuple[str, str], type] = {}
ALSO = {("objectives", "repeats"): {"resumes"}}


def bug(group: str, check: str):
    """Registers a class as the one that ``check`` must catch."""

    def register(cls: type) -> type:
        BUGS[group, check] = cls
        return cls

    return register


class Patches(TokenBackbone):
    """Linear patch embeddings and one residual layer."""

    def __init__(self, *, rngs: nnx.Rngs, compute_dtype: str = "float32"):
        self.dim, self.stride, self.image_size = 8, (8, 8), (16, 16)
        self.first = Linear(192, 8, rngs=rngs, compute_dtype=_dtype(compute_dtype))
        self.second = Linear(8, 8, rngs=rngs, compute_dtype=_dtype(compute_dtype))
        self.prefix = nnx.Param(jnp.full((1, 1, 8), 0.1))

    def embed(self, images):
        pixels = self.normalise(images) if jnp.issubdtype(images.dtype, jnp.integer) else images
        grid = (images.shape[1] // 8, images.shape[2] // 8)
        pos = np.sin(np.arange(grid[0] * grid[1])[:, None] + np.arange(8)).astype(np.float32)[None]
        return Tokens(x=self.first(patchify(pixels, 8)), pos=jnp.asarray(pos), prefix=self.prefix[...], grid=grid)

    def encode(self, tokens, ctx, *, levels=()):
        x = tokens.x + tokens.pos
        x = x + jnp.tanh(self.second(x))
        prefix = jnp.broadcast_to(tokens.prefix, (len(x), 1, 8)) + x.mean(axis=1, keepdims=True)
        maps = tuple(FeatureMap(tokens=x, grid=tokens.grid, stride=8) for _ in levels)
        return Features(tokens=x, prefix=prefix, summary=prefix[:, 0], grid=tokens.grid, levels=maps)

    def flops(self, size=None, *, kept=None, train=False, images=1):
        height, width = size or self.image_size
        count = images * (height // 8) * (width // 8)
        first, second = closed_form.linear(count, 3 * 8 * 8, 8), closed_form.linear(count, 8, 8)
        return 2 * first + 3 * second if train else first + second


_dtype = compute_dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Views):
    """The image and its label."""

    @property
    def features(self):
        return ("image", "label")

    def __call__(self, sample, rng, spec):
        image = images.random_flip(images.resize(sample["image"].decode(), spec.size, "bilinear"), rng)
        return {"image": image, "label": np.int32(sample["label"])}


class Sound(Objective):
    """A classifier on noisy features that counts its steps."""

    inputs: ClassVar = {"image": "uint8 B H W C", "label": "int32 B"}
    outputs = ("features", "logits")
    views = Whole

    def __init__(self, backbone, *, info, rngs, compute_dtype: str = "float32"):
        self.backbone = backbone
        self.head = Linear(backbone.dim, len(info.classes), rngs=rngs, compute_dtype=_dtype(compute_dtype))
        self.seen = Stat(jnp.zeros(()))

    def loss(self, batch, targets, ctx):
        self.seen.set_value(self.seen[...] + 1)
        x = self.backbone(batch["image"], ctx).summary
        value = self.value(x + 0.01 * self.noise(x, ctx), batch["label"]) + self.distance(x, targets)
        return Loss(value=value, metrics={"monitor": jnp.std(x)})

    def distance(self, x, targets):
        return 0.0

    def noise(self, x, ctx):
        return jax.random.normal(ctx.fork("noise"), x.shape)

    def value(self, x, label):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(self.head(x)), label[:, None], axis=1))

    def predict(self, batch, ctx, *, want):
        features = self.backbone(batch["image"], ctx)
        return {"features": features, "logits": self.head(features.summary)}

    def closed_form(self, batch):
        images, *size = batch["image"].shape[:3]
        head = closed_form.linear(images, *self.head.kernel.shape)
        return self.backbone.flops(tuple(size), train=True, images=images) + 3 * head


class Taught(Sound):
    """Also follows an EMA copy of its backbone."""

    teacher = ("backbone",)

    def targets(self, batch, ctx):
        return self.backbone(batch["image"], ctx).summary

    def distance(self, x, targets):
        return jnp.mean(jnp.square(x - targets))

    def teacher_decay(self, ctx):
        return jnp.float32(0.9)

    def closed_form(self, batch):
        images, *size = batch["image"].shape[:3]
        return super().closed_form(batch) + self.backbone.flops(tuple(size), images=images)


# ---- objectives


@bug("objectives", "builds")
class NoBackbone(Sound):
    def __init__(self, backbone, *, info, rngs):
        self.net = backbone


@bug("objectives", "described")
class Opaque(Sound):
    kit_options: ClassVar = {"rule": object()}

    def __init__(self, backbone, *, info, rngs, rule=None):
        super().__init__(backbone, info=info, rngs=rngs)


@bug("objectives", "no_random_state")
class Stream(Sound):
    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.stream = Stat(jax.random.key(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatViews(Whole):
    def __call__(self, sample, rng, spec):
        given = super().__call__(sample, rng, spec)
        return {**given, "image": given["image"] / 255}


@bug("objectives", "views")
class Floats(Sound):
    views = FloatViews


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalViews(Whole):
    def __call__(self, sample, rng, spec):
        given = super().__call__(sample, rng, spec)
        return {**given, "image": given["image"][:, :: 1 if random.random() < 0.5 else -1]}


@bug("objectives", "views_pure")
class GlobalFlip(Sound):
    views = GlobalViews


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoreViews(Whole):
    def __call__(self, sample, rng, spec):
        return {**super().__call__(sample, rng, spec), "extra": np.float32(1)}


@bug("objectives", "inputs")
class Unread(Sound):
    inputs: ClassVar = {**Sound.inputs, "extra": "float32 B"}
    views = MoreViews


@bug("objectives", "loss")
class Root(Sound):
    def value(self, x, label):
        return super().value(x, label) + jnp.sqrt(jnp.sum(0 * x))


@bug("objectives", "repeats")
class Clock(Sound):
    scales = itertools.count(1)

    def value(self, x, label):
        return super().value(x, label) * (1 + 1e-3 * next(self.scales))


@bug("objectives", "randomness")
class SameNoise(Sound):
    def noise(self, x, ctx):
        return jax.random.normal(jax.random.key(0), x.shape)


@bug("objectives", "state_kept")
class Widens(Sound):
    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.seen = Stat(jnp.zeros((), jnp.int32))

    def loss(self, batch, targets, ctx):
        loss = super().loss(batch, targets, ctx)
        self.seen.set_value(self.seen[...] + 0.5)
        return loss


@bug("objectives", "gradients")
class Idle(Sound):
    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.unused = Linear(8, 8, rngs=rngs)


@bug("objectives", "teacher")
class Deaf(Taught):
    def targets(self, batch, ctx):
        return jnp.zeros((len(batch["image"]), 8))


@bug("objectives", "targets_state")
class Centred(Taught):
    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.centre = Stat(jnp.zeros((8,)))

    def targets(self, batch, ctx):
        x = super().targets(batch, ctx)
        self.centre.set_value(x.mean(axis=0))
        return x


@bug("objectives", "couples_batch")
class BatchStatistics(Sound):
    def value(self, x, label):
        return super().value((x - x.mean(axis=0)) / (x.std(axis=0) + 0.1), label)


@bug("objectives", "accumulates")
class Counts(Sound):
    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.seen = Stat(jnp.zeros((), jnp.int32))

    def loss(self, batch, targets, ctx):
        loss = super().loss(batch, targets, ctx)
        self.seen.set_value(self.seen[...] + len(batch["image"]))
        return loss


@bug("objectives", "learns")
class Uphill(Sound):
    def value(self, x, label):
        value = super().value(x, label)
        return 2 * jax.lax.stop_gradient(value) - value


@bug("objectives", "devices")
class PerDevice(Sound):
    def value(self, x, label):
        return super().value(x, label) * jax.device_count()


@bug("objectives", "bfloat16")
class Scaled(Sound):
    def __init__(self, backbone, *, info, rngs, compute_dtype: str = "float32"):
        super().__init__(backbone, info=info, rngs=rngs)
        self.narrow = compute_dtype == "bfloat16"

    def value(self, x, label):
        return super().value(x, label) * (0.9 if self.narrow else 1)


@bug("objectives", "resumes")
class Births(Sound):
    born = itertools.count()

    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.order = next(self.born)

    def value(self, x, label):
        return super().value(x, label) * (1 + 1e-3 * self.order)


@bug("objectives", "flops_batch")
class AllPairs(Sound):
    def value(self, x, label):
        return super().value(x, label) + 1e-3 * jnp.mean(jnp.diag(x @ x.T))


@bug("objectives", "flops_compiled")
class Twice(Sound):
    def loss(self, batch, targets, ctx):
        return Loss(value=super().loss(batch, targets, ctx).value + super().loss(batch, targets, ctx).value)


@bug("objectives", "flops_closed_form")
class ForgetsTheTeacher(Taught):
    def closed_form(self, batch):
        return Sound.closed_form(self, batch)


@bug("objectives", "predict")
class Silent(Sound):
    def predict(self, batch, ctx, *, want):
        return {"features": self.backbone(batch["image"], ctx)}


# ---- backbones


@bug("backbones", "builds")
class NoStride(Patches):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.stride = 8


@bug("backbones", "parameters")
class Half(Patches):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.prefix = nnx.Param(jnp.full((1, 1, 8), 0.1, jnp.float16))


@bug("backbones", "shapes")
class NoGrid(Patches):
    def encode(self, tokens, ctx, *, levels=()):
        return dataclasses.replace(super().encode(tokens, ctx, levels=levels), grid=None)


@bug("backbones", "levels")
class OneLevel(Patches):
    def encode(self, tokens, ctx, *, levels=()):
        return super().encode(tokens, ctx, levels=levels[:1])


@bug("backbones", "pixels")
class NormalisesTwice(Patches):
    def embed(self, images):
        return super().embed(self.normalise(images))


@bug("backbones", "independent")
class AlwaysDrops(Patches):
    def encode(self, tokens, ctx, *, levels=()):
        kept = jax.random.bernoulli(ctx.fork("drop"), 0.5, tokens.prefix.shape)
        return super().encode(dataclasses.replace(tokens, prefix=tokens.prefix * kept), ctx, levels=levels)


@bug("backbones", "gradients")
class Spare(Patches):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.spare = Linear(8, 8, rngs=rngs)


@bug("backbones", "embed_encode")
class Shortcut(Patches):
    def __call__(self, images, ctx, *, levels=()):
        features = super().__call__(images, ctx, levels=levels)
        return dataclasses.replace(features, summary=2 * features.summary)


@bug("backbones", "permutation")
class ByPlace(Patches):
    def encode(self, tokens, ctx, *, levels=()):
        place = jnp.arange(tokens.x.shape[1], dtype=jnp.float32)[:, None]
        return super().encode(dataclasses.replace(tokens, x=tokens.x + place), ctx, levels=levels)


@bug("backbones", "subset_cost")
class AlwaysWhole(Patches):
    def encode(self, tokens, ctx, *, levels=()):
        count = tokens.x.shape[1]
        full = jnp.pad(tokens.x, ((0, 0), (0, 4 - min(count, 4)), (0, 0)))
        extra = 1e-3 * self.second(full)[:, :count]
        return super().encode(dataclasses.replace(tokens, x=tokens.x + extra), ctx, levels=levels)


@bug("backbones", "sizes")
class FixedSize(Patches):
    def embed(self, images):
        return super().embed(images[:, :16, :16])


@bug("backbones", "bfloat16")
class Rounds(Patches):
    def __init__(self, *, rngs, compute_dtype: str = "float32"):
        super().__init__(rngs=rngs)
        self.narrow = compute_dtype == "bfloat16"

    def encode(self, tokens, ctx, *, levels=()):
        given = super().encode(tokens, ctx, levels=levels)
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), given) if self.narrow else given


# ---- data sets


@dataclasses.dataclass(frozen=True)
class Dots:
    """Samples of a split."""

    split: str
    shift: int
    names: tuple[str, ...]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if not 0 <= index < 12:
            raise IndexError(index)
        pixels = np.random.default_rng([self.shift, index]).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        sample = {"image": images.ArrayImage(pixels), "label": index % 2, "mask": np.full((8, 9), index % 2, np.uint8)}
        sample |= {"boxes": np.array([[1, 0, 9, 8]], np.float32), "box_labels": np.array([index % 2], np.int32)}
        return {name: sample[name] for name in self.names}


class SoundData(Dataset):
    """Random images."""

    made = Dots
    info = DatasetInfo(
        name="dots",
        features={
            "image": "uint8 H W C",
            "label": "int32",
            "mask": "uint8 H W",
            "boxes": "float32 M 4",
            "box_labels": "int32 M",
        },
        classes=("a", "b"),
        mask_classes=("a", "b"),
        box_classes=("a", "b"),
        sizes={"train": 12, "test": 12},
    )

    def source(self, split, *, features):
        if split not in self.info.sizes:
            raise errors.DataError(f"no split {split!r}")
        if unknown := set(features) - set(self.info.features):
            raise errors.ConfigError(f"no feature {unknown}")
        return self.made(split, 0 if split == "train" else 1, tuple(features))


@bug("datasets", "builds")
class Nameless(SoundData):
    info = dataclasses.replace(SoundData.info, name="")


@bug("datasets", "access")
class Shorter(SoundData):
    info = dataclasses.replace(SoundData.info, sizes={"train": 13, "test": 12})


class LongLabels(Dots):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": np.float32(1)}


@bug("datasets", "features")
class FloatLabels(SoundData):
    made = LongLabels


class CountingDots(Dots):
    count = itertools.count()

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": next(self.count) % 2}


@bug("datasets", "repeats")
class Counting(SoundData):
    made = CountingDots


class GlobalDots(Dots):
    def __getitem__(self, index):
        np.random.random()
        return super().__getitem__(index)


@bug("datasets", "global_rng")
class Global(SoundData):
    made = GlobalDots


class FromOne(Dots):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": 1 + index % 2}


@bug("datasets", "labels")
class LabelsFromOne(SoundData):
    made = FromOne


class SmallMasks(Dots):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "mask": np.zeros((4, 4), np.uint8)}


@bug("datasets", "masks")
class Shrunk(SoundData):
    made = SmallMasks


class Sized(Dots):
    def __getitem__(self, index):
        # Left, top, width, height.
        return {**super().__getitem__(index), "boxes": np.array([[8, 1, 1, 7]], np.float32)}


@bug("datasets", "boxes")
class WidthsForEdges(SoundData):
    made = Sized


@bug("datasets", "splits")
class Leaky(SoundData):
    def source(self, split, *, features):
        return dataclasses.replace(super().source(split, features=features), shift=0)


@bug("datasets", "refuses")
class Careless(SoundData):
    def source(self, split, *, features):
        return self.made(split, 0 if split == "train" else 1, tuple(features))


# ---- evaluators


class SoundScore(Evaluator):
    """Accuracy."""

    requires = ("logits",)
    roles = ("eval",)
    protocol = "sound/1"
    primary = "accuracy"

    def preprocess(self, *, role, info, spec):
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="sound")

    def step(self, predictions, batch, ctx):
        hits = (predictions["logits"].argmax(axis=-1) == batch["label"]) & batch["_mask"]
        return {"metrics": {"hits": hits.sum(), "count": batch["_mask"].sum()}, "rows": {}}

    def result(self, merged, rows, *, info):
        return {"accuracy": merged["eval"]["hits"] / merged["eval"]["count"]}


@bug("evaluators", "builds")
class Unversioned(SoundScore):
    protocol = "sound"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wobbly(Resize):
    def __call__(self, sample):
        given = super().__call__(sample)
        return {**given, "image": given["image"] ^ np.uint8(np.random.randint(1, 200))}


@bug("evaluators", "preprocess")
class RandomPreprocess(SoundScore):
    def preprocess(self, *, role, info, spec):
        return Wobbly.of(info=info, spec=spec, read=("image", "label"), asker="sound")


@bug("evaluators", "scores")
class OtherName(SoundScore):
    primary = "top1"


@bug("evaluators", "batch_size")
class MeanOfMeans(SoundScore):
    def step(self, predictions, batch, ctx):
        sums = super().step(predictions, batch, ctx)["metrics"]
        return {"metrics": {"hits": sums["hits"] / sums["count"], "count": 1.0}, "rows": {}}


@bug("evaluators", "padding")
class CountsPadding(SoundScore):
    def step(self, predictions, batch, ctx):
        sums = super().step(predictions, batch, ctx)["metrics"]
        finite = jnp.isfinite(predictions["logits"]).all().astype(jnp.int32)
        return {"metrics": {**sums, "hits": sums["hits"] * finite}, "rows": {}}


@bug("evaluators", "order")
class LastCounts(SoundScore):
    def step(self, predictions, batch, ctx):
        hits = predictions["logits"].argmax(axis=-1) == batch["label"]
        return {**super().step(predictions, batch, ctx), "rows": {"hit": hits}}

    def result(self, merged, rows, *, info):
        weights = np.arange(len(rows["eval"]["hit"]))
        return {"accuracy": float((rows["eval"]["hit"] * weights).sum() / weights.sum())}


@bug("evaluators", "bounds")
class Percent(SoundScore):
    def result(self, merged, rows, *, info):
        return {"accuracy": 100 * super().result(merged, rows, info=info)["accuracy"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside(Resize):
    """As many marks as the label says, on the host."""

    @property
    def kept(self):
        return ("marks",)

    def __call__(self, sample):
        return {**super().__call__(sample), "marks": ["mark"] * int(sample["label"])}


_FILE = io.BytesIO()
PIL.Image.new("RGB", (2, 2)).save(_FILE, "PNG")
PNG = _FILE.getvalue()


class SoundHost(SoundScore):
    """Accuracy from what stays on the host, with a picture and a list."""

    def preprocess(self, *, role, info, spec):
        return Beside.of(info=info, spec=spec, read=("image", "label"), asker="sound")

    def step(self, predictions, batch, ctx):
        return {"metrics": {}, "rows": {"logits": predictions["logits"]}}

    def compact(self, role, rows):
        said = np.array([len(marks) for marks in rows["marks"]])
        return {"hit": rows["logits"].argmax(axis=-1) == said, "_index": rows["_index"]}

    def result(self, merged, rows, *, info):
        return {"accuracy": rows["eval"]["hit"].mean()}

    def files(self, rows, *, info, opened):
        hits = rows["eval"]["hit"][np.argsort(rows["eval"]["_index"])]
        assert opened("eval", ("label",))[0].keys() == {"label"}
        return {"hits.txt": bytes(hits), "example_0.png": PNG}


@bug("evaluators", "files")
class InTheirOrder(SoundHost):
    def files(self, rows, *, info, opened):
        return {"hits.txt": bytes(rows["eval"]["hit"])}


SOUND = {
    "objectives": (Taught,),
    "backbones": (Patches,),
    "datasets": (SoundData,),
    "evaluators": (SoundScore, SoundHost),
}
