"""Many crops of one image: one decode, and the crops that a decode each would have given."""

import numpy as np
import pytest
from pictures import encode, smooth

from spendflops.contracts.errors import ConfigError
from spendflops.parts import images, multicrop


class Counted(images.EncodedImage):
    """An encoded image that counts how often its bytes are decoded."""

    __slots__ = ("decoded",)

    def _decode(self, factor):
        self.decoded = [*getattr(self, "decoded", []), factor]
        return super()._decode(factor)


CROPS = [((32, 32), (0.4, 1.0))] * 2 + [((16, 12), (0.05, 0.4))] * 6


@pytest.mark.parametrize(
    ("size", "name"), [((90, 120), "bicubic_scaled"), ((700, 900), "bicubic_scaled"), ((700, 900), "bicubic")]
)
def test_many_crops_take_one_decode(size, name):
    data = encode(smooth(*size), quality=95)
    image = Counted(data)
    found = multicrop.random_resized_crops(image, np.random.default_rng(3), CROPS, interpolation=name)
    assert [x.shape for x in found] == [(*s, 3) for s, _ in CROPS]
    # Only what leaves every crop twice as large as its result is taken out of the decoder.
    assert image.decoded == [1] if size[0] < 100 or name == "bicubic" else image.decoded in ([2], [4])
    rng = np.random.default_rng(3)
    sampler = images.CROP_SAMPLERS["torchvision"]
    boxes = [sampler(rng, size, scale=scale, ratio=(3 / 4, 4 / 3)) for _, scale in CROPS]
    whole = images.ArrayImage(images.EncodedImage(data).decode())
    for x, box, (shape, _) in zip(found, boxes, CROPS, strict=True):
        exact = images.crop_resize(whole, box, shape)
        difference = np.abs(x.astype(int) - exact)
        assert difference.max() <= (0 if image.decoded == [1] else 12)


def test_a_single_crop_is_the_one_of_the_plain_function():
    image = images.EncodedImage(encode(smooth(500, 700)))
    (found,) = multicrop.random_resized_crops(image, np.random.default_rng(4), [((24, 32), (0.2, 0.9))], sampler="mae")
    options = {"size": (24, 32), "scale": (0.2, 0.9), "sampler": "mae"}
    np.testing.assert_array_equal(found, images.random_resized_crop(image, np.random.default_rng(4), **options))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ConfigError, match="torchvision"):
        multicrop.random_resized_crops(
            images.ArrayImage(smooth(20, 20)), np.random.default_rng(0), CROPS, sampler="torchvison"
        )
