"""Two thousand images, one at a time: kinds of trouble x formats x containers, drawn with a seed.

Each sample equals the clean image, or raises a DataError that names its file, or is skipped and counted. Clean images
are computed here, by Pillow or from the array that was encoded, without the code under test.
"""

import collections
import io
import struct
import tarfile
import zlib

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.ade20k import ADE20K
from spendflops_plugins.arrayrecord import ArrayRecord
from spendflops_plugins.folder import Folder
from spendflops_plugins.parquet import Parquet
from spendflops_plugins.supervised import SupervisedViews
from spendflops_plugins.webdataset import WebDataset

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import InputSpec
from spendflops.data.prepare import prepare
from spendflops.engine import data, skips
from spendflops.parts.images import decode_mask

CASES = 2000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
KINDS = (
    "sound",
    "truncated",
    "empty",
    "bomb",
    "text",
    "cmyk",
    "sixteen",
    "palette",
    "grey",
    "alpha",
    "animated",
    "exif",
    "misnamed",
)
BROKEN = ("truncated", "empty", "bomb", "text")
ONLY = {
    "cmyk": ("JPEG", "TIFF"),
    "sixteen": ("PNG", "TIFF"),
    "palette": ("PNG", "GIF", "BMP", "TIFF"),
    "alpha": ("PNG", "WEBP", "TIFF"),
    "animated": ("PNG", "WEBP", "GIF", "TIFF"),
    "exif": ("JPEG", "PNG", "WEBP"),
    "bomb": ("PNG", "BMP", "GIF"),
}
GRID = [(kind, form) for kind in KINDS for form in ONLY.get(kind, FORMATS)]
CONTAINERS = ("folder", "webdataset", "arrayrecord", "parquet")


def picture(rng):
    height, width = rng.integers(9, 30, 2)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def encode(image, form, **options):
    lossless = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 92, "subsampling": 2}}.get(form, {})
    buffer = io.BytesIO()
    image.save(buffer, form, **{**lossless, **options})
    return buffer.getvalue()


def bomb(form):
    """A header of 60,000 x 60,000 pixels with nothing behind it."""
    if form == "PNG":
        body = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
        end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
        return b"\x89PNG\r\n\x1a\n" + chunk + end
    if form == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";"
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def case(rng, kind, form):
    """(bytes, clean uint8 [H W 3] or None where it is broken)."""
    array = picture(rng)
    image = PIL.Image.fromarray(array)
    if kind == "empty":
        return b"", None
    if kind == "bomb":
        return bomb(form), None
    if kind == "text":
        return bytes(rng.integers(32, 127, int(rng.integers(1, 400))).astype(np.uint8)), None
    if kind == "truncated":
        whole = encode(image, form)
        return whole[: int(len(whole) * rng.uniform(0.02, 0.97))], None
    if kind == "sixteen":
        # The lower byte is noise: only the upper one is kept.
        deep = array[..., 0].astype(np.uint16) << 8 | rng.integers(0, 256, array.shape[:2]).astype(np.uint16)
        return encode(PIL.Image.fromarray(deep), form), np.repeat(array[..., :1], 3, axis=-1)
    modes = {"cmyk": "CMYK", "palette": "P", "grey": "L", "alpha": "RGBA"}
    image = image.convert(modes[kind]) if kind in modes else image
    options = {}
    if kind == "alpha":
        image.putalpha(PIL.Image.fromarray(picture(rng)[..., 0]).resize(image.size))
    if kind == "animated":
        options = {"save_all": True, "append_images": [image.transpose(PIL.Image.Transpose.ROTATE_180)]}
    if kind == "exif":
        exif = PIL.Image.Exif()
        exif[274] = int(rng.integers(2, 9))
        options = {"exif": exif}
    content = encode(image, form, **options)
    with PIL.Image.open(io.BytesIO(content)) as again:
        return content, np.array(again.convert("RGB"))


def draw(container):
    """Cases of a container: (kind, name, bytes, clean); the cells of the grid come in turn."""
    number = CONTAINERS.index(container)
    rng = np.random.default_rng([2026, number])
    found = []
    for index in range(CASES // len(CONTAINERS)):
        kind, form = GRID[(index + 17 * number) % len(GRID)]
        ending = ENDINGS[form]
        if kind == "misnamed":
            ending = str(rng.choice([e for e in ("jpg", "png", "webp") if e != ending]))
        if container == "webdataset" and ending not in ("jpg", "png", "webp"):
            ending = "jpg"  # the convention knows these endings; the bytes say what it is
        found.append((kind, f"{index:06d}.{ending}", *case(rng, kind, form)))
    return found


def packed(container, cases, folder):
    """A data set that holds the cases in their order."""
    if container == "webdataset":
        for shard in range(2):
            with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
                for _, name, content, _ in cases[shard * len(cases) // 2 : (shard + 1) * len(cases) // 2]:
                    for member, body in ((name, content), (name.split(".")[0] + ".cls", b"0")):
                        info = tarfile.TarInfo(member)
                        info.size = len(body)
                        archive.addfile(info, io.BytesIO(body))
        return WebDataset(path=str(folder), classes=1)
    if container == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = {"image": [{"bytes": c, "path": n} for _, n, c, _ in cases], "label": [0] * len(cases)}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / "train-00000-of-00001.parquet", row_group_size=64)
        return Parquet(path=str(folder), classes=1)
    (folder / "images" / "all").mkdir(parents=True)
    for _, name, content, _ in cases:
        (folder / "images" / "all" / name).write_bytes(content)
    if container == "folder":
        return Folder(path=str(folder / "images"))
    prepare(Folder(path=str(folder / "images")), folder / "prepared", splits=["all"])
    return ArrayRecord(path=str(folder / "prepared"))


def split_of(dataset):
    return next(iter(dataset.info.sizes), "all")


@pytest.fixture(scope="module", params=CONTAINERS)
def campaign(request, tmp_path_factory):
    cases = draw(request.param)
    dataset = packed(request.param, cases, tmp_path_factory.mktemp(request.param))
    return cases, dataset.source(split_of(dataset), features=("image", "label"))


def test_the_grid_is_covered():
    counts = collections.Counter(kind for container in CONTAINERS for kind, *_ in draw(container))
    assert sum(counts.values()) == CASES
    assert set(counts) == set(KINDS) and min(counts.values()) >= 60


def test_each_sample_is_clean_or_an_error_that_names_it(campaign):
    cases, source = campaign
    assert len(source) == len(cases)
    for index, (kind, name, content, clean) in enumerate(cases):
        if clean is None:
            with pytest.raises(DataError) as caught:
                source[index]["image"].decode()
            assert name.split(".")[0] in str(caught.value), (kind, name)
        else:
            image = source[index]["image"]
            assert image.size == clean.shape[:2], (kind, name)
            difference = np.abs(image.decode().astype(int) - clean).max()
            assert difference == 0, (kind, name, difference)
            assert image.read() == content


def test_the_pipeline_counts_what_it_skips(campaign):
    cases, source = campaign
    broken = {index for index, (kind, *_) in enumerate(cases) if kind in BROKEN}
    spec = InputSpec(size=(8, 8), stride=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    skipped = skips.Skipped(source, limit=len(broken))
    batches = data.Batches(source, SupervisedViews(), spec=spec, batch_size=50, seed=0, skipped=skipped)
    with batches.read(0, len(cases) // 50) as reader:
        assert all(batch["image"].shape == (50, 8, 8, 3) for batch in reader)
    assert set(skipped.found) == broken
    strict = data.Batches(source, SupervisedViews(), spec=spec, batch_size=50, seed=0)
    with pytest.raises(DataError), strict.read(0, 4) as reader:
        list(reader)


@pytest.mark.parametrize("kind", ["sound", "size", "value", "colour", "truncated", "empty", "absent"])
def test_masks(kind, tmp_path):
    rng = np.random.default_rng(3)
    for folder in ("images/training", "annotations/training"):
        (tmp_path / folder).mkdir(parents=True)
    array, stored = picture(rng), rng.integers(0, 151, (20, 24)).astype(np.uint8)
    PIL.Image.fromarray(np.resize(array, (20, 24, 3))).save(tmp_path / "images/training/ADE_train_00000001.jpg")
    mask = {"size": stored[:-1], "colour": np.resize(array, (20, 24, 3)), "value": np.full_like(stored, 151)}.get(
        kind, stored
    )
    content = encode(PIL.Image.fromarray(mask), "PNG")
    content = {"truncated": content[:-40], "empty": b""}.get(kind, content)
    if kind == "absent":  # of two images one has a mask
        PIL.Image.fromarray(stored).save(tmp_path / "annotations/training/ADE_train_00000002.png")
        PIL.Image.fromarray(stored).save(tmp_path / "images/training/ADE_train_00000002.jpg")
    else:
        (tmp_path / "annotations/training/ADE_train_00000001.png").write_bytes(content)
    dataset = ADE20K(path=str(tmp_path), partial=True)
    if kind == "sound":
        found = decode_mask(dataset.source("train", features=("image", "mask"))[0]["mask"])
        assert np.array_equal(found, np.where(stored == 0, 255, stored - 1))
        return
    with pytest.raises(DataError, match="ADE_train_00000001"):
        decode_mask(dataset.source("train", features=("image", "mask"))[0]["mask"])
