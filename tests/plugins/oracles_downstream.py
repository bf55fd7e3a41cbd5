"""Downstream scores from their definitions: loops over pixels, examples and classes, in exact fractions where possible.

Nothing of the library is imported, and nothing is vectorised: slow, and hard to get wrong in the same way.
"""

from __future__ import annotations

import math
from fractions import Fraction

IGNORE = 255


def segmentation(labels, predictions, classes, *, per_image=False, absent="skipped"):
    """``(miou, pixel accuracy, mean accuracy, classes averaged, [IoU or None])`` of label maps, as fractions.

    IoU_c = TP / (TP + FP + FN) over pixels whose label is not 255. ``absent`` classes, in neither labels nor
    predictions, are "skipped" in the mean, or "zero". With ``per_image`` the first two are means over images.
    """
    pairs = [list(zip(_flat(one), _flat(other), strict=True)) for one, other in zip(labels, predictions, strict=True)]
    total = _scores([pair for image in pairs for pair in image], classes, absent)
    if not per_image:
        return total
    single = [_scores(image, classes, absent) for image in pairs]
    means = tuple(sum(scores[i] for scores in single) / len(single) for i in (0, 1))
    return (*means, *total[2:])


def _scores(pairs, classes, absent):
    pairs = [(label, guess) for label, guess in pairs if label != IGNORE]
    ious, recalls = [], []
    for c in range(classes):
        hits = sum(label == c and guess == c for label, guess in pairs)
        missed = sum(label == c and guess != c for label, guess in pairs)
        wrong = sum(label != c and guess == c for label, guess in pairs)
        ious.append(Fraction(hits, hits + missed + wrong) if hits + missed + wrong else None)
        if hits + missed:
            recalls.append(Fraction(hits, hits + missed))
    found = [value for value in ious if value is not None]
    averaged = found + [Fraction(0)] * (classes - len(found)) if absent == "zero" else found
    right = sum(label == guess for label, guess in pairs)
    return _mean(averaged), Fraction(right, len(pairs)), _mean(recalls), len(found), ious


def _mean(values):
    return sum(values, Fraction(0)) / len(values)


def _flat(grid):
    return [int(value) for row in grid for value in row]


def knn(bank, bank_labels, query, *, k, temperature):
    """The class of each query: the k bank rows of largest cosine vote with exp(cosine / T); of equal sums the first."""
    answers = []
    for q in query:
        cosines = [_dot(q, row) / (_norm(q) * _norm(row)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda i: (-cosines[i], i))[:k]
        votes = {}
        for i in nearest:
            label = int(bank_labels[i])
            votes[label] = votes.get(label, 0.0) + math.exp(cosines[i] / temperature)
        answers.append(max(sorted(votes), key=votes.get))
    return answers


def few_shot(shots, labels, query, classes, *, penalty=1024, dual=False):
    """Predictions [query][class] of big_vision's probe: W = (X'X + lambda I)^-1 X'Y, solved in fractions.

    Features are standardised by the shots (standard deviation + 1e-5), with a constant feature of 100 behind them;
    targets are +1 for the class and -1 for the others. ``dual`` solves X'(XX' + lambda I)^-1 Y.
    """
    width = len(shots[0])
    means = [math.fsum(float(row[d]) for row in shots) / len(shots) for d in range(width)]
    scales = [
        math.sqrt(math.fsum((float(row[d]) - means[d]) ** 2 for row in shots) / len(shots)) + 1e-5 for d in range(width)
    ]

    def prepared(row):
        return [Fraction((float(row[d]) - means[d]) / scales[d]) for d in range(width)] + [Fraction(100)]

    x = [prepared(row) for row in shots]
    y = [[Fraction(1 if c == label else -1) for c in range(classes)] for label in labels]
    columns = list(zip(*x, strict=True))
    if dual:
        gram = [[_dot(a, b) + (penalty if i == j else 0) for j, b in enumerate(x)] for i, a in enumerate(x)]
        inner = _solve(gram, y)
        weights = [[_dot(column, by_class) for by_class in zip(*inner, strict=True)] for column in columns]
    else:
        gram = [[_dot(a, b) + (penalty if i == j else 0) for j, b in enumerate(columns)] for i, a in enumerate(columns)]
        weights = _solve(gram, [[_dot(column, by_class) for by_class in zip(*y, strict=True)] for column in columns])
    return [[float(_dot(prepared(row), by_class)) for by_class in zip(*weights, strict=True)] for row in query]


def _solve(matrix, right):
    """Gauss and Jordan, exactly."""
    rows = [list(a) + list(b) for a, b in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next(j for j in range(i, len(rows)) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(len(rows)):
            if j != i and rows[j][i]:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[len(matrix) :] for row in rows]


def top_k(logits, labels, *, stands_for=None, k=1, excluded=True):
    """(right, counted): an example is right if one of its k best model classes stands for one of its labels.

    Args:
        logits: [examples][model classes]; of equal ones the first is better.
        labels: Of each example, any number of the test's classes.
        stands_for: Model class -> the test's classes that it stands for; None if the classes are the same.
        k: Guesses.
        excluded: Whether model classes that stand for nothing are left out of the ranking.

    An example none of whose labels any model class stands for does not count.
    """
    right = counted = 0
    for row, own in zip(logits, labels, strict=True):
        known = {c: {c} for c in range(len(row))} if stands_for is None else stands_for
        if not any(label in each for label in own for each in known.values()):
            continue
        counted += 1
        ranked = sorted((c for c in range(len(row)) if known.get(c) or not excluded), key=lambda c: (-row[c], c))
        right += any(label in known.get(c, ()) for c in ranked[:k] for label in own)
    return right, counted


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _norm(row):
    return math.sqrt(sum(float(value) ** 2 for value in row))
