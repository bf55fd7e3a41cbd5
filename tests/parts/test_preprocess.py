"""Ways of bringing an image to the model's size, against Pillow and by position."""

import pickle

import numpy as np
import PIL.Image
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import DatasetInfo, InputSpec
from spendflops.parts.images import ArrayImage
from spendflops.parts.preprocess import Resize, resize_id

SPEC = InputSpec(size=(28, 28), stride=(4, 4), mean=(0.5,) * 3, std=(0.25,) * 3)
INFO = DatasetInfo(name="toy", features={"image": "", "label": "", "mask": ""})
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)


def made(pixels=PICTURE, **options):
    preprocess = Resize.of(info=INFO, spec=SPEC, read=("image", "label"), asker="test", **options)
    entries = preprocess({"image": ArrayImage(pixels), "label": 3})
    assert entries["image"].shape == (28, 28, 3) and entries["image"].dtype == np.uint8
    assert entries["image"].flags.c_contiguous and preprocess.entries["image"] == ("uint8", (28, 28, 3))
    return entries["image"]


def pillow(pixels, size):
    return np.asarray(PIL.Image.fromarray(pixels).resize(size[::-1], PIL.Image.Resampling.BICUBIC))


def test_squash_is_the_default_and_shows_the_whole_image():
    assert (made() == pillow(PICTURE, (28, 28))).all()
    assert (made(resize="squash") == made()).all()
    square = PICTURE[:28, :28]
    assert (made(square) == square).all()


def test_crop_scales_the_shorter_side_and_takes_the_centre():
    # 28 / 0.875 = 32: 50 x 80 becomes 32 x 51, of which rows 2..29 and columns 12..39 (11.5 is rounded to even) stay.
    assert (made(resize="crop") == pillow(PICTURE, (32, 51))[2:30, 12:40]).all()
    assert (made(resize="crop", crop_fraction=1.0) == pillow(PICTURE, (28, 44))[:, 8:36]).all()


def test_square_crop_scales_both_sides_apart():
    assert (made(resize="square_crop") == pillow(PICTURE, (32, 32))[2:30, 2:30]).all()
    assert (made(resize="square_crop", crop_fraction=1.0) == made()).all()
    fits = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (made(fits, resize="square_crop") == fits[2:30, 2:30]).all()


def test_the_id_says_it():
    assert resize_id("squash", 0.875) == "resize=squash"
    assert [resize_id(kind, f) for kind, f in (("crop", 0.875), ("crop", 1.0), ("square_crop", 0.875))] == [
        "resize=crop0.875",
        "resize=crop1",
        "resize=square_crop0.875",
    ]


def test_what_is_refused():
    for options in ({"resize": "centre"}, {"crop_fraction": 0.0}, {"resize": "crop", "crop_fraction": 1.2}):
        with pytest.raises(ConfigError):
            made(**options)
    with pytest.raises(ConfigError, match="did you mean 'square_crop'"):
        resize_id("squarecrop", 0.875)
    with pytest.raises(ConfigError, match="cannot crop label maps"):
        Resize.of(info=INFO, spec=SPEC, read=("image", "mask"), asker="test", resize="crop")
    with pytest.raises(ConfigError, match="test needs caption"):
        Resize.of(info=INFO, spec=SPEC, read=("image", "caption"), asker="test")


def test_equal_options_are_equal_and_can_be_pickled():
    one, other = (Resize.of(info=INFO, spec=SPEC, read=("image",), asker="a", resize="crop") for _ in range(2))
    assert one == other and hash(one) == hash(other) and pickle.loads(pickle.dumps(one)) == one
    assert one != Resize.of(info=INFO, spec=SPEC, read=("image",), asker="a")
