"""Shapes and multiply-adds of ViTDet's pyramid and of Mask R-CNN's heads (Li et al. 2022, as in detectron2), by hand.

Of products alone, in multiply-adds of one image (a FLOP count is twice as much). ``padding`` says whether taps of a
convolution on its zero padding count: papers count them (True), a compiler that does not multiply by them (False).
"""

from __future__ import annotations


def taps(side, kernel, padding):
    """Pairs of an output position and a kernel tap along one axis; padding (kernel - 1) / 2, stride 1."""
    pairs = 0
    for position in range(side):
        for tap in range(kernel):
            pairs += padding or 0 <= position + tap - (kernel - 1) // 2 < side
    return pairs


def conv(shape, inputs, outputs, kernel, *, padding):
    """A convolution that keeps the map's shape (height, width): taps x taps x inputs x outputs."""
    height, width = shape
    return taps(height, kernel, padding) * taps(width, kernel, padding) * inputs * outputs


def deconv(shape, inputs, outputs):
    """A transposed 2x2 convolution of stride 2 on a map (height, width): each pixel makes four."""
    height, width = shape
    return height * width * inputs * outputs * 4


def pyramid_shapes(grid):
    """{level: (height, width)} of p2 ... p6 from the shape of the backbone's map, p4.

    Two doublings by transposed convolutions, one, none; a 2x2 max-pool of stride 2; every second pixel of p5.
    """
    height, width = grid
    half = (height // 2, width // 2)
    sixth = ((half[0] + 1) // 2, (half[1] + 1) // 2)
    return {2: (4 * height, 4 * width), 3: (2 * height, 2 * width), 4: grid, 5: half, 6: sixth}


def pyramid(grid, dim, *, channels=256, padding):
    """The simple feature pyramid: transposed convolutions, then 1x1 to ``channels`` and 3x3, on p2 ... p5."""
    shapes = pyramid_shapes(grid)
    twice = deconv(grid, dim, dim // 2)
    total = twice + deconv(shapes[3], dim // 2, dim // 4)  # p2
    total += twice  # p3 has one of its own
    for number, inputs in {2: dim // 4, 3: dim // 2, 4: dim, 5: dim}.items():
        total += conv(shapes[number], inputs, channels, 1, padding=padding)
        total += conv(shapes[number], channels, channels, 3, padding=padding)
    return total


def rpn(shapes, *, channels=256, convs=2, anchors=3, padding):
    """``convs`` 3x3 convolutions, then 1x1 to an objectness and four deltas an anchor, on each shape of ``shapes``."""
    total = 0
    for shape in shapes:
        total += convs * conv(shape, channels, channels, 3, padding=padding)
        total += conv(shape, channels, 5 * anchors, 1, padding=padding)
    return total


def box_head(rois, classes, *, channels=256, convs=4, hidden=1024, side=7, agnostic=False, padding):
    """Of each RoI: 3x3 convolutions on 7x7, a dense layer, classes + 1 logits, four deltas a class (or in all)."""
    each = convs * conv((side, side), channels, channels, 3, padding=padding)
    each += side * side * channels * hidden
    each += hidden * (classes + 1) + hidden * 4 * (1 if agnostic else classes)
    return rois * each


def mask_head(rois, classes, *, channels=256, convs=4, side=14, padding):
    """Of each RoI: 3x3 convolutions on 14x14, a transposed convolution to 28x28, 1x1 to the classes."""
    each = convs * conv((side, side), channels, channels, 3, padding=padding)
    each += deconv((side, side), channels, channels)
    each += conv((2 * side, 2 * side), channels, classes, 1, padding=padding)
    return rois * each
