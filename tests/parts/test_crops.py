"""Crop distributions, crops of reduced images and flips."""

import math

import numpy as np
import pytest
from pictures import encode, smooth

from spendflops.contracts.errors import ConfigError
from spendflops.parts import crops, images
from spendflops.parts.images import ArrayImage, EncodedImage

IMAGENET = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


@pytest.mark.parametrize("name", list(crops.CROP_SAMPLERS))
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (100, 333), (500, 20)])
def test_crops_stay_inside(name, size):
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left, height, width = crops.CROP_SAMPLERS[name](rng, size, **IMAGENET)
        assert top >= 0 and left >= 0 and height >= 1 and width >= 1
        assert top + height <= size[0] and left + width <= size[1]


def draws(name, size=(400, 400), count=4000, **options):
    rng = np.random.default_rng(1)
    return np.array([crops.CROP_SAMPLERS[name](rng, size, **{**IMAGENET, **options}) for _ in range(count)], float)


@pytest.mark.parametrize("name", ["torchvision", "mae"])
def test_area_is_uniform_and_ratio_log_uniform(name):
    # Area up to .7 at ratios up to 4/3 always fits a square: nothing is rejected or cut, the mean is the midpoint.
    box = draws(name, scale=(0.1, 0.7))
    area, ratio = box[:, 2] * box[:, 3] / 400**2, box[:, 3] / box[:, 2]
    assert abs(area.mean() - 0.4) < 0.01 and abs(area.std() - 0.6 / math.sqrt(12)) < 0.005
    assert abs(np.log(ratio).mean()) < 0.01
    assert abs(np.log(ratio).std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 0.005
    # The position is uniform over what is left.
    assert abs((box[:, 0] / (400 - box[:, 2])).mean() - 0.5) < 0.02
    assert abs((box[:, 1] / (400 - box[:, 3])).mean() - 0.5) < 0.02


def test_torchvision_rejects_and_mae_cuts():
    # Wide image: a crop of full area needs ratio 2.
    kept = draws("torchvision", (200, 400), scale=(0.9, 1.0))
    cut = draws("mae", (200, 400), scale=(0.9, 1.0))
    # Ten draws that cannot fit, then the largest centred crop of ratio 4/3.
    assert (kept == [0, (400 - 267) // 2, 200, 267]).all()
    assert (cut[:, 2] == 200).all() and cut[:, 3].min() < 260 < 310 < cut[:, 3].max()
    tall = draws("torchvision", (400, 200), 10, scale=(0.9, 1.0))
    assert (tall == [(400 - 267) // 2, 0, 267, 200]).all()
    square = draws("torchvision", (200, 200), 10, scale=(2.0, 2.0))
    assert (square == [0, 0, 200, 200]).all()


def test_tf_draws_the_height_not_the_area():
    box = draws("tf", ratio=(1.0, 1.0))
    side = box[:, 2]
    assert (box[:, 2] == box[:, 3]).all()
    # Sides are uniform between sqrt(.1) (a tenth of the image must be covered) and 1.
    low = math.ceil(400 * math.sqrt(0.1))
    assert side.min() == low and side.max() == 400
    assert abs(side.mean() - (low + 400) / 2) < 4
    assert (draws("tf", count=20, scale=(0.01, 0.05)) == [0, 0, 400, 400]).all()
    wide = draws("tf", (100, 300))
    area = wide[:, 2] * wide[:, 3] / 30_000
    assert area.min() >= 0.1 and (wide[:, 3] / wide[:, 2]).max() < 1.36


def test_random_resized_crop_is_crop_then_resize():
    image = ArrayImage(smooth())
    got = images.random_resized_crop(image, np.random.default_rng(3), size=(16, 12), sampler="mae", **IMAGENET)
    top, left, h, w = crops.sample_crop_mae(np.random.default_rng(3), (40, 60), **IMAGENET)
    assert (got == images.resize(image.array[top : top + h, left : left + w], (16, 12))).all()
    again = images.random_resized_crop(image, np.random.default_rng(3), size=(16, 12), sampler="mae", **IMAGENET)
    assert (got == again).all()
    with pytest.raises(ConfigError, match="did you mean 'torchvision'"):
        images.random_resized_crop(image, np.random.default_rng(3), size=(8, 8), sampler="torchvison")


class ThreeQuarters(ArrayImage):
    """Decodes at 3/4 of the size, as other decoders can."""

    def decode(self, box=None, min_size=None):
        height, width = self.size
        return self.array if min_size is None else images.resize(self.array, (height * 3 // 4, width * 3 // 4))


@pytest.mark.parametrize("kind", [EncodedImage, ThreeQuarters])
def test_reduced_decoding_does_not_shift_crops(kind):
    rng = np.random.default_rng(0)
    array = images.resize(rng.integers(0, 256, (60, 75, 3), dtype=np.uint8), (500, 333), "bicubic")
    image = kind(encode(array, quality=98) if kind is EncodedImage else array)
    full = ArrayImage(image.decode())
    for _ in range(20):
        box = crops.sample_crop_torchvision(rng, image.size, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3))
        got, want = (images.crop_resize(x, box, (32, 32), "bicubic_scaled").astype(int) for x in (image, full))
        assert np.abs(got - want).mean() < 1.5
        moved = images.crop_resize(full, (max(0, box[0] - 4), *box[1:]), (32, 32))
        assert box[0] < 4 or np.abs(moved - want).mean() > 2 * np.abs(got - want).mean()


def test_every_pixel_is_decoded_unless_the_filter_says_otherwise():
    image = EncodedImage(encode(images.resize(smooth(), (500, 333)), quality=98))
    full = ArrayImage(image.decode())
    box = (3, 5, 400, 300)
    for size in ((32, 32), (8, 8)):
        assert (images.crop_resize(image, box, size) == images.crop_resize(full, box, size)).all()
        assert (images.center_crop_resize(image, size) == images.center_crop_resize(full, size)).all()
        assert (images.crop_resize(image, box, size, "bicubic_scaled") != images.crop_resize(full, box, size)).any()


def test_flips():
    array = smooth()
    assert (images.flip(array) == array[:, ::-1]).all() and images.flip(array).flags.c_contiguous
    rng = np.random.default_rng(0)
    flipped = sum((images.random_flip(array, rng) != array).any() for _ in range(400))
    assert 160 < flipped < 240
    assert images.random_flip(array, rng, probability=0.0) is array
