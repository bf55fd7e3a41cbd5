"""Random scenes: several sizes and classes, crowds, images without objects, canvases that shrink and enlarge."""

from __future__ import annotations

import numpy as np
import scorelib as lib

CANVAS = (400, 400)

SIZES = [(90, 120), (400, 300), (64, 64), (131, 57)]


def ellipse(size, box):
    """A mask within a box."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    middle, radius = np.add(box[:2], box[2:]) / 2, np.subtract(box[2:], box[:2]) / 2
    return ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 <= 1


def drawn(rng, size, near=None):
    """A box with integer corners: anywhere, or close to another."""
    low, high = np.zeros(2), np.array(size[::-1])
    if near is not None:
        box = np.round(near + rng.normal(0, 2.5, 4))
        low, high = np.clip(np.minimum(box[:2], box[2:]), low, high - 4), np.maximum(box[:2], box[2:])
        return np.concatenate([low, np.maximum(low + 3, np.minimum(high, size[::-1]))])
    corner = rng.integers(0, high - 8)
    return np.concatenate([corner, np.minimum(corner + rng.integers(6, 1 + high // 2), high)]).astype(float)


def scenes(seed, count=12, classes=3, *, federated=False, **more):
    """(data, predictions on the canvas, what the oracle reads); federated ones have no crowds, but classes that images
    were not searched for."""
    rng = np.random.default_rng(seed)
    samples, predictions, images = [], [], []
    for index in range(count):
        size = SIZES[index % len(SIZES)]
        true = [drawn(rng, size) for _ in range(rng.integers(0, 5))]
        labels, crowd = rng.integers(0, classes, len(true)), rng.random(len(true)) < (0 if federated else 0.15)
        masks = np.stack([ellipse(size, box) for box in true]) if true else np.zeros((0, *size), bool)
        area = masks.sum(axis=(1, 2)).astype(np.float32)
        about = np.repeat(np.arange(len(true)), rng.integers(0, 3, len(true)))
        strays = int(rng.integers(0, 3))
        found = [drawn(rng, size, true[i]) for i in about] + [drawn(rng, size) for _ in range(strays)]
        found = np.array(found).reshape(-1, 4)
        said = np.concatenate([labels[about], rng.integers(0, classes, strays)]).astype(int)
        said = np.where(rng.random(len(said)) < 0.85, said, rng.integers(0, classes, len(said)))
        scores = rng.permutation(np.linspace(0.05, 0.95, len(found)) + 0.001 * index).astype(np.float32)
        scale = min(CANVAS[0] / size[0], CANVAS[1] / size[1])
        factor = np.array([int(side * scale + 0.5) / side for side in (*size[::-1], *size[::-1])])
        ones = np.ones((len(found), 28, 28), np.float32)
        predictions.append(lib.guesses(found * factor, scores, said, room=12, masks=ones))
        sample = {"area": area, "instance_masks": masks, "image_id": 1000 - 7 * index}
        image = {"size": size, "true": (true, labels, crowd, area, masks), "found": (found, scores, said)}
        if federated:
            absent = np.setdiff1d(np.arange(classes), labels)
            image |= {
                "negative": absent[rng.random(len(absent)) < 0.4],
                "open": np.flatnonzero(rng.random(classes) < 0.3),
            }
            sample |= {"neg_labels": image["negative"].astype(np.int32), "open_labels": image["open"].astype(np.int32)}
        else:
            sample["crowd"] = crowd
        samples.append(lib.scene(size, true, labels, **sample))
        images.append(image)
    return lib.Scenes(samples, classes=classes, **more), predictions, images


def as_read(images, kind):
    """(truths, detections) for the oracle, images numbered in the order of their ids; predicted masks fill their boxes.

    Where not all objects of a class are marked, its unmatched detections are ignored: as if all of the image were a
    crowd of it. Those of classes that are neither there nor known to be absent are left out.
    """
    truths, detections = [], []
    for place, image in enumerate(reversed(images)):
        boxes, labels, crowd, area, masks = image["true"]
        found, scores, said = image["found"]
        everything = [0, 0, *image["size"][::-1]]
        true = list(zip(boxes, masks, labels, area, crowd, strict=True))
        true += [(everything, np.ones(image["size"], bool), label, 1, True) for label in image.get("open", ())]
        known = {*labels, *image["negative"]} if "negative" in image else set(said)
        guessed = zip(found, lib.rectangles(image["size"], found), said, scores, strict=True)
        for box, mask, label, size, many in true:
            shape = {"box": box} if kind == "box" else {"mask": mask}
            truths.append({"image": place, "category": int(label), "area": float(size), "crowd": bool(many), **shape})
        for box, mask, label, value in (one for one in guessed if one[2] in known):
            shape = {"box": box} if kind == "box" else {"mask": mask}
            detections.append({"image": place, "category": int(label), "score": float(value), **shape})
    return truths, detections


def named(figures, kind):
    """The oracle's figures under the names of the evaluators, without those for which no object counts."""
    sizes = {"s": "_small", "m": "_medium", "l": "_large"}
    return {
        f"{kind}_{name[:2].lower()}{sizes.get(name[2:], name[2:])}": value
        for name, value in figures.items()
        if value >= 0
    }
