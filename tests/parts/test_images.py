"""Decoding of odd files, digests, masks, and resizing conventions (T6, T7)."""

import io
import pickle

import cv2
import numpy as np
import PIL.Image
import pytest
from pictures import encode, smooth

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts import images
from spendflops.parts.images import ArrayImage, EncodedImage


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


# The near-equivalent filter


@pytest.mark.parametrize(("size", "largest"), [((20, 30), 0.51), ((10, 12), 0.51), ((13, 17), 1.01)])
def test_area_is_the_mean_of_what_a_pixel_covers(size, largest):
    picture = smooth()
    found = images.resize(picture, size, "area").astype(float)
    rows, columns = (coverage(n, m) for n, m in zip(picture.shape[:2], size, strict=True))
    want = np.einsum("ih,hwc,jw->ijc", rows, picture.astype(float), columns)
    assert np.abs(found - want).max() <= largest


def coverage(full, result):
    """Row i: the share of each of ``full`` pixels in pixel i of ``result``."""
    edges = np.linspace(0, full, result + 1)
    pixels = np.arange(full)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(shares, 0, None) * result / full


def test_area_grows_as_bicubic_does_and_is_near_it():
    picture = smooth()
    for size in ((80, 120), (60, 30), (20, 30)):
        near = images.resize(picture, size, "area").astype(int)
        assert np.abs(near - images.resize(picture, size, "bicubic")).mean() < 1.5, size


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_flip_exchanges_left_and_right(shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = images.flip(array)
    assert found.dtype == dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, array[:, ::-1])
