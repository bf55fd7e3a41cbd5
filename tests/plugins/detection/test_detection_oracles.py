"""The oracles of detection on numbers worked out by hand."""

import math

import numpy as np
import oracles_detection as oracle
import oracles_detection_costs as costs
import oracles_detection_losses as losses
import oracles_detection_pixels as pixels
import pytest

LN2 = math.log(2)


def near(value):
    return pytest.approx(value, abs=1e-12)


def test_iou():
    assert oracle.iou((5, 0, 15, 10), (0, 0, 10, 10)) == 50 / 150
    assert oracle.iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5
    assert oracle.iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0  # right is exclusive
    assert oracle.iou((5, 5, 5, 9), (5, 5, 5, 9)) == 0
    assert oracle.iou((-10, -10, -5, -5), (-10, -10, -5, 0)) == 0.5


def test_box_coder():
    small, large = (0, 0, 10, 10), (5, 5, 25, 25)
    assert oracle.encode(small, large) == near((1, 1, LN2, LN2))
    assert oracle.encode(small, large, (10, 10, 5, 5)) == near((10, 10, 5 * LN2, 5 * LN2))
    assert oracle.encode((0, 0, 4, 8), (3, 6, 5, 10)) == near((0.5, 0.5, -LN2, -LN2))
    assert oracle.decode((10, 10, 5 * LN2, 5 * LN2), small, (10, 10, 5, 5)) == near(large)
    assert oracle.decode((0, 0, 99, 99), (0, 0, 2, 2)) == near((-61.5, -61.5, 63.5, 63.5))  # 62.5 times as large
    assert oracle.decode((0, 0, 5, 5 * LN2), small, (1, 1, 5, 5), clamp=0.0) == near(small)
    assert oracle.clip((-3, 2, 9, 40), 30, 8) == (0, 2, 8, 30)


def test_anchors():
    found = oracle.anchors(2, 2, 16, 32)
    half_long, half_short = 22.62741699796952, 11.31370849898476  # 45.2548 x 22.6274
    assert found[0] == near((-half_long, -half_short, half_long, half_short))
    assert found[1] == (-16, -16, 16, 16)
    assert found[2] == near((-half_short, -half_long, half_short, half_long))
    assert found[4] == (0, -16, 32, 16)  # the next column
    assert found[7] == (-16, 0, 16, 32)  # the next row
    assert oracle.anchors(1, 1, 16, 32, ratios=(1,), offset=0.5) == [(-8, -8, 24, 24)]
    assert sum(len(oracle.anchors(side, side, 1, 1)) for side in (256, 128, 64, 32, 16)) == 261_888


def test_match():
    truths = [(0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 10, 2)]
    boxes = [
        (0, 0, 10, 10),
        (0, 0, 10, 5),  # 0.5
        (20, 0, 30, 4),  # 0.4, as the next one: nobody is closer to the second truth
        (20, 6, 30, 10),
        (0, 0, 10, 2),  # 0.2; the truth that it equals is padding
        (50, 50, 60, 60),
        (0, 0, 30, 10),  # 1/3 with both
    ]
    valid = [True, True, False]
    assert oracle.match(boxes, truths, valid, 0.3, 0.7, False) == ([0, 0, 1, 1, 0, 0, 0], [1, -1, -1, -1, 0, 0, -1])
    assert oracle.match(boxes, truths, valid, 0.3, 0.7, True)[1] == [1, -1, 1, 1, 0, 0, -1]
    assert oracle.match(boxes, truths, valid, 0.5, 0.5, False)[1] == [1, 1, 0, 0, 0, 0, 0]  # from 0.5 on, inclusive
    assert oracle.match([boxes[4]], truths, valid, 0.2, 0.7, False)[1] == [-1]  # not below 0.2
    assert oracle.match([boxes[5]], truths, valid, 0.3, 0.7, True) == ([0], [0])  # the best IoU of a truth is 0
    assert oracle.match([boxes[5]], truths, [False, True, True], 0.3, 0.7, True) == ([1], [0])
    assert oracle.match(np.array(boxes[:2]), np.array(truths), [False] * 3, 0.3, 0.7, True) == ([0, 0], [0, 0])
    assert oracle.match(np.zeros((0, 4)), truths, valid, 0.3, 0.7, True) == ([], [])
    # The best box of the first truth is closer to the second: positive, and of the second.
    assert oracle.match([(0, 0, 10, 10)], [(0, 0, 10, 3), (0, 0, 10, 4)], [True] * 2, 0.5, 0.9, True) == ([1], [1])


def test_sample_counts():
    assert oracle.sample_counts([1] * 5 + [0] * 10 + [-1] * 9, 8, 0.25) == (2, 6)
    assert oracle.sample_counts([1] + [0] * 10, 8, 0.5) == (1, 7)
    assert oracle.sample_counts([1] * 9 + [0] * 2, 8, 0.5) == (4, 2)


def test_nms():
    chain, scores = [(0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)], [0.9, 0.8, 0.7]
    assert oracle.nms(chain, scores, 0.4) == [0, 2]  # 3/7, 3/7 and 1/9
    assert oracle.nms(chain, scores, 0.45) == [0, 1, 2]
    assert oracle.nms(chain, [0.7, 0.8, 0.9], 0.4) == [2, 0]
    assert oracle.nms(chain, [0.8, 0.9, 0.7], 0.4) == [1]
    assert oracle.nms(chain, scores, 0.4, classes=[0, 1, 0]) == [0, 1, 2]
    assert oracle.nms(chain, scores, 0.4, valid=[False, True, True]) == [1]
    assert oracle.nms([(0, 0, 10, 10), (0, 0, 10, 5)], [0.9, 0.8], 0.5) == [0, 1]  # equality keeps
    assert oracle.nms([(0, 0, 9, 9)] * 3, [0.5, 0.7, 0.7], 0.5) == [1]
    assert oracle.nms([(0, 0, 9, 9), (3, 3, 3, 3)], [0.5, 0.4], 0.5) == [0, 1]
    assert oracle.nms([(-9, -9, -1, -1), (-9, -9, -1, -2)], [0.5, 0.4], 0.5) == [0]


def test_proposals():
    first = [(0, 0, 10, 10), (0, 0, 10, 9), (30, 0, 40, 10), (2, 2, 4, 4)], [0.5, 0.9, 0.8, 0.1]
    second = [(0, 0, 10, 9), (-5, 0, 5, 10)], [0.7, 0.8]
    found = oracle.proposals([first, second], 20, 20, before=3, after=9)
    # The third box is outside of the image, the first overlaps the second, the fourth is not of the three best.
    assert found == [(0, 1, (0, 0, 10, 9), 0.9), (1, 1, (0, 0, 5, 10), 0.8), (1, 0, (0, 0, 10, 9), 0.7)]
    assert oracle.proposals([first, second], 20, 20, before=3, after=1) == found[:1]


def test_detections():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (50, 0, 99, 10)]
    scores = [(0.6, 0.05), (0.9, 0.3), (0.2, 0.4)]
    found = [(1, 0, (0, 0, 10, 9), 0.9), (2, 1, (50, 0, 60, 10), 0.4), (1, 1, (0, 0, 10, 9), 0.3)]
    found.append((2, 0, (50, 0, 60, 10), 0.2))
    assert oracle.detections(scores, boxes, 60, 60) == found
    assert oracle.detections(scores, boxes, 60, 60, most=2) == found[:2]
    assert oracle.detections(scores, boxes, 60, 60, valid=[True, False, False]) == [(0, 0, boxes[0], 0.6)]
    own = [[(0, 0, 1, 1), (2, 2, 3, 3)], [(0, 0, 10, 9), (0, 0, 5, 5)]]
    assert oracle.detections(scores[:2], own, 60, 60, minimum=0.3) == [(1, 0, own[1][0], 0.9), (0, 0, own[0][0], 0.6)]


def test_levels():
    sides = {111.9: 2, 112: 3, 223.9: 3, 224: 4, 448: 5, 2000: 5, 0: 2}
    assert {side: oracle.level((3, 4, 3 + side, 4 + side)) for side in sides} == sides


def ramp(height, width):
    return np.array([[[3.0 + 2 * j - i, 1.0] for j in range(width)] for i in range(height)])


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_roi_align_of_a_ramp(samples):
    found = pixels.roi_align(ramp(16, 20), (4.3, 2.6, 13.1, 11.9), 7, samples)
    assert found[0, 0, 0] == near(9.092857142857143)
    for i in range(7):
        for j in range(7):
            x, y = 4.3 + (j + 0.5) * 8.8 / 7, 2.6 + (i + 0.5) * 9.3 / 7
            assert found[i, j] == near([3 + 2 * (x - 0.5) - (y - 0.5), 1])
    strided = pixels.roi_align(ramp(16, 20), (8.6, 5.2, 26.2, 23.8), 7, samples, stride=2)
    np.testing.assert_allclose(strided, found, atol=1e-12)


def test_roi_align_samples():
    squares = np.array([[j * j for j in range(6)]] * 6)
    values = {s: pixels.roi_align(squares, (0.5, 0.5, 4.5, 4.5), 1, s)[0, 0] for s in (1, 2, 4, 0)}
    assert values == {1: 4, 2: (1 + 9) / 2, 4: (0.5 + 2.5 + 6.5 + 12.5) / 4, 0: 5.5}
    assert pixels.roi_align(squares, (0.5, 0.5, 4.5, 1.5), 1, 0)[0, 0] == 5.5  # each axis has its own number
    assert pixels.roi_align(squares.T, (0.5, 0.5, 1.5, 4.5), 1, 0)[0, 0] == 5.5


def test_roi_align_border():
    ones = np.ones((4, 4))
    assert pixels.roi_align(ones, (0, 0, 1, 1), 1, 2)[0, 0] == 1
    assert pixels.roi_align(ones, (0, 0, 1, 1), 1, 2, border="zeros")[0, 0] == 0.765625
    assert pixels.roi_align(ones, (-3, 0, 1, 1), 1, 2)[0, 0] == 0.5  # samples at -2.5, dropped, and -0.5, clamped
    assert pixels.bilinear(ones, -1.0, 4.0, "clamp") == 1
    assert pixels.bilinear(ones, -1.01, 2.0, "clamp") == pixels.bilinear(ones, 2.0, 4.01, "clamp") == 0
    assert pixels.bilinear(ones, -0.25, 2.5, "zeros") == 0.75
    assert pixels.bilinear(np.array([[1.0, 2.0], [3.0, 5.0]]), 0.5, 0.25, "clamp") == 0.375 * 4 + 0.125 * 7


def test_pooled_takes_the_level_and_its_stride():
    pyramid = {number: np.full((8, 8), float(number)) for number in (2, 3, 4, 5)}
    assert pixels.pooled(pyramid, (0, 0, 30, 30), 2, 2).tolist() == [[2, 2], [2, 2]]
    pyramid[3] = ramp(16, 16)[..., 0]
    assert pixels.pooled(pyramid, (0, 0, 112, 112), 1, 1)[0, 0] == 3 + 2 * 6.5 - 6.5


def test_mask_targets():
    mask = [[1, 1, 0, 0]] * 4
    assert pixels.mask_target(mask, (0, 0, 4, 4), 4).tolist() == [[True, True, False, False]] * 4
    assert pixels.mask_target(mask, (0, 0, 4, 4), 2).tolist() == [[True, False]] * 2
    assert pixels.mask_target(mask, (1, 0, 3, 4), 1) == [[True]]  # 0.5 counts
    assert pixels.mask_values(mask, (0, 0, 3, 4), 1) == 1
    assert pixels.mask_values(mask, (0, 0, 3, 4), 1, samples=0) == near(2 / 3)
    window = (10, 20, 14, 24)  # four pixels in two cells
    corner = [[1, 0], [0, 0]]
    assert pixels.mask_target(corner, window, 2, window=window).tolist() == [[True, False], [False, False]]
    assert pixels.mask_values(corner, (10, 20, 12, 22), 1, window=window) == 1
    assert pixels.mask_values(corner, (11, 20, 13, 22), 1, window=window) == 0.5
    assert pixels.mask_values(corner, (12, 20, 14, 22), 1, window=window) == 0
    assert pixels.mask_values(corner, (8, 20, 12, 22), 1, window=window) == 1  # centre at -0.5, clamped
    assert pixels.mask_values(corner, (8, 20, 12, 22), 1, window=window, border="zeros") == 0.5


def test_pasted_masks():
    fade = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_array_equal(pixels.pasted_values([[1]], (1, 1, 3, 3), 4, 4), np.outer(fade, fade))
    inside = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert pixels.pasted([[1]], (1, 1, 3, 3), 4, 4).tolist() == [[bool(x) for x in row] for row in inside]
    side = np.array([0.75, 0.75, 0.25, 0])
    np.testing.assert_array_equal(pixels.pasted_values([[1, 0], [0, 0]], (0, 0, 4, 4), 4, 4), np.outer(side, side))
    assert pixels.pasted([[0.5]], (0, 0, 1, 1), 1, 1) == [[True]]  # 0.5 counts
    assert not pixels.pasted([[1]], (2, 0, 2, 4), 4, 4).any()
    assert pixels.pasted_values([[1]], (0, 0, 4, 2), 2, 4).tolist() == [[0.46875, 0.65625, 0.65625, 0.46875]] * 2


def test_penalties():
    assert losses.smooth_l1(-0.5, 1.0) == 0.125 and losses.smooth_l1(2.0, 1.0) == 1.5
    assert losses.smooth_l1(-0.5, 0.0) == 0.5 and losses.smooth_l1(0.0, 0.0) == 0
    assert losses.huber(-0.05, 1 / 9) == near(0.00125) and losses.huber(1.0, 1 / 9) == near(17 / 162)
    assert losses.sigmoid_cross_entropy(math.log(3), 1) == near(math.log(4 / 3))
    assert losses.sigmoid_cross_entropy(math.log(3), 0) == near(math.log(4))
    assert losses.softmax_cross_entropy([0, 0, LN2], 2) == near(LN2)
    assert losses.softmax([0, 0, LN2]) == near([0.25, 0.25, 0.5])


SMALL, LARGE = (0, 0, 10, 10), (5, 5, 25, 25)
"""Deltas (1, 1, log 2, log 2)."""


def test_rpn_loss():
    anchors, padding = [SMALL, (0, 0, 4, 4), (9, 9, 12, 12)], (0, 0, 0, 0)
    given = {
        "logits": [[math.log(3), 0, 99], [math.log(3), 99, 99]],
        "deltas": np.zeros((2, 3, 4)),
        "anchors": anchors,
        "truths": [[padding, LARGE], [padding, padding]],
        "index": [[1, 0, 0], [0, 0, 0]],
        "sampled": [[1, 0, -1], [0, -1, -1]],
    }
    entropy = math.log(4 / 3) + LN2 + math.log(4)
    assert losses.rpn_loss(**given, samples=4) == near((entropy / 8, (2 + 2 * LN2) / 8))
    assert losses.rpn_loss(**given) == near((entropy / 512, (2 + 2 * LN2) / 512))
    curved = losses.rpn_loss(**given, samples=4, penalty=lambda e: losses.huber(e, 1 / 9))[1]
    assert curved == near((2 + 2 * LN2 - 4 / 18) / 9 / 8)
    given["deltas"][0, 0] = (1, 1, LN2 + 0.05, LN2)
    assert losses.rpn_loss(**given, samples=4)[1] == near(0.05 / 8)


def test_coordinate_mean():
    deltas, targets = np.zeros((3, 4)), [(1, 1, 1, 1), (3, 0, 0, -5), (7, 7, 7, 7)]
    assert losses.coordinate_mean(deltas, targets, [True, True, False], abs) == (4 + 8) / 8
    assert losses.coordinate_mean(deltas, targets, [False] * 3, abs) == 0


def test_box_head_loss():
    classes = losses.roi_classes([0, 2, 1, 1], [1, 0, 1, -1], [1, 0, 0], 2)
    assert classes == [1, 2, 0, 2]
    own = np.full((4, 2, 4), 77.0)
    own[0, 1] = own[2, 0] = 0
    given = {
        "logits": [(0, 0, LN2), (0, 0, LN2), (5, 6, 7), (8, 9, 1)],
        "boxes": [SMALL, SMALL, SMALL, SMALL],
        "truths": [LARGE, LARGE, LARGE, (0, 0, 0, 0)],
        "classes": classes,
        "valid": [True, True, False, False],
    }
    want = ((math.log(4) + LN2) / 2, (20 + 10 * LN2) / 2)  # the one foreground of two RoIs
    assert losses.box_head_loss(deltas=own, **given) == near(want)
    assert losses.box_head_loss(deltas=np.zeros((4, 4)), **given) == near(want)
    weighted = losses.box_head_loss(
        deltas=own, **given, weights=(1, 1, 1, 1), penalty=lambda e: losses.smooth_l1(e, 1.0)
    )
    assert weighted[1] == near((0.5 + 0.5 + LN2**2) / 2)
    given["valid"] = [False] * 4
    assert losses.box_head_loss(deltas=own, **given) == (0, 0)


def test_mask_head_loss():
    logits = np.full((2, 2, 2, 3), 50.0)
    logits[0, ..., 2] = [[0, 0], [math.log(3), math.log(3)]]
    targets = [[[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    want = (2 * LN2 + math.log(4 / 3) + math.log(4)) / 4
    assert losses.mask_head_loss(logits, targets, [2, 0], [True, False]) == near(want)
    assert losses.mask_head_loss(logits, targets, [2, 0], [True, True]) == near(want / 2)  # the second costs nothing
    assert losses.mask_head_loss(logits, targets, [2, 0], [False, False]) == 0


def test_cascade():
    # IoU 0.55, 0.65 and 0 with the one truth; the fourth row and the second truth are padding.
    given = {
        "logits": np.zeros((3, 1, 4, 2)),
        "deltas": np.zeros((3, 1, 4, 4)),
        "boxes": [[(0, 0, 10, 5.5), (0, 0, 10, 6.5), (30, 30, 40, 40), SMALL]],
        "valid": [[True, True, True, False]],
        "truths": [[SMALL, (30, 30, 40, 40)]],
        "truth_classes": [[0, 0]],
        "truth_valid": [[True, False]],
        "size": (50, 50),
    }
    first = 10 * 2.25 / 5.5 + 5 * math.log(10 / 5.5)
    second = 10 * 1.75 / 6.5 + 5 * math.log(10 / 6.5)
    total, stages, boxes = losses.cascade(**given)
    assert stages == [near((LN2, (first + second) / 3)), near((LN2, 2 * second / 3)), near((LN2, 0))]
    assert total == near(3 * LN2 + (first + 3 * second) / 3)
    assert [len(boxes), boxes[3]] == [4, given["boxes"]]
    # The first box is moved onto the truth, the third out of the image: two RoIs are left.
    given["deltas"][0, 0, 0] = (0, 10 * 2.25 / 5.5, 0, 5 * math.log(10 / 5.5))
    given["deltas"][0, 0, 2] = (20, 0, 0, 0)
    given["logits"][1:, 0, 2] = (99, 0)
    total, stages, boxes = losses.cascade(**given)
    assert stages == [near((LN2, second / 3)), near((LN2, second)), near((LN2, 0))]
    assert boxes[1][0][0] == near(SMALL) and boxes[1][0][2] == (50, 30, 50, 40)
    given["deltas"][1, 0, 1] = (0, 20 * 1.75 / 6.5, 0, 10 * math.log(10 / 6.5))  # weights twice as large
    assert losses.cascade(**given)[2][2][0][1] == near(SMALL)


def test_cascade_scores():
    stages = [[(0, math.log(3))], [(0, 0)], [(math.log(9), 0)]]
    assert losses.cascade_scores(stages) == [near([(0.25 + 0.5 + 0.9) / 3, (0.75 + 0.5 + 0.1) / 3])]


def test_federated_loss():
    assert losses.federated_weights([1, 4, 9, 16], {1}) == near([1 / 8, 0, 3 / 8, 4 / 8])
    assert losses.federated_draws({3, 7, 9}, background=True) == 46
    assert losses.federated_draws({3, 7, 9}, background=False, classes=2) == 0
    logits = [[math.log(3), 0, 88, 77], [0, 0, 88, 77], [99, 99, 99, 99]]
    given = {"classes": [0, 3, 1], "valid": [True, True, False], "columns": {0, 1, 3}, "background": 3}
    assert losses.federated_loss(logits, **given) == near((math.log(4 / 3) + 3 * LN2) / 2)
    assert losses.federated_loss([row[:3] for row in logits], **given) == near((math.log(4 / 3) + 3 * LN2) / 2)
    assert losses.federated_loss(logits, **{**given, "valid": [False] * 3}) == 0


def test_repeat_factors():
    images = [{"cat"}, {"cat", "owl"}, {"cat"}, set()]  # f: cat 3/4, owl 1/4
    assert losses.repeat_factors(images, 1.0) == near([math.sqrt(4 / 3), 2, math.sqrt(4 / 3), 1])
    assert losses.repeat_factors(images) == [1, 1, 1, 1]


def test_pyramid_shapes():
    assert costs.pyramid_shapes((64, 64)) == {2: (256, 256), 3: (128, 128), 4: (64, 64), 5: (32, 32), 6: (16, 16)}
    assert costs.pyramid_shapes((7, 10)) == {2: (28, 40), 3: (14, 20), 4: (7, 10), 5: (3, 5), 6: (2, 3)}


def test_multiply_adds():
    assert [costs.taps(5, 3, padding) for padding in (True, False)] == [15, 13]
    assert costs.taps(1, 3, False) == 1 and costs.taps(4, 1, False) == 4
    assert costs.conv((2, 3), 5, 7, 3, padding=False) == 4 * 7 * 5 * 7  # 2x2 and 3 + 2 + 2 pairs
    assert costs.deconv((2, 3), 5, 7) == 4 * 6 * 5 * 7
    shapes = costs.pyramid_shapes((64, 64)).values()
    counted = {
        padding: [
            costs.pyramid((64, 64), 768, padding=padding),
            costs.rpn(shapes, padding=padding),
            costs.box_head(512, 80, padding=padding),
            costs.mask_head(128, 80, padding=padding),
        ]
        for padding in (True, False)
    }
    pixels = 256**2 + 128**2 + 64**2 + 32**2 + 16**2
    assert counted[True][1] == pixels * (2 * 9 * 256**2 + 15 * 256)
    assert counted[True][2] == 512 * (4 * 49 * 9 * 256**2 + 12544 * 1024 + 1024 * (81 + 320))
    assert counted[True][3] == 128 * (4 * 196 * 9 * 256**2 + 4 * 196 * 256**2 + 784 * 256 * 80)
    assert [round(value / 1e9) for value in counted[True]] == [72, 103, 66, 68]
    assert counted[False][2] == 512 * (4 * 19**2 * 256**2 + 12544 * 1024 + 1024 * (81 + 320))
    assert counted[False] == [71_295_827_968, 102_536_249_344, 55_239_507_968, 62_318_968_832]
    agnostic = costs.box_head(512, 80, agnostic=True, padding=True)
    assert counted[True][2] - agnostic == 512 * 1024 * 4 * 79
