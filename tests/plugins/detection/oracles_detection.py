"""Boxes, anchors, matching and suppression of two-stage detectors from their definitions, one box at a time.

A box is (left, top, right, bottom) in pixels; right and bottom are exclusive, so a side is right - left, without + 1.
Nothing of the library is imported, and nothing is vectorised: slow, and hard to get wrong in the same way. "detectron2"
stands for the published code of ViTDet (Li et al. 2022).
"""

from __future__ import annotations

import math

import numpy as np

CLAMP = math.log(1000 / 16)
"""The largest dw and dh that are decoded: no side grows by more than 62.5 times (detectron2)."""


def area(box):
    """(right - left) (bottom - top); 0 if a side is not positive."""
    left, top, right, bottom = (float(value) for value in box)
    return max(0.0, right - left) * max(0.0, bottom - top)


def iou(a, b):
    """Area of the intersection / (area a + area b - intersection); 0 where they do not meet, or both are empty."""
    left, top = max(float(a[0]), float(b[0])), max(float(a[1]), float(b[1]))
    right, bottom = min(float(a[2]), float(b[2])), min(float(a[3]), float(b[3]))
    shared = area((left, top, right, bottom))
    return shared / (area(a) + area(b) - shared) if shared > 0 else 0.0


def clip(box, height, width):
    """The part of a box within an image: x in [0, width], y in [0, height]."""
    left, top, right, bottom = (float(value) for value in box)
    return (
        min(max(left, 0.0), width),
        min(max(top, 0.0), height),
        min(max(right, 0.0), width),
        min(max(bottom, 0.0), height),
    )


def _centred(box):
    """(x, y, width, height) of a box, x and y being its centre."""
    left, top, right, bottom = (float(value) for value in box)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def encode(box, truth, weights=(1, 1, 1, 1)):
    """The deltas that lead from ``box`` to ``truth`` (Ren et al. 2015, equation 2), each times its weight.

    dx = wx (x* - x) / w, dy = wy (y* - y) / h, dw = ww log(w* / w), dh = wh log(h* / h).
    """
    x, y, w, h = _centred(box)
    x_true, y_true, w_true, h_true = _centred(truth)
    wx, wy, ww, wh = weights
    return wx * (x_true - x) / w, wy * (y_true - y) / h, ww * math.log(w_true / w), wh * math.log(h_true / h)


def decode(deltas, box, weights=(1, 1, 1, 1), clamp=CLAMP):
    """The box that deltas lead to, the inverse of ``encode``; dw and dh, after their weights, are at most ``clamp``."""
    x, y, w, h = _centred(box)
    dx, dy, dw, dh = (float(delta) / weight for delta, weight in zip(deltas, weights, strict=True))
    x, y = x + dx * w, y + dy * h
    w, h = w * math.exp(min(dw, clamp)), h * math.exp(min(dh, clamp))
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def anchors(rows, columns, stride, size, *, ratios=(0.5, 1.0, 2.0), offset=0.0):
    """[rows x columns x ratios] anchors of one level, in the order row, column, ratio (Ren et al. 2015, 3.1.1).

    Each has the area size^2 and height / width = ratio, about the centre ((column + offset) stride, (row + offset)
    stride). ViTDet's offset is 0 (detectron2), so that the centres lie on corners of cells.
    """
    found = []
    for row in range(rows):
        for column in range(columns):
            for ratio in ratios:
                width = math.sqrt(size * size / ratio)
                height = ratio * width
                x, y = (column + offset) * stride, (row + offset) * stride
                found.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return found


def match(boxes, truths, valid, low, high, low_quality):
    """``(index, label)`` of each box: its truth of largest IoU, and 1, 0 or -1 (Ren et al. 2015, 3.1.2).

    Args:
        boxes: [N][4].
        truths: [M][4], of which those that are not ``valid`` [M] are padding.
        valid: [M], whether each truth is one.
        low: IoU below which a box is negative, 0.
        high: IoU from which a box is positive, 1. Between them it is ignored, -1. For RoIs, low = high = 0.5.
        low_quality: Whether every box that ties for the largest IoU (> 0) of a valid truth is positive too. Its index
            stays that of its own best truth, which may be another one (detectron2).

    Of truths with equal IoU the first is taken. Without a valid truth every index is 0 and every label 0.
    """
    known = [j for j in range(len(truths)) if valid[j]]
    table = [[iou(box, truths[j]) for j in known] for box in boxes]
    index, label = [], []
    for row in table:
        best = max(row, default=0.0)
        index.append(known[row.index(best)] if known else 0)
        label.append(1 if best >= high else 0 if best < low else -1)
    if low_quality and len(boxes):
        for column in zip(*table, strict=True):
            best = max(column)
            for i, value in enumerate(column):
                if value == best > 0:
                    label[i] = 1
    return index, label


def sample_counts(labels, samples, fraction):
    """(positives, negatives) in the sample of an image: at most ``fraction`` positive, negatives fill up the rest.

    min(positives there are, floor(fraction samples)), then min(negatives there are, samples - positives) (detectron2).
    """
    positives = min(sum(label == 1 for label in labels), int(samples * fraction))
    return positives, min(sum(label == 0 for label in labels), samples - positives)


def nms(boxes, scores, threshold, *, classes=None, valid=None):
    """Indices that greedy suppression keeps, best first: a box goes if its IoU with a better kept one is > threshold.

    Of equal scores the lower index is the better. With ``classes`` only boxes of one class (or level) suppress each
    other. Boxes that are not ``valid`` are neither kept nor suppress.
    """
    order = [i for i in range(len(boxes)) if valid is None or valid[i]]
    order.sort(key=lambda i: (-float(scores[i]), i))
    kept = []
    for i in order:
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept


def proposals(levels, height, width, *, before, after, threshold=0.7):
    """[(level, index, box, score)] of the RPN's best boxes in one image, best first (detectron2).

    ``levels`` holds (boxes, scores) by level. Of each the ``before`` best by score, clipped to the image, without those
    that became empty; suppression within each level; of what is left on all levels, the ``after`` best. Of equal
    scores the lower level, then the lower index, is the better.
    """
    found = []
    for number, (boxes, scores) in enumerate(levels):
        best = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))[:before]
        found += [(number, i, clip(boxes[i], height, width), float(scores[i])) for i in best]
    found = [one for one in found if area(one[2]) > 0]
    kept = nms([one[2] for one in found], [one[3] for one in found], threshold, classes=[one[0] for one in found])
    return [found[i] for i in kept[:after]]


def detections(scores, boxes, height, width, *, minimum=0.05, threshold=0.5, most=100, valid=None):
    """[(RoI, class, box, score)] that a box head answers with, best first (detectron2).

    Args:
        scores: [R][C] probabilities of the foreground classes.
        boxes: [R][4], or [R][C][4] if they are specific to a class; they are clipped to the image.
        height: Of the image.
        width: Of the image.
        minimum: Only scores greater than this count.
        threshold: IoU above which the better of two boxes of one class suppresses the other.
        most: Detections that an image may have.
        valid: [R], RoIs that are no padding.

    Every pair of RoI and class is a detection of its own. Of equal scores the lower RoI, then the lower class.
    """
    found = []
    for r, row in enumerate(scores):
        for c, score in enumerate(row):
            if score > minimum and (valid is None or valid[r]):
                box = boxes[r][c] if np.ndim(boxes[r]) == 2 else boxes[r]
                found.append((r, c, clip(box, height, width), float(score)))
    kept = nms([one[2] for one in found], [one[3] for one in found], threshold, classes=[one[1] for one in found])
    return [found[i] for i in kept[:most]]


def level(box, *, lowest=2, highest=5):
    """The pyramid level of a RoI: floor(4 + log2(sqrt(area) / 224 + 1e-8)), within [lowest, highest].

    Lin et al. 2017, equation 1; the 1e-8 is detectron2's.
    """
    return min(max(math.floor(4 + math.log2(math.sqrt(area(box)) / 224 + 1e-8)), lowest), highest)
