"""Images on the host: decoding, resizing, crops and flips.

An image travels undecoded (:class:`EncodedImage`) until a view or a preprocessing step says which part of it is wanted
and how large. Decoding gives uint8 RGB in the orientation in which the pixels are stored: EXIF rotation is ignored (as
Pillow does, but for TIFF), alpha is dropped, grey and CMYK become RGB, of 16 bits the upper 8 stay, of an animation the
first frame. What the bytes hold decides the format, never the file name.

Resizing is Pillow's: filters grow with the scale (antialiased), pixel centres lie at half coordinates. ``nearest``
takes the pixel under the centre, so that [0 1 2 3 4] becomes [0 2 4], and is the one rule for label maps.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import warnings
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import Image
from spendflops.parts.crops import CROP_SAMPLERS, Box

cv2.setNumThreads(0)  # the loader already runs one image a core
# What it says of a broken file goes into an error that names the file, not to the terminal.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Damaged EXIF in files whose pixels are sound, and large photographs. Set once: changing filters is not thread-safe.
warnings.filterwarnings("ignore", message="Corrupt EXIF data")
warnings.filterwarnings("ignore", message="Truncated File Read")
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)

_FILTERS = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "bilinear_scaled", "bicubic_scaled")
"""Pillow's filters, which official code uses, and ``area``, OpenCV's mean of what a result covers (bicubic where a side
grows): nearly the same image, a third of the time. ``_scaled``: a large JPEG is first decoded at 1/2, 1/4 or 1/8 of its
size, while twice the size of the result is left."""
# OpenCV decodes these as Pillow does, bit by bit, and faster. It takes CMYK for what it is not.
_FAST = {
    "JPEG": ("RGB", "L"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
}
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class ArrayImage:
    """An image that is decoded already.

    Args:
        array: uint8 [H W 3].
    """

    __slots__ = ("array",)

    def __init__(self, array: UInt8[np.ndarray, "H W 3"]):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
            raise DataError(
                "an image array is not uint8 [H W 3]",
                why=f"it is {array.dtype} {list(array.shape)}",
                fix="convert it where the data set is read",
            )
        self.array = array

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.array.shape[0], self.array.shape[1]

    def decode(self, box: Box | None = None, min_size: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels of ``box`` (a view, not a copy); they are never reduced."""
        return self.array if box is None else _cut(self.array, box)

    def digest(self) -> str:
        """A hash of shape and pixels."""
        return _digest(repr(self.array.shape).encode(), np.ascontiguousarray(self.array).data)


class EncodedImage:
    """An image file, or its bytes. Reads and decodes on demand; what was read last is kept, so make a new one a sample.

    Args:
        data: The encoded bytes, or the path of a file.
        name: What error messages call it; the path by default.
    """

    __slots__ = ("_bytes", "_decoded", "_head", "_path", "name")

    def __init__(self, data: bytes | str | os.PathLike, *, name: str = ""):
        self._bytes: bytes | None = data if isinstance(data, bytes) else None
        self._path: str | None = None if isinstance(data, bytes) else str(os.fspath(data))
        self.name = name or self._path or "image in memory"
        self._head: _Header | None = None
        self._decoded: tuple[int, np.ndarray] | None = None

    def __reduce__(self):
        return _rebuild, (self._path or self.read(), self.name)

    def __repr__(self) -> str:
        return f"EncodedImage({self.name!r})"

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            DataError: The file cannot be read.
        """
        if self._bytes is None:
            try:
                with open(str(self._path), "rb") as file:
                    self._bytes = file.read()
            except OSError as error:
                raise _broken(self.name, f"cannot be read ({error.strerror or error})") from error
        return self._bytes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the header alone.

        Raises:
            DataError: Not an image, or one of more pixels than Pillow lets pass: a decompression bomb.
        """
        return self._header().size

    def _header(self) -> _Header:
        if self._head is None:
            with self._open() as image:
                self._head = _Header((image.height, image.width), image.format or "", image.mode)
        return self._head

    def decode(self, box: Box | None = None, min_size: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """RGB pixels of ``box`` in stored orientation.

        Args:
            box: The region, in pixels of the full image; None is all of it.
            min_size: Lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides of the region stay at
                least this long; ``box`` then moves by at most half a reduced pixel.

        Raises:
            DataError: Not an image, or broken; the message names the file.
        """
        factor = 1
        if min_size is not None and self._header().form == "JPEG":
            height, width = self.size if box is None else box[2:]
            factor = next((f for f in (8, 4, 2) if min(height, width) >= f * min_size), 1)
        cached = self._decoded
        if cached is None or cached[0] != factor:
            cached = self._decoded = (factor, self._decode(factor))
        pixels = cached[1]
        if box is None:
            return pixels
        if factor > 1:
            box = _reduced(box, factor, pixels.shape[:2])
        return _cut(pixels, box)

    def decode_mask(self) -> UInt8[np.ndarray, "H W"]:
        """The stored indices of a label map: 8-bit grey or palette, never converted.

        Raises:
            DataError: Not an image, broken, or without one index a pixel.
        """
        with self._open() as image:
            if image.mode not in ("L", "P", "1"):
                raise DataError(
                    f"mask {self.name} does not hold one 8-bit index a pixel",
                    why=f"its mode is {image.mode}",
                    fix="store masks as 8-bit grey or palette PNG",
                )
            try:
                return np.array(image, dtype=np.uint8)
            except (OSError, ValueError, SyntaxError) as error:
                raise _broken(self.name, str(error)) from error

    def digest(self) -> str:
        """A hash of the stored bytes."""
        return _digest(self.read())

    def _open(self) -> PIL.Image.Image:
        data = self.read()
        try:
            return PIL.Image.open(io.BytesIO(data))
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
            why = "it is empty" if not data else _reason(error)
            raise _broken(self.name, why) from error

    def _decode(self, factor: int) -> np.ndarray:
        # Of a bomb, too, the header is read first: OpenCV would take the memory.
        data, head = self.read(), self._header()
        # Older OpenCV fills a truncated JPEG with grey and says nothing; Pillow is strict.
        whole = head.form != "JPEG" or b"\xff\xd9" in data[-64:]
        if whole and head.mode in _FAST.get(head.form, ()):
            flags = _REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
            try:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            except cv2.error:
                pixels = None
            if pixels is not None and pixels.dtype == np.uint8 and pixels.ndim == 3:
                return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        with self._open() as image:
            try:
                pixels = _rgb(image)
            except (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error) as error:
                raise _broken(self.name, str(error) or type(error).__name__) from error
        if pixels.shape[:2] != head.size:
            raise _broken(self.name, f"its header says {head.size}, its pixels are {pixels.shape[:2]}")
        return pixels if factor == 1 else np.asarray(PIL.Image.fromarray(pixels).reduce(factor))


class _Header(NamedTuple):
    size: tuple[int, int]
    form: str
    mode: str


def _rgb(image: PIL.Image.Image) -> np.ndarray:
    """uint8 [H W 3] of the first frame; of 16 bits the upper 8.

    Raises:
        ValueError: Pixels that are no colours: 32-bit integers or floats.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}), which is no range of colours")
    return np.asarray(image.convert("RGB"))


def decode_mask(mask: Any) -> UInt8[np.ndarray, "H W"]:
    """The label map of a sample: an array is checked, an encoded one is decoded without conversion.

    Raises:
        DataError: Not one 8-bit index a pixel.
    """
    if not isinstance(mask, np.ndarray):
        return mask.decode_mask()
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            "a mask array is not uint8 [H W]",
            why=f"it is {mask.dtype} {list(mask.shape)}",
            fix="convert it where the data set is read",
        )
    return mask


def resize(array: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic") -> np.ndarray:
    """Antialiased resize of uint8 [H W 3] or [H W]; an array that has the size already is returned as it is.

    Args:
        array: uint8.
        size: Height and width in pixels.
        interpolation: A name in :data:`INTERPOLATIONS`.

    Raises:
        ConfigError: Unknown interpolation.
    """
    kind = _filter(interpolation)
    if array.shape[:2] == tuple(size):
        return array
    if kind == "area":
        grows = size[0] > array.shape[0] or size[1] > array.shape[1]
        return cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    return np.asarray(PIL.Image.fromarray(array).resize((size[1], size[0]), _FILTERS[kind]))


def center_crop_resize(
    image: Image, size: tuple[int, int], *, crop_fraction: float = 0.875, interpolation: str = "bicubic"
) -> UInt8[np.ndarray, "h w 3"]:
    """The usual evaluation view: the shorter side to ``size / crop_fraction``, then the centre.

    0.875 is "resize to 256, crop 224". Sizes round as torchvision's do.
    """
    height, width = image.size
    scale = max(round(size[0] / crop_fraction) / height, round(size[1] / crop_fraction) / width)
    target = max(size[0], int(height * scale + 1e-6)), max(size[1], int(width * scale + 1e-6))
    pixels = resize(image.decode(min_size=reduced_to(2 * max(target), interpolation)), target, interpolation)
    top, left = round((target[0] - size[0]) / 2), round((target[1] - size[1]) / 2)
    return pixels[top : top + size[0], left : left + size[1]]


def crop_resize(
    image: Image, box: Box, size: tuple[int, int], interpolation: str = "bicubic"
) -> UInt8[np.ndarray, "h w 3"]:
    """``box`` of an undecoded image at ``size``; a filter ``_scaled`` decodes no less than twice ``size``."""
    top, left, height, width = box
    least = 2 * max(size) * min(image.size) / min(height, width)
    pixels = image.decode(min_size=reduced_to(least, interpolation))
    if pixels.shape[:2] == image.size:
        return resize(_cut(pixels, box), size, interpolation)
    # The edges of the box fall between reduced pixels: Pillow resizes from there, nothing shifts.
    y, x = (_factor(full, reduced) for full, reduced in zip(image.size, pixels.shape[:2], strict=True))
    edges = (left / x, top / y, (left + width) / x, (top + height) / y)
    resized = PIL.Image.fromarray(pixels).resize((size[1], size[0]), _FILTERS[_filter(interpolation)], edges)
    return np.asarray(resized)


def random_resized_crop(
    image: Image,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    sampler: str = "torchvision",
    interpolation: str = "bicubic",
) -> UInt8[np.ndarray, "h w 3"]:
    """A random part of the image at ``size``.

    Args:
        image: Undecoded.
        rng: All randomness.
        size: Height and width in pixels of the result.
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        sampler: A name in :data:`CROP_SAMPLERS`.
        interpolation: As :func:`resize`.

    Raises:
        ConfigError: Unknown sampler or interpolation.
        DataError: A broken image.
    """
    if sampler not in CROP_SAMPLERS:
        known = list(CROP_SAMPLERS)
        raise ConfigError(f"unknown crop sampler {sampler!r}{suggest(sampler, known)}", fix=f"use one of {known}")
    box = CROP_SAMPLERS[sampler](rng, image.size, scale=scale, ratio=ratio)
    return crop_resize(image, box, size, interpolation)


def flip(array: np.ndarray) -> np.ndarray:
    """Left and right exchanged, of [H W ...]."""
    # Several times as fast as numpy's copy of a view that runs backwards.
    return cv2.flip(array, 1) if array.dtype == np.uint8 else np.ascontiguousarray(array[:, ::-1])


def random_flip(array: np.ndarray, rng: np.random.Generator, *, probability: float = 0.5) -> np.ndarray:
    """:func:`flip` with ``probability``."""
    return flip(array) if rng.random() < probability else array


def reduced_to(least: float, interpolation: str) -> int | None:
    """``min_size`` of a decode whose shorter side must keep ``least`` pixels; None unless the filter is ``_scaled``."""
    return math.ceil(least) if interpolation.endswith("_scaled") else None


def _filter(interpolation: str) -> str:
    if interpolation not in INTERPOLATIONS:
        near = suggest(interpolation, INTERPOLATIONS)
        raise ConfigError(f"unknown interpolation {interpolation!r}{near}", fix=f"use one of {list(INTERPOLATIONS)}")
    return interpolation.removesuffix("_scaled")


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    bottom, right = top + height, left + width
    if min(top, left) < 0 or min(height, width) < 1 or bottom > pixels.shape[0] or right > pixels.shape[1]:
        raise ValueError(f"box {box} (top, left, height, width) is not inside an image of {pixels.shape[:2]}")
    return pixels[top:bottom, left:right]


def _reduced(box: Box, factor: int, size: tuple[int, int]) -> Box:
    height, width = max(1, round(box[2] / factor)), max(1, round(box[3] / factor))
    return min(round(box[0] / factor), size[0] - height), min(round(box[1] / factor), size[1] - width), height, width


def _factor(full: int, reduced: int) -> float:
    whole = round(full / reduced)
    # A last block that is not full is a pixel of its own: 500 pixels give 63 at 1/8.
    return whole if math.ceil(full / whole) == reduced else full / reduced


def _digest(*parts: bytes | memoryview) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def _reason(error: Exception) -> str:
    return "its bytes are not an image" if isinstance(error, PIL.UnidentifiedImageError) else str(error)


def _broken(name: str, why: str) -> DataError:
    return DataError(
        f"image {name} cannot be decoded",
        why=why,
        fix="replace the file, or name it in the option `skip` of the data set",
    )


def _rebuild(data: bytes | str, name: str) -> EncodedImage:
    return EncodedImage(data, name=name)
