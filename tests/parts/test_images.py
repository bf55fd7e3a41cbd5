"""Decoding of odd files, resizing conventions (T6, T7), crop distributions and SimCLR's colour operators."""

import colorsys
import io
import math
import pickle

import cv2
import numpy as np
import PIL.Image
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts import augment, crops, images
from spendflops.parts.images import ArrayImage, EncodedImage


def smooth(height=40, width=60, seed=0):
    """Smooth colours, which JPEG keeps to within a few levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    phase = rng.uniform(0, 6, (3, 3))
    waves = [np.sin(3 * y * (k + 1) + 2 * x + phase[k, 0]) * np.cos(2 * x + phase[k, 1]) for k in range(3)]
    return np.clip(127 + 100 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def encode(array, form="JPEG", mode="RGB", **options):
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(array)
    (image if image.mode == mode else image.convert(mode)).save(buffer, form, **options)
    return buffer.getvalue()


def error_of(image, method="decode"):
    with pytest.raises(DataError) as caught:
        image.decode() if method == "decode" else image.size
    return str(caught.value)


# Decoding


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_decode_to_what_pillow_shows(form):
    data = encode(smooth(), form)
    image = EncodedImage(data)
    want = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    assert image.size == (40, 60)
    got = image.decode()
    assert got.dtype == np.uint8 and got.shape == (40, 60, 3)
    assert np.abs(got.astype(int) - want).max() <= 2


def test_size_does_not_decode(monkeypatch):
    image = EncodedImage(encode(smooth()))
    monkeypatch.setattr(EncodedImage, "_decode", lambda *_: pytest.fail("decoded"))
    assert image.size == (40, 60)


def test_grey_and_cmyk_become_rgb():
    grey = EncodedImage(encode(smooth(), mode="L")).decode()
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    data = encode(smooth(), mode="CMYK")
    want = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(EncodedImage(data).decode() - want).max() <= 3


def test_alpha_is_dropped_and_palettes_are_looked_up():
    rgba = np.dstack([smooth(), np.full((40, 60), 7, np.uint8)])
    assert (EncodedImage(encode(rgba, "PNG", "RGBA")).decode() == smooth()).all()
    flat = np.zeros((8, 8, 3), np.uint8)
    flat[:4] = (200, 10, 30)
    palette = PIL.Image.fromarray(flat).quantize(2)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert np.abs(EncodedImage(buffer.getvalue()).decode().astype(int) - flat).max() <= 2


def test_the_name_does_not_decide_the_format(tmp_path):
    path = tmp_path / "n02105855_2933.JPEG"
    path.write_bytes(encode(smooth(), "PNG"))
    assert (EncodedImage(path).decode() == smooth()).all()


def test_exif_orientation_is_ignored():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = EncodedImage(encode(smooth(), exif=exif))
    assert image.size == (40, 60)
    assert (image.decode() == EncodedImage(encode(smooth())).decode()).all()
    assert image.decode(min_size=10).shape == (10, 15, 3)


@pytest.mark.parametrize("keep", [3, 100, 0.5, 0.9, -1])
def test_truncated_jpeg_names_the_file(tmp_path, keep):
    data = encode(smooth(200, 300), quality=95)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    message = error_of(EncodedImage(path))
    assert "cut.jpg" in message and "why:" in message and "fix:" in message


def test_truncated_jpeg_is_refused_whatever_opencv_makes_of_it(monkeypatch):
    # Older OpenCV gives the part that it could read, filled up with grey.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((40, 60, 3), 128, np.uint8))
    data = encode(smooth(), quality=95)
    assert "truncated" in error_of(EncodedImage(data[: len(data) // 2], name="half.jpg"))


@pytest.mark.parametrize("data, why", [(b"", "empty"), (b"<html>404 not found</html>", "not an image")])
@pytest.mark.parametrize("method", ["decode", "size"])
def test_empty_files_and_text_named_jpg(tmp_path, data, why, method):
    path = tmp_path / "page.jpg"
    path.write_bytes(data)
    message = error_of(EncodedImage(path), method)
    assert "page.jpg" in message and why in message


def test_missing_file():
    assert "nowhere.png" in error_of(EncodedImage("/nonexistent/nowhere.png"))


def test_boxes_cut_and_do_not_leave_the_image():
    data, box = encode(smooth()), (5, 7, 20, 31)
    whole = EncodedImage(data).decode()
    assert (EncodedImage(data).decode(box) == whole[5:25, 7:38]).all()
    assert (ArrayImage(whole).decode(box) == whole[5:25, 7:38]).all()
    for bad in [(-1, 0, 4, 4), (0, 0, 41, 4), (0, 58, 4, 4), (0, 0, 0, 4)]:
        with pytest.raises(ValueError, match="not inside"):
            ArrayImage(whole).decode(bad)


@pytest.mark.parametrize("min_size, shape", [(None, (160, 240)), (161, (160, 240)), (80, (80, 120)), (20, (20, 30))])
def test_reduced_decoding_stays_above_the_minimum(min_size, shape):
    image = EncodedImage(encode(smooth(160, 240), quality=95))
    got = image.decode(min_size=min_size)
    assert got.shape[:2] == shape
    want = images.resize(smooth(160, 240), shape, "bilinear").astype(int)
    assert np.abs(got - want)[2:-2, 2:-2].mean() < 3
    # The reduced picture does not stay behind as the answer to another question.
    assert image.decode().shape[:2] == (160, 240)


def test_reduced_box():
    image = EncodedImage(encode(smooth(160, 240), quality=95))
    part = image.decode((40, 100, 80, 120), 40)
    assert part.shape == (40, 60, 3)
    assert np.abs(part.astype(int) - images.resize(image.decode((40, 100, 80, 120)), (40, 60))).mean() < 3
    for top, left in [(0, 0), (79, 119), (33, 57)]:  # odd corners stay inside
        assert image.decode((top, left, 81, 121), 20).shape[0] >= 20


def test_digests_and_pickles(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(smooth()))
    image = EncodedImage(path)
    assert image.digest() == EncodedImage(encode(smooth())).digest() != EncodedImage(encode(smooth(seed=1))).digest()
    assert len(pickle.dumps(image)) < 400  # the path, neither bytes nor pixels
    copy = pickle.loads(pickle.dumps(image))
    assert copy.name == image.name and (copy.decode() == image.decode()).all()
    a = ArrayImage(smooth())
    assert a.digest() == pickle.loads(pickle.dumps(a)).digest() == ArrayImage(smooth(40, 60).copy()).digest()
    flat = np.zeros((4, 6, 3), np.uint8)
    assert ArrayImage(flat).digest() != ArrayImage(flat.reshape(6, 4, 3)).digest()


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_array_images_are_checked(array):
    with pytest.raises(DataError, match="uint8"):
        ArrayImage(array)


def test_masks_keep_their_indices():
    mask = np.array([[0, 3], [255, 7]], np.uint8)
    assert (images.decode_mask(mask) == mask).all()
    assert (images.decode_mask(EncodedImage(encode(mask, "PNG", "L"))) == mask).all()
    palette = PIL.Image.frombytes("P", (2, 2), mask.tobytes())
    palette.putpalette([255 - i // 3 for i in range(768)])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert (images.decode_mask(EncodedImage(buffer.getvalue())) == mask).all()
    bits = images.decode_mask(EncodedImage(encode(mask % 2 * 255, "PNG", "1")))
    assert bits.dtype == np.uint8 and (bits == mask % 2).all()
    with pytest.raises(DataError, match="mode is RGB"):
        images.decode_mask(EncodedImage(encode(smooth(), "PNG")))
    with pytest.raises(DataError, match="uint8"):
        images.decode_mask(mask.astype(int))
    half = encode(np.tile(mask, (50, 50)), "PNG", "L")
    with pytest.raises(DataError, match=r"m\.png"):
        images.decode_mask(EncodedImage(half[: len(half) // 2], name="m.png"))


# Resizing


def row(values):
    """One line of grey, tall enough that only its width is resized."""
    return np.repeat(np.asarray(values, np.uint8)[None, :, None], 3, axis=2)


def test_t7_cubic_and_nearest():
    impulse = images.resize(row([0, 100, 0, 0]) + 100, (1, 8), "bicubic")[0, :, 0].astype(int) - 100
    want = 100 * np.array([-0.088235, 0.211679, 0.847328, 0.867188, 0.226562, -0.068702, -0.021898, 0])
    assert np.abs(impulse - want).max() <= 1
    assert images.resize(row([0, 1, 2, 3, 4]), (1, 3), "nearest")[0, :, 0].tolist() == [0, 2, 4]
    labels = np.array([[0, 1, 2, 3, 4]], np.uint8)
    assert images.resize(labels, (1, 3), "nearest").tolist() == [[0, 2, 4]]


def test_t6_linear_half_pixel_and_antialiased():
    up = images.resize(row([0, 40, 80, 120]), (1, 8), "bilinear")[0, :, 0]
    assert up.tolist() == [0, 10, 30, 50, 70, 90, 110, 120]
    down = images.resize(row(np.arange(8) * 28), (1, 4), "bilinear")[0, :, 0]
    assert np.abs(down - 28 * np.array([5 / 7, 2.5, 4.5, 44 / 7])).max() <= 1


def test_resize_leaves_the_right_size_alone_and_knows_its_filters():
    array = smooth()
    assert images.resize(array, (40, 60)) is array
    with pytest.raises(ConfigError, match="did you mean 'bicubic'"):
        images.resize(array, (8, 8), "bicubik")


@pytest.mark.parametrize("height, width, top, left", [(40, 60, 1, 7), (60, 40, 7, 1), (32, 32, 1, 1)])
def test_center_crop(height, width, top, left):
    image = ArrayImage(smooth(height, width))
    got = images.center_crop_resize(image, (14, 14))
    short = min(height, width)
    size = (int(16 * height / short), int(16 * width / short))
    top, left = round((size[0] - 14) / 2), round((size[1] - 14) / 2)
    want = images.resize(image.array, size)[top : top + 14, left : left + 14]
    assert got.shape == (14, 14, 3) and (got == want).all()


# Crops

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
        got, want = (images.crop_resize(x, box, (32, 32)).astype(int) for x in (image, full))
        assert np.abs(got - want).mean() < 1.5
        moved = images.crop_resize(full, (max(0, box[0] - 4), *box[1:]), (32, 32))
        assert box[0] < 4 or np.abs(moved - want).mean() > 2 * np.abs(got - want).mean()


def test_flips():
    array = smooth()
    assert (images.flip(array) == array[:, ::-1]).all() and images.flip(array).flags.c_contiguous
    rng = np.random.default_rng(0)
    flipped = sum((images.random_flip(array, rng) != array).any() for _ in range(400))
    assert 160 < flipped < 240
    assert images.random_flip(array, rng, probability=0.0) is array


# Colour

NOISE = np.random.default_rng(5).random((6, 7, 3)).astype(np.float32)


def by_pixel(function):
    out = np.empty_like(NOISE, dtype=np.float64)
    for i in range(NOISE.shape[0]):
        for j in range(NOISE.shape[1]):
            out[i, j] = np.clip(function(*NOISE[i, j].astype(float)), 0, 1)
    return out


def close(got, want):
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-5


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_brightness_contrast_saturation(factor):
    close(augment.adjust_brightness_simclr(NOISE, factor) + 1e-9, by_pixel(lambda *p: [factor * v for v in p]) + 1e-9)
    mean = [NOISE[..., c].astype(float).mean() for c in range(3)]
    close(
        augment.adjust_contrast(NOISE, factor),
        by_pixel(lambda *p: [(v - m) * factor + m for v, m in zip(p, mean, strict=True)]),
    )

    def saturated(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(s * factor, 1), v)

    close(augment.adjust_saturation(NOISE, factor), by_pixel(saturated))


@pytest.mark.parametrize("delta", [-0.2, -0.05, 0.0, 0.13, 0.5])
def test_hue(delta):
    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + delta) % 1, s, v)

    close(augment.adjust_hue(NOISE, delta), by_pixel(turned))


def test_grey():
    grey = augment.to_gray_simclr(NOISE, np.random.default_rng(0), probability=1.0)
    close(grey, by_pixel(lambda r, g, b: [0.2989 * r + 0.5870 * g + 0.1140 * b] * 3))


def test_blur_is_gaussian_with_zeros_outside():
    x = np.random.default_rng(2).random((40, 40, 3)).astype(np.float32)
    got = augment.gaussian_blur_simclr(x, np.random.default_rng(0), probability=1.0, sigma=(1.3, 1.3))
    taps = [math.exp(-(k**2) / (2 * 1.3**2)) for k in (-2, -1, 0, 1, 2)]  # 40 // 10 = 4, radius 2
    padded = np.pad(x.astype(float), ((2, 2), (2, 2), (0, 0)))
    want = np.zeros((40, 40, 3))
    for i in range(5):
        for j in range(5):
            want += taps[i] * taps[j] / sum(taps) ** 2 * padded[i : i + 40, j : j + 40]
    close(got, want)
    white = np.ones((224, 224, 3), np.float32)
    black_outside = augment.gaussian_blur_simclr(white, np.random.default_rng(0), probability=1.0, sigma=(2.0, 2.0))
    assert abs(black_outside[0, 0, 0] - 0.3597) < 1e-4 and abs(black_outside[0, 112, 0] - 0.5997) < 1e-4
    small = NOISE.copy()
    assert (augment.gaussian_blur_simclr(small, np.random.default_rng(0), probability=1.0) == small).all()


def test_jitter_composes_its_operators_in_the_drawn_order():
    rng = np.random.default_rng(11)
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        got = augment.color_jitter_simclr(NOISE, rng, strength=0.5, probability=1.0)
        rng = np.random.default_rng(seed)
        rng.random()
        order, u = rng.permutation(4), 2 * rng.random(4) - 1
        x = NOISE
        for index in order:
            factor = 1 + 0.4 * u[index]
            if index == 3:
                x = augment.adjust_hue(x, 0.1 * u[3])
            else:
                x = (augment.adjust_brightness_simclr, augment.adjust_contrast, augment.adjust_saturation)[index](
                    x, factor
                )
        close(got, x)
        seen.add(tuple(order))
        assert got.min() >= 0 and got.max() <= 1
    assert len(seen) > 15
    dark = augment.color_jitter_simclr(NOISE, np.random.default_rng(0), probability=1.0, brightness=3.0)
    assert np.isfinite(dark).all() and dark.min() >= 0  # the factor stops at 0


@pytest.mark.parametrize(
    "operator", [augment.color_jitter_simclr, augment.to_gray_simclr, augment.gaussian_blur_simclr]
)
def test_operators_keep_type_input_and_probability(operator):
    array = smooth(32, 32)
    before = array.copy()
    out = operator(array, np.random.default_rng(0), probability=1.0)
    assert out.dtype == np.uint8 and out.shape == array.shape and (array == before).all()
    real = augment.to_float(array)
    same = operator(real, np.random.default_rng(0), probability=1.0)
    assert same.dtype == np.float32 and np.abs(augment.to_uint8(same).astype(int) - out).max() == 0
    assert operator(array, np.random.default_rng(0), probability=0.0) is array
    rng = np.random.default_rng(0)
    changed = sum(operator(array, rng, probability=0.3) is not array for _ in range(500))
    assert 110 < changed < 190


def test_float_round_trip():
    array = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert (augment.to_uint8(augment.to_float(array)) == array).all()
    assert augment.to_uint8(np.array([[[-1.0, 0.5, 2.0]]], np.float32)).tolist() == [[[0, 128, 255]]]
