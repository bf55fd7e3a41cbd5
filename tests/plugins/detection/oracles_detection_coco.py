"""COCO's twelve figures from their definitions (Lin et al. 2014 and cocodataset.org), one detection at a time.

A truth is {"image", "category", "box" or "mask", "area", "crowd"}, a detection {"image", "category", "box" or "mask",
"score"}; boxes are (left, top, right, bottom), masks [H, W] of the image. ``area`` is the annotation's, or else that of
the shape, and ``crowd`` is False by default. Equal scores keep their order, and images come by ascending id.
"""

from __future__ import annotations

import numpy as np
import oracles_detection as oracle

THRESHOLDS = [float(value) for value in np.linspace(0.5, 0.95, 10)]
RECALLS = [float(value) for value in np.linspace(0.0, 1.0, 101)]
"""Of the protocol as floats, which decide equality: 7 / 100 does not reach the point 0.07000000000000001."""

EVERYTHING = (0.0, 1e10)
AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Both ends belong to a range: an area of exactly 32^2 is small and medium."""


def figures(truths, detections, *, shape="box"):
    """{"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}; -1 without a truth.

    AP: the mean over IoU thresholds .50, .55 ... .95, 101 points of recall, and categories with a truth that counts;
    AP50 and AP75 at one threshold; s, m and l over truths of these areas; all from the 100 best detections of each
    image and category. AR: the mean over thresholds and categories of the largest recall, from the 1, 10 or 100 best.
    """
    scenes = _scenes(truths, detections, shape)

    def curves(limits, most, thresholds=THRESHOLDS):
        found = [_curve(images, t, limits, most) for images in scenes.values() for t in thresholds]
        return [one for one in found if one is not None]

    def precision(chosen):
        return _mean([point for points, _ in chosen for point in points])

    def recall(chosen):
        return _mean([last for _, last in chosen])

    best = curves(EVERYTHING, 100)
    result = {
        "AP": precision(best),
        "AP50": precision(curves(EVERYTHING, 100, THRESHOLDS[:1])),
        "AP75": precision(curves(EVERYTHING, 100, THRESHOLDS[5:6])),
    }
    by_area = {name: curves(limits, 100) for name, limits in AREAS.items()}
    result |= {f"AP{name}": precision(chosen) for name, chosen in by_area.items()}
    result |= {"AR1": recall(curves(EVERYTHING, 1)), "AR10": recall(curves(EVERYTHING, 10)), "AR100": recall(best)}
    return result | {f"AR{name}": recall(chosen) for name, chosen in by_area.items()}


def _mean(values):
    return sum(values) / len(values) if values else -1.0


def size(one, shape):
    """Pixels in a shape."""
    return oracle.area(one["box"]) if shape == "box" else float(np.asarray(one["mask"], bool).sum())


def overlap(detection, truth, shape):
    """Intersection / union; for a crowd, intersection / the detection's own area."""
    if shape == "box":
        pairs = list(zip(detection["box"], truth["box"], strict=True))
        corner = [max(float(a), float(b)) for a, b in pairs[:2]]
        shared = oracle.area((*corner, *(min(float(a), float(b)) for a, b in pairs[2:])))
    else:
        shared = float((np.asarray(detection["mask"], bool) & np.asarray(truth["mask"], bool)).sum())
    if shared == 0:
        return 0.0
    own = size(detection, shape)
    return shared / own if truth.get("crowd") else shared / (own + size(truth, shape) - shared)


def _scenes(truths, detections, shape):
    """{category: [(truths, detections by score, their areas, overlaps)]}, of each image by ascending id."""
    scenes = {}
    for category in sorted({one["category"] for one in truths}):
        images = scenes[category] = []
        for image in sorted({one["image"] for one in [*truths, *detections]}):
            own = [one for one in truths if (one["image"], one["category"]) == (image, category)]
            found = [one for one in detections if (one["image"], one["category"]) == (image, category)]
            found.sort(key=lambda one: -one["score"])
            table = [[overlap(guess, truth, shape) for truth in own] for guess in found]
            known = [{"area": size(one, shape), **one} for one in own]
            images.append((known, found, [size(one, shape) for one in found], table))
    return scenes


def _curve(images, threshold, limits, most):
    """(101 precisions, the last recall) of one category at one threshold; None if no truth counts."""
    outcomes, total = [], 0
    for truths, guesses, areas, table in images:
        apart = [bool(one.get("crowd")) or not limits[0] <= one["area"] <= limits[1] for one in truths]
        total += len(apart) - sum(apart)
        outcomes += _outcomes(truths, apart, guesses[:most], areas, table, threshold, limits)
    if not total:
        return None
    outcomes.sort(key=lambda one: -one[0])
    points, right, wrong = [], 0, 0
    for _, hit in outcomes:
        right, wrong = right + hit, wrong + (not hit)
        points.append((right / total, right / (right + wrong)))
    # The precision at a recall is the best of those at this recall or a larger one; none reached, 0.
    curve = [max((precision for recall, precision in points if recall >= point), default=0.0) for point in RECALLS]
    return curve, right / total


def _outcomes(truths, apart, guesses, areas, table, threshold, limits):
    """[(score, whether it hits)] of an image's detections, without those that neither hit nor miss.

    By descending score, each takes the truth of largest overlap >= threshold that is still free: one that counts, else
    one that stands ``apart`` (a crowd, or of another area), which makes the detection not count. A crowd stays free. Of
    equal overlaps the last truth is taken. One that takes none is a miss, if its own area is within the limits.
    """
    taken, outcomes = set(), []
    for i, guess in enumerate(guesses):
        free = [
            j
            for j, truth in enumerate(truths)
            if (j not in taken or truth.get("crowd")) and table[i][j] >= min(threshold, 1 - 1e-10)
        ]
        choice = [j for j in free if not apart[j]] or free
        if choice:
            taken.add(max(choice, key=lambda j: (table[i][j], j)))
            if not apart[choice[0]]:
                outcomes.append((guess["score"], True))
        elif limits[0] <= areas[i] <= limits[1]:
            outcomes.append((guess["score"], False))
    return outcomes
