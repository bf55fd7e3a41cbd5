"""Records: what is written is what is read, and no bytes do harm."""

import io
import json
import pickle
import random
import struct
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest

from spendflops.contracts.errors import DataError
from spendflops.parts.images import ArrayImage, EncodedImage
from spendflops.parts.sources import records
from spendflops.parts.sources.records import StoredPixels, decode, encode

FEATURES = {
    "image": "uint8 H W C",
    "label": "int32",
    "image_id": "int64",
    "score": "float32",
    "flipped": "bool",
    "caption": "str",
    "captions": "str M",
    "mask": "uint8 H W",
    "labels": "int32 M",
    "label_probs": "float32 M",
    "boxes": "float32 M 4",
    "crowd": "bool M",
    "instance_masks": "bool M H W",
}


def noise(height=16, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def picture(array, form="JPEG"):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def sample(seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 16, 20)) < 0.1
    return {
        "image": EncodedImage(picture(noise(seed=seed)), name="/photos/cat/1.jpg"),
        "label": 7,
        "image_id": 2**40 + 1,
        "score": 0.1,
        "flipped": True,
        "caption": "Ein Käfer 🪲 на листе",
        "captions": ("one", "", "два\nlines", "\ud83d half a pair"),
        "mask": rng.integers(0, 3, (16, 20), np.uint8),
        "labels": np.array([3, -1, 2**31 - 1], np.int32),
        "label_probs": np.array([0.5, 0.25, 0.125], np.float32),
        "boxes": np.zeros((0, 4), np.float32),
        "crowd": np.array([True, False, True]),
        "instance_masks": masks,
    }


def same(a, b):
    assert list(a) == list(b)
    for name, value in a.items():
        other = b[name]
        if isinstance(value, EncodedImage):
            assert value.read() == other.read(), name
        elif isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and value.dtype.isnative, name
            np.testing.assert_array_equal(value, other, strict=True)
        else:
            assert type(value) is type(other) and value == other, name


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_everything_comes_back():
    data = encode(sample(), FEATURES, name="s")
    got = decode(data, FEATURES, name="a.arrayrecord record 3")
    same(sample(), got)
    assert got["image"].name == "a.arrayrecord record 3 (/photos/cat/1.jpg)"
    assert data == encode(sample(), FEATURES, name="another name")
    got["labels"][0] = 1  # may be written to
    assert struct.unpack("<3sBI", data[:8])[:2] == (b"SFR", 1)


def test_only_what_is_asked_for_is_read():
    data = encode(sample(), FEATURES, name="s")
    assert list(decode(data, {"caption": "str", "label": "int32"}, name="r")) == ["caption", "label"]
    # The field of another feature may be broken.
    spoilt = data.replace(sample()["image"].read()[:40], b"\0" * 40)
    assert spoilt != data
    assert decode(spoilt, {"label": "int32"}, name="r") == {"label": 7}
    refuses(
        lambda: decode(data, {"masks": "uint8 H W"}, name="a.arrayrecord record 3"), "record 3", "no feature 'masks'"
    )
    refuses(lambda: decode(data, {"label": "str"}, name="r"), "'label' is stored as 'int'", "declared 'str'")
    refuses(lambda: decode(data, {"labels": "int64 M"}, name="r"), "'labels' is stored as int32")
    refuses(lambda: decode(data, {"labels": "int32 M 4"}, name="r"), "'labels' is stored as int32 [3]")


def test_decoded_images_are_stored_without_loss():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    one = {"image": "uint8 H W C"}
    image = decode(encode({"image": ArrayImage(pixels)}, one, name="s"), one, name="r")["image"]
    for copy in (image, pickle.loads(pickle.dumps(image))):
        assert isinstance(copy, StoredPixels) and copy.size == (13, 17)
        np.testing.assert_array_equal(copy.decode(), pixels)
        np.testing.assert_array_equal(copy.decode(box=(1, 2, 3, 4), min_size=1), pixels[1:4, 2:6])
        assert copy.digest() == ArrayImage(pixels).digest()
    again = encode({"image": image}, one, name="s")
    assert decode(again, one, name="r")["image"].digest() == image.digest()
    refuses(lambda: encode({"image": ArrayImage(np.zeros((0, 4, 3), np.uint8))}, one, name="s 4"), "s 4", "'image'")


def test_an_image_that_is_changed_on_decoding_is_stored_as_it_decodes():
    class Cropped(EncodedImage):
        def decode(self, box=None, min_size=None):
            return super().decode()[2:-2]

    one = {"image": "uint8 H W C"}
    given = Cropped(picture(noise(), "PNG"), name="c.png")
    np.testing.assert_array_equal(
        decode(encode({"image": given}, one, name="s"), one, name="r")["image"].decode(), noise()[2:-2]
    )


@pytest.mark.parametrize("mode", ["L", "P"])
def test_encoded_masks_stay_encoded(mode):
    indices = np.random.default_rng(0).integers(0, 5, (9, 7), np.uint8)
    png = io.BytesIO()
    image = PIL.Image.fromarray(indices)
    if mode == "P":
        image.putpalette([255, 0, 0] * 256)
    image.save(png, "PNG")
    one = {"mask": "uint8 H W"}
    mask = decode(encode({"mask": EncodedImage(png.getvalue(), name="m.png")}, one, name="s"), one, name="r")["mask"]
    assert mask.read() == png.getvalue()
    np.testing.assert_array_equal(mask.decode_mask(), indices)

    class Remapped(EncodedImage):
        def decode_mask(self):
            return super().decode_mask() - np.uint8(1)

    mask = decode(encode({"mask": Remapped(png.getvalue())}, one, name="s"), one, name="r")["mask"]
    np.testing.assert_array_equal(mask, indices - np.uint8(1))


def test_large_arrays_are_deflated_and_big_endian_ones_turned():
    one = {"instance_masks": "bool M H W"}
    masks = np.zeros((10, 100, 100), bool)
    masks[:, 20:40, 30:50] = True
    data = encode({"instance_masks": masks}, one, name="s")
    assert len(data) < 2000
    np.testing.assert_array_equal(decode(data, one, name="r")["instance_masks"], masks)
    turned = np.array([1.5, -2], ">f4")
    data = encode({"area": turned}, {"area": "float32 M"}, name="s")
    got = decode(data, {"area": "float32 M"}, name="r")["area"]
    assert got.dtype == np.dtype("float32") and got.tolist() == [1.5, -2]
    assert np.array([1.5, -2], "<f4").tobytes() in data


def test_names_are_relative_to_the_source():
    image = EncodedImage(picture(noise()), name="/data/photos/cat/1.jpg")
    one = {"image": "uint8 H W C"}
    data = encode({"image": image}, one, name="s", root="/data/photos")
    assert decode(data, one, name="r")["image"].name == "r (cat/1.jpg)"
    image = EncodedImage(picture(noise()), name="/data/photos2/cat/1.jpg")
    assert encode({"image": image}, one, name="s", root="/data/photos") == encode({"image": image}, one, name="s")


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        ("int32", 2**31, "outside int32"),
        ("int32", "7", "'7'"),
        ("int32", 1.5, "float"),
        ("int32", np.array([1]), "[1]"),
        ("bool", 3, "3"),
        ("float32", "x", "'x'"),
        ("str", b"bytes", "bytes"),
        ("str M", "one", "tuple of str"),
        ("str M", (1, 2), "tuple of str"),
        ("int32 M", np.zeros(3, np.int64), "int64"),
        ("int32 M", np.zeros((3, 1), np.int32), "[3, 1]"),
        ("float32 M", np.zeros(2**28 + 1, np.float32), "the limit"),
        ("uint8 H W", np.zeros((3, 3), np.int32), "int32"),
        ("uint8 H W C", np.zeros((3, 3, 3), np.uint8), "decode"),
        ("complex64 M", np.zeros(3, np.complex64), "cannot be stored"),
    ],
)
def test_a_feature_that_is_not_what_it_is_declared_is_not_written(spec, value, said):
    refuses(lambda: encode({"x": value}, {"x": spec}, name="train 12"), "train 12", "'x'", said)


def test_a_feature_that_is_not_there_is_not_written():
    refuses(lambda: encode({"label": 1}, FEATURES, name="train 12"), "train 12", "no feature 'image'")


def record(header, *fields, version=1, magic=b"SFR"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<3sBI", magic, version, len(text)) + text + b"".join(fields)


def stored(field, shape, **more):
    return record({"x": {"bytes": len(field), "kind": "array", "dtype": "uint8", "shape": shape} | more}, field)


BOMB = zlib.compress(bytes(10_000_000))
X = {"x": "uint8 M"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a record"),
        (b"SFR\x01", "not a record"),
        (record({}, magic=b"PK\x03"), "not a record"),
        (record({}, version=2), "version 2"),
        (struct.pack("<3sBI", b"SFR", 1, 2**32 - 1) + b"{}", "within its header"),
        (record(b"[" * 100_000), "recursion"),
        (record(b"\xff\xfe"), "utf-8"),
        (record([]), "not an object"),
        (record({"x": 3}), "outside the record"),
        (record({"x": {"kind": "array"}}), "no 'bytes'"),
        (record({"x": {"bytes": -1}}), "not a length"),
        (record({"x": {"bytes": True}}, b"1"), "not a length"),
        (record({"x": {"bytes": 10**30}}), "outside the record"),
        (record({"x": {"bytes": 0}}), "no 'kind'"),
        (record({"x": {"bytes": 1, "kind": "text"}}, b"ab"), "1 bytes follow"),
        (record({"x": {"bytes": 0, "kind": ["array"]}}), "is stored as"),
        (record({"x": {"bytes": 0, "kind": "array", "dtype": "uint8"}}), "no 'shape'"),
        (stored(b"", [1], dtype="object"), "is stored as object"),
        (stored(b"ab", [10**12]), "cannot be in"),
        (stored(b"ab", [2.0]), "not a length"),
        (stored(b"", [-1]), "not a length"),
        (stored(bytes(99), [2**29], deflated=True), "cannot be in"),
        (stored(BOMB, [5], deflated=True), "not 5 deflated bytes"),
        (stored(b"nonsense!", [5], deflated=True), "decompress"),
    ],
)
def test_hostile_records(data, said):
    tracemalloc.start()
    try:
        refuses(lambda: decode(data, X, name="a.arrayrecord record 3"), "a.arrayrecord record 3", said)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_more_hostile_fields():
    for spec, entry, field in (
        ("str", {"kind": "text"}, b"\xff"),
        ("str M", {"kind": "texts"}, b'["a", 1]'),
        ("str M", {"kind": "texts"}, b"[" * 100_000),
        ("int32", {"kind": "int"}, b"1234"),
        ("uint8 M N", {"kind": "array", "dtype": "uint8", "shape": [0, 2**63]}, b""),
    ):
        data = record({"x": {**entry, "bytes": len(field)}}, field)
        refuses(lambda data=data, spec=spec: decode(data, {"x": spec}, name="record 3"), "record 3")
    masks = record({"x": {"kind": "array", "dtype": "bool", "shape": [3], "bytes": 3}}, b"\x00\x02\xff")
    assert decode(masks, {"x": "bool M"}, name="r")["x"].view(np.uint8).tolist() == [0, 1, 1]


def test_a_record_that_is_cut_anywhere():
    data = encode(sample(), FEATURES, name="s")
    for cut in range(len(data)):
        refuses(lambda cut=cut: decode(data[:cut], {"label": "int32"}, name="r 3"), "r 3")


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_give_a_sample_or_a_data_error(seed):
    """600 records a seed: flipped bits, overwritten and moved stretches, noise behind a sound beginning."""
    rng = random.Random(seed)
    data = encode(sample(seed), FEATURES, name="s")
    head = 8 + struct.unpack("<I", data[4:8])[0]
    refused = 0
    tracemalloc.start()
    for case in range(600):
        spoilt = bytearray(data)
        # Half of the damage is done to the header, where it is worst.
        reach = head if case % 2 else len(data)
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(reach), rng.randint(1, 12)
            kind = rng.randrange(4)
            if kind == 0:
                spoilt[at % len(spoilt)] ^= 1 << rng.randrange(8)
            elif kind == 1:
                spoilt[at : at + length] = rng.randbytes(length)
            elif kind == 2:
                del spoilt[at : at + length]
            else:
                spoilt[at : at + length] = str(10 ** rng.randint(0, 30)).encode()
        if case % 10 == 0:
            spoilt = data[: rng.randrange(12)] + rng.randbytes(rng.randrange(300))
        try:
            got = decode(bytes(spoilt), FEATURES, name="file record 3")
        except DataError as error:
            assert "file record 3" in str(error)
            refused += 1
        else:
            assert list(got) == list(FEATURES) and got["labels"].dtype == np.int32
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()
    assert refused > 300


def test_the_header_has_a_limit(monkeypatch):
    monkeypatch.setattr(records, "HEADER_LIMIT", 100)
    refuses(lambda: encode(sample(), FEATURES, name="s"), "header", "100")
