"""Scores detections of made-up images as the core does: preprocessed, compiled steps, padded batches, compact rows."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.types import Context, DatasetInfo, InputSpec
from spendflops.engine.evaluate import Collected
from spendflops.parts.images import ArrayImage

CONTEXT = Context(key=jax.random.key(0), step=np.int32(0), steps=np.int32(1), train=False)


def scene(size, boxes=(), labels=None, **more):
    """A sample: an image of (height, width) and (left, top, right, bottom) of its objects."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int32) if labels is None else np.array(labels, np.int32)
    pixels = np.random.default_rng(len(boxes)).integers(0, 256, (*size, 3), dtype=np.uint8)
    return {"image": ArrayImage(pixels), "boxes": boxes, "box_labels": labels, **more}


def rectangles(size, boxes):
    """Masks that fill their boxes."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, np.asarray(boxes, int), strict=True):
        mask[top:bottom, left:right] = True
    return masks


@dataclasses.dataclass(frozen=True)
class _Source:
    samples: tuple
    features: tuple[str, ...]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return {name: self.samples[index][name] for name in self.features}


class Scenes(Dataset):
    """A data set of given samples."""

    def __init__(self, samples, *, classes=2, **info):
        self.samples = tuple(samples)
        names = tuple(f"class {i}" for i in range(classes))
        features = {name: "" for name in self.samples[0]}
        sizes = {"test": len(self.samples)}
        self.info = DatasetInfo(name="scenes", features=features, box_classes=names, sizes=sizes, **info)

    def source(self, split, *, features):
        return _Source(self.samples, tuple(features))


def guesses(boxes=(), scores=(), labels=None, *, room=None, masks=None):
    """Predictions for one image, on the canvas; unused rows are nonsense with score 0."""
    count = len(boxes)
    room = room or count + 2
    made = {
        "boxes": np.full((room, 4), 7.0, np.float32),
        "box_scores": np.zeros(room, np.float32),
        "box_labels": np.zeros(room, np.int32),
    }
    made["boxes"][:count] = np.array(boxes, np.float32).reshape(-1, 4)
    made["box_scores"][:count] = scores
    made["box_labels"][:count] = 0 if labels is None else labels
    if masks is not None:
        made["box_masks"] = np.zeros((room, *np.shape(masks)[1:]), np.float32)
        made["box_masks"][:count] = masks
    return made


def collect(evaluator, data, predictions, *, canvas, batch_size=2, order=None):
    """Rows of all images, in the order in which they came."""
    spec = InputSpec(size=canvas, stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
    preprocess = evaluator.preprocess(role="eval", info=data.info, spec=spec)
    source, step, collected = data.source("test", features=preprocess.features), jax.jit(evaluator.step), Collected()
    order = list(range(len(source)) if order is None else order)
    for start in range(0, len(order), batch_size):
        real = order[start : start + batch_size]
        places = real + [real[0]] * (batch_size - len(real))
        entries = [preprocess(source[i]) for i in places]
        host = {"truth": np.empty(batch_size, object), "_index": np.array(places)}
        for row, entry in enumerate(entries):
            host["truth"][row] = entry.pop("truth")
        mask = np.arange(batch_size) < len(real)
        batch = {name: np.stack([entry[name] for entry in entries]) for name in entries[0]}
        given = jax.tree.map(lambda *x: np.stack(x), *(predictions[i] for i in places))
        outputs = jax.device_get(step(given, {**batch, "_mask": mask}, CONTEXT))
        collected.add("eval", outputs, mask, host=host, evaluator=evaluator)
    return collected.joined()


def score(evaluator, data, predictions, **how):
    """The figures."""
    return evaluator.result({"eval": {}}, collect(evaluator, data, predictions, **how), info=data.info)


def kept(evaluator, data, predictions, **how):
    """The files."""
    rows = collect(evaluator, data, predictions, **how)
    return evaluator.files(rows, info=data.info, opened=lambda role, features: data.source("test", features=features))
