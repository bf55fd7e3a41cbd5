"""Losses of two-stage detectors from their definitions, on given predictions, matches and samples, one term at a time.

Rows of RoIs are those of all images of the batch, one after the other. ``penalty`` is a function of one difference of
deltas: ``abs`` (L1, ViTDet), ``lambda e: smooth_l1(e, beta)`` (Fast R-CNN) or ``lambda e: huber(e, delta)`` (Mask R-CNN
in TensorFlow: delta 1/9 in the RPN).
"""

from __future__ import annotations

import math

import numpy as np
import oracles_detection as oracle

WEIGHTS = (10, 10, 5, 5)
"""Of the deltas in a box head (Fast R-CNN's 1 / (0.1, 0.1, 0.2, 0.2)); the RPN's are 1."""


def sigmoid_cross_entropy(logit, target):
    """-t log s(x) - (1 - t) log(1 - s(x)), with s(x) = 1 / (1 + exp(-x))."""
    return target * np.logaddexp(0.0, -float(logit)) + (1 - target) * np.logaddexp(0.0, float(logit))


def softmax_cross_entropy(logits, target):
    """log(sum over c of exp(x_c)) - x_target."""
    return np.logaddexp.reduce([float(value) for value in logits]) - float(logits[target])


def softmax(logits):
    """exp(x_c) / sum of exp(x)."""
    return [math.exp(-softmax_cross_entropy(logits, c)) for c in range(len(logits))]


def smooth_l1(error, beta):
    """e^2 / (2 beta) where |e| < beta, else |e| - beta / 2 (Girshick 2015, equation 3, with beta = 1); L1 at beta 0."""
    return error * error / (2 * beta) if abs(error) < beta else abs(error) - beta / 2


def huber(error, delta):
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2): delta times smooth L1 with beta = delta."""
    return error * error / 2 if abs(error) <= delta else delta * (abs(error) - delta / 2)


def rpn_loss(logits, deltas, anchors, truths, index, sampled, *, samples=256, penalty=abs):
    """(objectness, box) of the RPN (Ren et al. 2015, equation 1, as in detectron2).

    objectness = sum over sampled anchors of sigmoid cross-entropy / (samples x images); box = sum over sampled
    positives and their four deltas of penalty(predicted - target) / (samples x images). An image that has fewer anchors
    to sample than ``samples`` divides by ``samples`` all the same.

    Args:
        logits: [B][A].
        deltas: [B][A][4], not weighted.
        anchors: [A][4].
        truths: [B][M][4].
        index: [B][A], the truth of each anchor.
        sampled: [B][A]: 1 a sampled positive, 0 a sampled negative, -1 not in the sample.
        samples: Anchors that are sampled of each image.
        penalty: Of one difference.
    """
    objectness = box = 0.0
    for b in range(len(logits)):
        for a in range(len(anchors)):
            if sampled[b][a] >= 0:
                objectness += sigmoid_cross_entropy(logits[b][a], sampled[b][a])
            if sampled[b][a] == 1:
                target = oracle.encode(anchors[a], truths[b][index[b][a]])
                box += sum(penalty(float(deltas[b][a][k]) - target[k]) for k in range(4))
    return objectness / (samples * len(logits)), box / (samples * len(logits))


def coordinate_mean(deltas, targets, positive, penalty):
    """Sum of penalties over positive rows and their four deltas / (4 x positive rows); 0 without one.

    How TensorFlow's Mask R-CNN averages both of its box losses, instead of by ``samples`` or RoIs: its RPN adds up the
    means of the levels, each over all images; its box head has one, over all RoIs (tensorflow/models has + 0.01 below).
    """
    rows = [r for r in range(len(deltas)) if positive[r]]
    terms = [penalty(float(deltas[r][k]) - float(targets[r][k])) for r in rows for k in range(4)]
    return sum(terms) / len(terms) if terms else 0.0


def roi_classes(index, label, truth_classes, background):
    """Of each RoI the class of its truth where the label is 1, else ``background``, which is the last class."""
    return [int(truth_classes[i]) if own == 1 else background for i, own in zip(index, label, strict=True)]


def box_head_loss(logits, deltas, boxes, truths, classes, valid, *, weights=WEIGHTS, penalty=abs):
    """(class, box) of a box head (Girshick 2015, as in detectron2).

    class = mean over valid RoIs of softmax cross-entropy over C + 1 classes, the background last; box = sum over valid
    foreground RoIs and their four deltas of penalty(predicted - target) / the number of ALL valid RoIs. Both are 0
    without a valid RoI.

    Args:
        logits: [R][C + 1].
        deltas: [R][4], or [R][C][4] of which only those of the truth's class are trained.
        boxes: [R][4], the RoIs.
        truths: [R][4], of each RoI; of the background any value.
        classes: [R], C for the background.
        valid: [R], whether a RoI is none of padding.
        weights: Of the targets.
        penalty: Of one difference.
    """
    rows = [r for r in range(len(logits)) if valid[r]]
    entropy = box = 0.0
    for r in rows:
        entropy += softmax_cross_entropy(logits[r], classes[r])
        if classes[r] < len(logits[r]) - 1:
            own = deltas[r][classes[r]] if np.ndim(deltas[r]) == 2 else deltas[r]
            target = oracle.encode(boxes[r], truths[r], weights)
            box += sum(penalty(float(own[k]) - target[k]) for k in range(4))
    return entropy / max(1, len(rows)), box / max(1, len(rows))


def mask_head_loss(logits, targets, classes, foreground):
    """Mean over foreground RoIs and pixels of sigmoid cross-entropy in the truth's channel (He et al. 2017, section 3).

    ``logits`` [R][n][n][C], ``targets`` [R][n][n] of zeros and ones, ``classes`` [R], ``foreground`` [R]. Other
    channels are not trained. 0 without foreground.
    """
    terms = []
    for r in range(len(logits)):
        if foreground[r]:
            for i in range(len(targets[r])):
                for j in range(len(targets[r][i])):
                    terms.append(sigmoid_cross_entropy(logits[r][i][j][classes[r]], float(targets[r][i][j])))
    return math.fsum(terms) / len(terms) if terms else 0.0


def cascade(logits, deltas, boxes, valid, truths, truth_classes, truth_valid, *, size, penalty=abs):
    """``(total, [(class, box) of each stage], [boxes of each stage and behind the last])`` of a cascade.

    Cai & Vasconcelos 2018, as in detectron2: the three stages label the boxes that they get by IoU >= 0.5, 0.6, 0.7,
    all of them and without sampling, and have targets with weights (10, 10, 5, 5) times 1, 2, 3. Their own decoded
    boxes, clipped to the image, are the next one's, without a gradient. The loss is the sum over stages. A box that
    became empty is no RoI of later stages in training. Boxes behind the last stage are those of detections, clipped.

    Args:
        logits: [stages][B][R][C + 1], the background last.
        deltas: [stages][B][R][4], not specific to a class.
        boxes: [B][R][4], RoIs of the first stage, sampled.
        valid: [B][R].
        truths: [B][M][4].
        truth_classes: [B][M].
        truth_valid: [B][M].
        size: (height, width) of the images.
        penalty: Of one difference.
    """
    boxes = [[tuple(float(value) for value in box) for box in image] for image in boxes]
    valid = [[bool(one) for one in image] for image in valid]
    losses, passed = [], [boxes]
    for stage, bound in enumerate((0.5, 0.6, 0.7)):
        weights = tuple(weight * (stage + 1) for weight in WEIGHTS)
        rows = {"logits": [], "deltas": [], "boxes": [], "truths": [], "classes": [], "valid": []}
        for b, image in enumerate(boxes):
            index, label = oracle.match(image, truths[b], truth_valid[b], bound, bound, low_quality=False)
            rows["logits"] += list(logits[stage][b])
            rows["deltas"] += list(deltas[stage][b])
            rows["boxes"] += image
            rows["truths"] += [truths[b][i] for i in index]
            rows["classes"] += roi_classes(index, label, truth_classes[b], len(logits[stage][b][0]) - 1)
            rows["valid"] += valid[b]
        losses.append(box_head_loss(**rows, weights=weights, penalty=penalty))
        boxes = [
            [oracle.clip(oracle.decode(d, box, weights), *size) for d, box in zip(deltas[stage][b], image, strict=True)]
            for b, image in enumerate(boxes)
        ]
        valid = [
            [one and oracle.area(box) > 0 for one, box in zip(valid[b], image, strict=True)]
            for b, image in enumerate(boxes)
        ]
        passed.append(boxes)
    return sum(sum(pair) for pair in losses), losses, passed


def cascade_scores(logits):
    """[R][C + 1]: the mean over stages of the softmax of [stages][R][C + 1] (Cai & Vasconcelos 2018, section 4.1)."""
    probabilities = [[softmax(row) for row in stage] for stage in logits]
    return [
        [sum(column) / len(logits) for column in zip(*rows, strict=True)] for rows in zip(*probabilities, strict=True)
    ]


def federated_weights(image_counts, present, power=0.5):
    """The probability of each class to be the first that is drawn next to the present ones (Zhou et al. 2021).

    image_count^power / its sum, over the classes that are not present. Draws are without replacement.
    """
    weights = [0.0 if c in present else float(count) ** power for c, count in enumerate(image_counts)]
    return [weight / sum(weights) for weight in weights]


def federated_draws(present, *, background, classes=50):
    """Classes to draw next to ``present``: detectron2 fills up to ``classes`` in all, and the background counts as one.

    max(0, classes - number of present classes - [a RoI is background]). ``present`` holds the foreground classes of the
    RoIs of the batch.
    """
    return max(0, classes - len(set(present)) - bool(background))


def federated_loss(logits, classes, valid, columns, *, background):
    """Sum over valid RoIs and ``columns`` of sigmoid cross-entropy / the number of valid RoIs; 0 without one.

    ``logits`` [R][C or C + 1], ``classes`` [R] with ``background`` = C, whose targets are all 0 and whose column, if it
    exists, is not trained; ``columns``: the classes present and those drawn (Zhou et al. 2021, as in detectron2).
    """
    rows = [r for r in range(len(logits)) if valid[r]]
    chosen = [c for c in range(background) if c in set(columns)]
    terms = [sigmoid_cross_entropy(logits[r][c], float(classes[r] == c)) for r in rows for c in chosen]
    return math.fsum(terms) / max(1, len(rows))


def repeat_factors(images, threshold=0.001):
    """r(I) of each image, a set of categories: the largest r(c) of them, 1 without one (Gupta et al. 2019, appendix B).

    r(c) = max(1, sqrt(threshold / f(c))), f(c) being the part of all images that has category c.
    """
    result = []
    for own in images:
        factors = [1.0]
        for category in own:
            frequency = sum(category in other for other in images) / len(images)
            factors.append(math.sqrt(threshold / frequency))
        result.append(max(factors))
    return result
