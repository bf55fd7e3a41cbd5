"""Contact sheets show every sample and every view."""

import numpy as np
import pytest
from spendflops_plugins.shapes import Shapes
from spendflops_plugins.simclr import SimCLRViews

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo, InputSpec
from spendflops.data.show import GAP, LINE, SIDE, sample_sheet, views_sheet
from spendflops.parts.images import ArrayImage, EncodedImage

INFO = DatasetInfo(name="x", features={}, classes=("red", "green"), mask_classes=("p", "q"))


class Samples(list):
    pass


def flat(colour, shape=(40, 80)):
    return ArrayImage(np.broadcast_to(np.uint8(colour), (*shape, 3)).copy())


def field(sheet, column, row):
    """The colour in the middle of a picture."""
    return sheet.getpixel((GAP + column * (SIDE + GAP) + SIDE // 2, GAP + row * (SIDE + LINE + GAP) + SIDE // 2))


def test_samples_in_rows_and_columns():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = sample_sheet(Samples({"image": flat(c), "label": i % 2} for i, c in enumerate(colours)), INFO, columns=2)
    assert [field(sheet, 0, 0), field(sheet, 1, 0), field(sheet, 0, 1)] == colours
    assert sheet.size == (GAP + 2 * (SIDE + GAP), GAP + 2 * (SIDE + LINE + GAP))
    # Text stands below the first picture.
    line = np.asarray(sheet.crop((GAP, GAP + SIDE, GAP + SIDE, GAP + SIDE + LINE)))
    assert line.min() < 100


def test_a_broken_sample_is_a_grey_field():
    sheet = sample_sheet(Samples([{"image": EncodedImage(b"no", name="bad.jpg")}]), INFO)
    assert field(sheet, 0, 0) == (128, 128, 128)


def test_masks_and_boxes():
    sample = {
        "image": flat((0, 0, 0)),
        "mask": np.full((40, 80), 255, np.uint8),
        "boxes": np.array([[10, 10, 30, 30]], np.float32),
        "box_labels": np.array([1]),
        "captions": ("многа букв " * 100,),
    }
    sheet = sample_sheet(Samples([sample]), INFO)
    assert field(sheet, 1, 0) == (0, 0, 0)
    assert np.asarray(sheet.crop((GAP, GAP, GAP + SIDE, GAP + SIDE)))[40:120].any()


def test_few_of_many_are_evenly_spaced():
    source = Samples({"image": flat((i, 0, 0))} for i in range(101))
    sheet = sample_sheet(source, INFO, count=3, columns=3)
    assert [field(sheet, i, 0)[0] for i in range(3)] == [0, 50, 100]


def test_nothing_to_show():
    with pytest.raises(DataError, match="nothing to show"):
        sample_sheet(Samples(), INFO)


def test_views_of_a_method():
    source = Shapes(size=16, length=10).source("train", features=("image",))
    spec = InputSpec(size=(24, 24), stride=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    sheet = views_sheet(source, SimCLRViews(), spec, count=2)
    assert sheet.size == (GAP + 3 * (SIDE + GAP), GAP + 2 * (SIDE + LINE + GAP))
    again = views_sheet(source, SimCLRViews(), spec, count=2)
    other = views_sheet(source, SimCLRViews(), spec, count=2, seed=1)
    assert np.array_equal(sheet, again) and not np.array_equal(sheet, other)
