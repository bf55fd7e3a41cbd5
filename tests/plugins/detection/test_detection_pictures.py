"""Pictures of detections: boxes and masks where they are, in the colours of their classes, at a readable size."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.detection.pictures import BAR, FILL, LONGEST, SIDE, Objects, _colour, _panel, beside

NAMES = ("cat", "a name that is far too long to be written")
NONE = Objects(boxes=np.zeros((0, 4)), labels=np.zeros(0, int), scores=None, masks=np.zeros((0, 40, 80), bool))
GREY = np.full((40, 80, 3), 120, np.uint8)


def objects(*boxes, labels=None, scores=None, masks=None):
    labels = np.zeros(len(boxes), int) if labels is None else np.array(labels)
    scores = None if scores is None else np.array(scores)
    return Objects(
        boxes=np.array(boxes, float), labels=labels, scores=scores, masks=NONE.masks if masks is None else masks
    )


def painted(panel):
    """Where a panel of the grey image is not grey."""
    return (panel[BAR:] != 120).any(axis=-1)


def test_a_box_is_drawn_around_its_pixels():
    panel = _panel(GREY, objects([20, 20, 60, 40]), "true", NAMES)
    scale = SIDE / 80
    assert panel.shape == (BAR + SIDE // 2, SIDE, 3)
    left, top, right, bottom = (round(edge * scale) for edge in (20, 20, 60, 40))
    rows, columns = np.nonzero((panel[BAR:] == _colour(0)).all(axis=-1))
    assert (columns.min(), columns.max()) == (left, right - 1) and rows.max() == bottom - 1
    # The name stands on the box, and nothing else is painted.
    assert top - 19 <= rows.min() < top
    outside = np.ones(panel.shape[:2], bool)[BAR:]
    outside[rows.min() : bottom, left:right] = False
    assert not painted(panel)[outside].any() and not painted(panel)[top + 4 : bottom - 4, left + 4 : right - 4].any()


def test_a_mask_is_filled_and_outlined():
    mask = np.zeros((1, 40, 80), bool)
    mask[0, 10:30, 40:60] = True
    panel = _panel(GREY, objects([40, 10, 60, 30], masks=mask), "true", NAMES)[BAR:]
    scale = SIDE / 80
    middle = panel[round(25 * scale), round(50 * scale)]
    wanted = [(1 - FILL) * 120 + FILL * part for part in _colour(0)]
    np.testing.assert_allclose(middle, wanted, atol=1)
    assert not painted(np.concatenate([np.zeros((BAR, SIDE, 3), np.uint8), panel]))[:, : round(40 * scale) - 1].any()


def test_names_and_scores_stay_inside_the_picture():
    corners = [[-5, -5, 3, 3], [78, 38, 90, 50], [0, 38, 80, 40]]
    panel = _panel(GREY, objects(*corners, labels=[1, 1, 1], scores=[0.9, 0.8, 0.123]), "predicted", NAMES)
    colour = (panel == _colour(1)).all(axis=-1)
    assert colour[BAR:].any() and not colour[:BAR].any()
    # Wider with the score, and cut: a name of any length fits.
    short = _panel(GREY, objects([10, 20, 40, 40], labels=[1]), "true", ("", NAMES[1][:LONGEST]))
    np.testing.assert_array_equal(short, _panel(GREY, objects([10, 20, 40, 40], labels=[1]), "true", NAMES))


def test_the_title_says_how_many_are_not_drawn():
    few, many = objects([10, 20, 40, 40]), dataclasses.replace(objects([10, 20, 40, 40]), left_out=3)
    bars = [_panel(GREY, shown, "true", NAMES)[:BAR] for shown in (few, many)]
    assert (bars[1] != bars[0]).any(axis=-1)[:, 60:].any() and not (bars[1] != bars[0])[:, :30].any()


def test_classes_have_colours_of_their_own():
    colours = {_colour(label) for label in range(80)}
    assert len(colours) == 80 and _colour(3) == _colour(3)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((40, 80), (2 * (190 + BAR), SIDE)), ((80, 40), (SIDE + BAR, 2 * 190)), ((2000, 3000), (2 * (253 + BAR), SIDE))],
)
def test_images_of_any_size_are_readable_and_small(size, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    made = beside(image, NONE, NONE, names=NAMES)
    with PIL.Image.open(io.BytesIO(made)) as picture:
        assert picture.format == "JPEG" and picture.size == shape[::-1]
    assert len(made) < 1 << 18 and made == beside(image, NONE, NONE, names=NAMES)


def test_what_was_predicted_is_above_what_is_true():
    made = beside(GREY, objects([10, 10, 40, 30], scores=[0.5]), objects([10, 10, 40, 30], labels=[1]), names=NAMES)
    with PIL.Image.open(io.BytesIO(made)) as picture:
        above, below = np.split(np.asarray(picture.convert("RGB"), int), 2)
    for half, own, other in ((above, 0, 1), (below, 1, 0)):
        near = [(np.abs(half - _colour(label)).max(axis=-1) < 40).sum() for label in (own, other)]
        assert near[0] > 500 > near[1]
