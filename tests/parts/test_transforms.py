"""Changes of layout: each is undone bit for bit, and says no where it does not apply."""

from __future__ import annotations

import numpy as np
import pytest

from spendflops.contracts.layout import AS_IS
from spendflops.parts import transforms

RNG = np.random.default_rng(0)
CASES = {
    "as it is": (AS_IS, [(2, 3)], (2, 3)),
    "linear": (transforms.LINEAR, [(5, 3)], (3, 5)),
    "convolution": (transforms.CONV, [(5, 3, 2, 4)], (2, 4, 3, 5)),
    "pointwise": (transforms.POINTWISE, [(5, 3, 1, 1)], (3, 5)),
    "column": (transforms.COLUMN, [(5, 1)], (5,)),
    "row": (transforms.ROW, [(1, 5)], (5,)),
    "in front": (transforms.lead(2), [(5,)], (1, 1, 5)),
    "stacked": (transforms.stacked(3), [(2, 4)] * 3, (6, 4)),
    "stacked and transposed": (transforms.stacked(3).then(transforms.LINEAR), [(2, 4)] * 3, (4, 6)),
    "flat patches": (transforms.LINEAR.then(transforms.FLAT_PATCH), [(7, 48)], (4, 4, 3, 7)),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    transform, shapes, wanted = CASES[name]
    given = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]
    made = transform.forward(*given)
    back = transform.backward(made)
    assert made.shape == wanted and len(back) == len(given)
    assert all(np.array_equal(a, b) for a, b in zip(given, back, strict=True))


@pytest.mark.parametrize(
    "transform, shape",
    [(transforms.POINTWISE, (5, 3, 2, 1)), (transforms.COLUMN, (5, 2)), (transforms.ROW, (2, 5)),
     (transforms.FLAT_PATCH, (50, 7))],
)  # fmt: skip
def test_what_has_not_the_form(transform, shape):
    with pytest.raises(ValueError):
        transform.forward(np.zeros(shape, np.float32))


def test_a_pixel_keeps_its_place():
    # Row 2, column 1, channel 0 of a patch of 4 pixels.
    weight = np.arange(48, dtype=np.float32)[None]
    assert transforms.LINEAR.then(transforms.FLAT_PATCH).forward(weight)[2, 1, 0, 0] == (2 * 4 + 1) * 3
