"""OpenCV's near-equivalents beside Pillow's operators: how near, with the same draws."""

import numpy as np
import PIL.Image
import pytest
from pictures import smooth
from spendflops_plugins.dino.views import DINOViews

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import InputSpec
from spendflops.parts.augment import opencv, torchvision
from spendflops.parts.images import ArrayImage

NOISE = np.random.default_rng(5).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def levels_apart(a, b):
    return np.abs(a.astype(int) - b.astype(int))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.37, 2.5])
def test_brightness_is_pillows_and_contrast_is_where_the_mean_is(factor):
    picture = PIL.Image.fromarray(NOISE)
    want = np.asarray(torchvision.adjust_brightness_torchvision(picture, factor))
    np.testing.assert_array_equal(opencv.adjust_brightness_opencv(NOISE, factor), want)
    want = np.asarray(torchvision.adjust_contrast_torchvision(picture, factor))
    np.testing.assert_array_equal(opencv.adjust_contrast_opencv(NOISE, factor), want)
    want = np.asarray(torchvision.adjust_saturation_torchvision(picture, factor))
    # Cut there, to the nearest here.
    assert levels_apart(opencv.adjust_saturation_opencv(NOISE, factor), want).max() <= 2


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.05])
def test_hue_turns_as_far(turn):
    picture = smooth()
    want = np.asarray(torchvision.adjust_hue_torchvision(PIL.Image.fromarray(picture), turn))
    off = levels_apart(opencv.adjust_hue_opencv(picture, turn), want)
    assert off.mean() < 1 and off.max() <= 8
    if turn:
        assert levels_apart(opencv.adjust_hue_opencv(picture, 0.5), want).mean() > 3


@pytest.mark.parametrize("seed", range(4))
def test_the_same_draws_give_nearly_the_same_picture(seed):
    picture = smooth()
    for name in opencv.Operators._fields:
        options = {"probability": 0.7, "radius": (1.0, 1.5)} if name == "blur" else {"probability": 0.7}
        one, two = (np.random.default_rng(seed) for _ in range(2))
        a = getattr(opencv.OPERATORS["pillow"], name)(picture, one, **options)
        b = getattr(opencv.OPERATORS["opencv"], name)(picture, two, **options)
        assert levels_apart(a, b).mean() < 1.5, name
        assert one.random() == two.random(), name


def test_solarisation_and_blur_of_nothing():
    rng = np.random.default_rng(0)
    want = np.where(NOISE < 128, NOISE, 255 - NOISE)
    np.testing.assert_array_equal(opencv.solarize_opencv(NOISE, rng, probability=1.0), want)
    flat = np.full((16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(opencv.gaussian_blur_opencv(flat, rng, probability=1.0), flat)


def test_dino_takes_either_and_no_third():
    spec = InputSpec(size=(32, 32), stride=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    sample = {"image": ArrayImage(smooth(64, 64))}
    found = [
        DINOViews(local_views=2, operators=name)(sample, np.random.default_rng(1), spec) for name in opencv.OPERATORS
    ]
    for name in found[0]:
        apart = levels_apart(found[0][name], found[1][name])
        assert 0 < apart.mean() < 3, name
    with pytest.raises(ConfigError, match="did you mean 'opencv'"):
        DINOViews(operators="open_cv")
