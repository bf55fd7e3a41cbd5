"""The checks of an evaluator, on predictions that are made from the labels and masks of the batch."""

from __future__ import annotations

import functools
import io
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image

from spendflops.contracts.backbone import IMAGENET_MEAN, IMAGENET_STD
from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.evaluator import INDEX, PICTURES, Evaluator, Opened, Preprocess
from spendflops.contracts.objective import OUTPUTS
from spendflops.contracts.types import Features, InputSpec
from spendflops.engine.describe import describe
from spendflops.engine.evaluate import Collected
from spendflops.engine.rundir import plain
from spendflops.testing.kit import CheckFailed, Skipped, needs
from spendflops.testing.model import context
from spendflops.testing.samples import KitData, differences

SPEC = InputSpec(size=(16, 16), stride=(4, 4), mean=IMAGENET_MEAN, std=IMAGENET_STD, tokenizer="builtin")
SPLITS = {"bank": "train"}
QUALITIES = ("perfect", "noisy", "worst")
CLOSE = 1e-5
PICTURE = 1 << 18
"""Bytes of the largest picture for reports: they hold several of several runs, and stay below 2 MB."""


class Subject:
    """An evaluator, samples for its roles, and predictions of three qualities."""

    def __init__(
        self,
        cls: type,
        *,
        options: Mapping[str, Any],
        dataset: Dataset | None = None,
        predict: Callable[..., Mapping[str, Any]] | None = None,
    ):
        self.options, self.cls = dict(options), cls
        self.dataset = dataset or KitData()
        self.predict = predict or self._made

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator."""
        return self.cls(**self.options)

    def _made(self, batch: Mapping[str, np.ndarray], quality: str) -> Mapping[str, Any]:
        return predictions(self.evaluator.requires, self.dataset, batch, quality)

    @functools.cached_property
    def supplied(self) -> dict[str, tuple[Dataset, str]]:
        """Data of the roles that the evaluator makes itself."""
        return dict(self.evaluator.supplies({r: (self.dataset, SPLITS.get(r, "test")) for r in self.evaluator.roles}))

    def data(self, role: str) -> tuple[Dataset, str]:
        """(data set, split) of a role."""
        return self.supplied.get(role, (self.dataset, SPLITS.get(role, "test")))

    def read(self, role: str) -> tuple[Preprocess, Source]:
        """The preprocessing of a role and the samples for it."""
        dataset, split = self.data(role)
        pre = self.evaluator.preprocess(role=role, info=dataset.info, spec=SPEC)
        return pre, dataset.source(split, features=pre.features)

    @property
    def opened(self) -> Opened:
        """Gives the samples of a role with the features asked for."""
        return lambda role, features: self.data(role)[0].source(self.data(role)[1], features=features)

    @functools.cached_property
    def examples(self) -> dict[str, tuple[list[dict[str, np.ndarray]], list[dict[str, Any]]]]:
        """Role -> what goes to the device of each example, and what stays on the host."""
        made = {}
        for role in self.evaluator.roles:
            pre, source = self.read(role)
            device, host = [], []
            for place in range(len(source)):
                entries = dict(pre(source[place]))
                host.append({name: entries.pop(name) for name in pre.kept} | {INDEX: np.int64(place)})
                device.append(entries)
            made[role] = device, host
        return made

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The evaluator's step, compiled."""
        return jax.jit(lambda predicted, batch: dict(self.evaluator.step(predicted, batch, context(train=False))))

    def collected(
        self,
        quality: str = "noisy",
        *,
        size: int = 16,
        order: Callable[[int], Sequence[int]] = range,
        dirty: bool = False,
    ) -> Collected:
        """What passes over all roles give.

        Args:
            quality: Of the predictions; those of a bank and of roles that the evaluator supplies are always perfect.
            size: Examples a batch.
            order: Number of examples -> the order in which they come.
            dirty: Fills rows of padding with nonsense.
        """
        collected = Collected()
        for role, (examples, beside) in self.examples.items():
            places = [int(i) for i in order(len(examples))]
            for start in range(0, len(places), size):
                real = places[start : start + size]
                mask = np.arange(size) < len(real)
                padded = real + [real[0]] * (size - len(real))
                batch = {name: np.stack([examples[i][name] for i in padded]) for name in examples[0]}
                host = {name: _objects([beside[i][name] for i in padded]) for name in beside[0]}
                host[INDEX] = host[INDEX].astype(np.int64)
                known = "perfect" if role == "bank" or role in self.supplied else quality
                predicted = self.predict({**batch, **host}, known)
                if dirty:
                    batch, predicted = _dirty(batch, mask), _dirty(predicted, mask)
                outputs = jax.device_get(self.step(predicted, {**batch, "_mask": mask}))
                collected.add(role, outputs, mask, host=host, evaluator=self.evaluator)
        return collected

    def scores(self, quality: str = "noisy", **how: Any) -> dict[str, float]:
        """What ``result`` gives; ``how`` as for :meth:`collected`."""
        collected = self.collected(quality, **how)
        return dict(self.evaluator.result(collected.metrics, collected.joined(), info=self.dataset.info))

    def files(self, **how: Any) -> dict[str, bytes]:
        """What ``files`` gives; ``how`` as for :meth:`collected`."""
        rows = self.collected(**how).joined()
        return dict(self.evaluator.files(rows, info=self.dataset.info, opened=self.opened))

    @functools.cached_property
    def reference(self) -> dict[str, float]:
        """Scores of noisy predictions."""
        return self.scores()


def _objects(values: Sequence[Any]) -> np.ndarray:
    """An array that holds each value as it is."""
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        made[place] = value
    return made


def _dirty(tree: Any, mask: np.ndarray) -> Any:
    def fill(x: Any) -> np.ndarray:
        x = np.array(x)
        x[~mask] = np.nan if x.dtype.kind == "f" else 200
        return x

    return jax.tree.map(fill, tree)


def predictions(requires: Sequence[str], dataset: Dataset, batch: Mapping[str, np.ndarray], quality: str) -> dict:
    """Outputs of a model that knows the labels, errs for some images, or always says the next class."""
    count = max(len(dataset.info.classes), len(dataset.info.mask_classes))
    shift = {"perfect": 0, "worst": 1, "noisy": batch["image"].sum(axis=(1, 2, 3), dtype=int) % 2}[quality]
    label = batch.get("label")
    pixels = batch.get("mask")
    if pixels is not None:
        # An ignored pixel gets some class.
        pixels = (np.where(pixels == 255, 0, pixels).astype(int) + np.reshape(shift, (-1, 1, 1))) % count
    if label is None:
        label = (np.median(batch["mask"], axis=(1, 2)) if "mask" in batch else np.zeros(len(batch["image"]))).astype(
            int
        )
    label = (label + shift) % count
    made: dict[str, Any] = {}
    for name in requires:
        if name == "logits":
            made[name] = 10 * np.eye(count, dtype=np.float32)[label]
        elif name == "seg_logits" and pixels is not None:
            made[name] = 10 * np.eye(count, dtype=np.float32)[pixels]
        elif name == "features":
            made[name] = _features(label, count, batch["image"])
        else:
            raise Skipped(f"the kit makes no {name} from labels or masks: pass predict=...")
    return made


def _features(label: np.ndarray, count: int, images: np.ndarray) -> Features:
    # A little of the image is in the features: without it neighbours would tie.
    own = [np.random.default_rng(int(x.sum())).normal(0, 0.02, (16, count)) for x in images]
    tokens = (np.eye(count)[label][:, None] + np.stack(own)).astype(np.float32)
    summary = tokens.mean(axis=1)
    return Features(tokens=tokens, prefix=summary[:, None], summary=summary, grid=(4, 4))


def builds(s: Subject) -> None:
    """It says what it requires, its roles, its primary score and a versioned protocol, the same for equal options."""
    e, other = s.evaluator, s.cls(**s.options)
    describe(e)
    if strange := [name for name in e.requires if name not in OUTPUTS]:
        raise CheckFailed(f"requires {strange[0]!r}", why=f"the table is {', '.join(OUTPUTS)}")
    if not re.match(r"[\w.-]+/\d+", e.protocol) or not e.primary:
        raise CheckFailed(f"protocol {e.protocol!r}, primary {e.primary!r}", fix="protocol = 'name/1:options'")
    if e.protocol != other.protocol:
        raise CheckFailed(
            f"equal options, two protocols: {e.protocol!r}, {other.protocol!r}", fix="derive it from them"
        )


def preprocess(s: Subject) -> None:
    """Every role's preprocessing gives what its ``entries`` and ``kept`` say, always the same, and can be pickled."""
    for role in s.evaluator.roles:
        pre, source = s.read(role)
        describe(pre)
        sample = source[0]
        given = pre(sample)
        if strange := sorted(set(pre.kept) - (set(given) - set(pre.entries))):
            raise CheckFailed(
                f"{role}: keeps {strange[0]!r}",
                why=f"it gives {', '.join(given)}, of which {', '.join(pre.entries)} go to the device",
                fix="an entry is in `entries` or in `kept`",
            )
        found = {name: (str(np.asarray(x).dtype), np.shape(x)) for name, x in given.items() if name not in pre.kept}
        stated = {name: (str(np.dtype(d)), tuple(shape)) for name, (d, shape) in pre.entries.items()}
        if found != stated or ("image" not in found and role not in s.supplied):
            raise CheckFailed(f"{role}: gives {found}, entries say {stated}")
        if bad := differences(given, pickle.loads(pickle.dumps(pre))(sample)):
            raise CheckFailed(f"{role}: another {bad[0]} the second time", fix="no randomness in an evaluation")


@needs("preprocess")
def scores(s: Subject) -> None:
    """``result`` gives finite numbers, the primary among them."""
    if s.evaluator.primary not in s.reference:
        raise CheckFailed(f"result() gives {', '.join(s.reference)}, primary is {s.evaluator.primary!r}")
    if bad := [name for name, x in s.reference.items() if not math.isfinite(float(x))]:
        raise CheckFailed(f"{bad[0]} is {s.reference[bad[0]]}", fix="leave out what cannot be computed")


@needs("scores")
def batch_size(s: Subject) -> None:
    """Sums over batches merge: batches of 5, 16 and 48 give the same scores."""
    for size in (5, 48):
        _same(s, s.scores(size=size), f"batches of {size} give", "return sums and counts from step(), never means")


@needs("scores")
def padding(s: Subject) -> None:
    """Rows of padding do not count, whatever is in them."""
    fix = "use batch['_mask'] with jnp.where in every metric (a product would keep NaN)"
    dirty = s.scores(size=20, dirty=True)
    _same(s, dirty, "nonsense in rows of padding gives", fix, reference=s.scores(size=20))


@needs("scores")
def order(s: Subject) -> None:
    """The order of the data does not change the scores."""
    shuffled = s.scores(order=lambda n: np.random.default_rng(0).permutation(n))
    _same(s, shuffled, "another order of the data gives", "keep nothing from one batch to the next but sums and rows")


@needs("scores")
def bounds(s: Subject) -> None:
    """Perfect predictions give 1 (0 for errors), better than noisy ones, and those better than wrong ones."""
    e = s.evaluator
    perfect, noisy, worst = (float(s.scores(q)[e.primary]) for q in QUALITIES)
    best, sign = (1, 1) if e.higher_is_better else (0, -1)
    if abs(perfect - best) > CLOSE:
        raise CheckFailed(f"perfect predictions give {perfect:g}, not {best}", fix="scores are parts, not percentages")
    if not sign * perfect > sign * noisy > sign * worst:
        raise CheckFailed(
            f"perfect {perfect:g}, noisy {noisy:g}, wrong {worst:g}", why=f"higher_is_better is {e.higher_is_better}"
        )


@needs("scores", "order")
def files(s: Subject) -> None:
    """Files have plain names, do not depend on batches and order, and pictures for reports are small ones."""
    if type(s.evaluator).files is Evaluator.files:
        return
    given = s.files()
    for name, content in given.items():
        if not plain(name) or not isinstance(content, bytes):
            raise CheckFailed(f"the file {name!r} is {type(content).__name__}", fix="bytes under a plain name")
        if re.fullmatch(PICTURES, name):
            _check_picture(name, content)
    other = s.files(size=5, order=lambda n: np.random.default_rng(0).permutation(n))
    if bad := sorted(name for name in {*given, *other} if given.get(name) != other.get(name)):
        raise CheckFailed(
            f"other batches and another order of the data give another {bad[0]}", fix=f"sort the rows by {INDEX!r}"
        )


def _check_picture(name: str, content: bytes) -> None:
    try:
        with PIL.Image.open(io.BytesIO(content)) as picture:
            picture.load()
            form = picture.format
    except OSError as error:
        raise CheckFailed(f"{name} is no picture", why=str(error)) from error
    if form != {".jpg": "JPEG", ".png": "PNG"}[name[-4:]] or len(content) > PICTURE:
        raise CheckFailed(f"{name} is {form} of {len(content):,} bytes", fix=f"its own format, at most {PICTURE:,}")


def _same(s: Subject, other: Mapping, what: str, fix: str, reference: Mapping[str, float] | None = None) -> None:
    for name, value in (reference or s.reference).items():
        if not abs(float(other.get(name, math.nan)) - float(value)) <= CLOSE * max(1.0, abs(float(value))):
            raise CheckFailed(f"{what} {name} = {other.get(name)}, not {value}", fix=fix)


CHECKS = (builds, preprocess, scores, batch_size, padding, order, bounds, files)
