"""One sample as bytes and back: what lies in the ArrayRecord files of ``spendflops data prepare``.

    "SFR"  version (1 byte)  length of the header (uint32)  header (JSON)  fields, one after the other

All numbers are little-endian. The header says of every feature, in the order of the fields: its kind, its length in
bytes, and what else it takes to read it.

====== ==================================================== =======================================
kind   value                                                field
====== ==================================================== =======================================
image  ``EncodedImage``: an image, or a mask                the encoded bytes as they are
pixels an image that its source gives decoded               PNG, lossless
array  a numpy array of ``dtype`` and ``shape``             its bytes, deflated where that is shorter
int    int                                                  int64
float  float                                                float64
bool   bool                                                 one byte
text   str                                                  UTF-8; lone surrogates as they are
texts  tuple of str                                         JSON
====== ==================================================== =======================================

Bytes are data of others: nothing is unpickled, lengths are checked before they are used, and an array is made only if
the bytes that are there can hold it.
"""

from __future__ import annotations

import functools
import io
import json
import math
import operator
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import Sample
from spendflops.parts.crops import Box
from spendflops.parts.images import ArrayImage, EncodedImage

MAGIC = b"SFR"
VERSION = 1
HEADER_LIMIT = 2**20
"""Bytes of a header."""
ARRAY_LIMIT = 2**30
"""Bytes of an array, when written and when read."""
EXPANSION = 1032
"""Deflate makes at most so many bytes from one; an array that declares more is not one."""

_START = struct.Struct("<3sBI")
_SCALARS = {"int": struct.Struct("<q"), "float": struct.Struct("<d"), "bool": struct.Struct("<?")}
_SCALAR_KINDS = {"i": "int", "u": "int", "f": "float", "b": "bool"}
_DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)
_AXES = 8
_SMALL = 256  # bytes that are not worth deflating
_ERRORS = "surrogatepass"  # captions come out of JSON, where half a surrogate pair is no error


class StoredPixels(EncodedImage):
    """The PNG of an image that its source gives decoded; equal to that image by its digest, too."""

    __slots__ = ()

    def __reduce__(self):
        return _stored_pixels, (self.read(), self.name)

    def digest(self) -> str:
        """As :meth:`ArrayImage.digest`."""
        return ArrayImage(self.decode()).digest()

    def decode(self, box: Box | None = None, min_size: int | None = None) -> np.ndarray:
        """As :meth:`ArrayImage.decode`: never reduced."""
        return super().decode(box)


def _stored_pixels(data: bytes, name: str) -> StoredPixels:
    return StoredPixels(data, name=name)


def encode(sample: Sample, features: Mapping[str, str], *, name: str, root: str = "") -> bytes:
    """A sample as bytes; the same sample gives the same bytes.

    Args:
        sample: Holds every feature of ``features``.
        features: Name -> specification; what is written, in this order.
        name: What error messages call the sample.
        root: Folder of the source: names of images are written relative to it, so that a copy does not depend on where
            its source lay.

    Raises:
        DataError: A feature is missing or is not what its specification says; an image file cannot be read.
    """
    header, fields = {}, []
    for feature, spec in features.items():
        if feature not in sample:
            raise DataError(
                f"{name} has no feature {feature!r}",
                why=f"it has {', '.join(sample)}",
                fix="leave the feature out, or repair the data set's source",
            )
        try:
            entry, field = _encoded(sample[feature], spec, root)
        except (TypeError, ValueError, AttributeError, struct.error, OverflowError) as error:
            raise DataError(
                f"{name}: feature {feature!r} is not {spec!r}", why=str(error), fix="repair the data set's source"
            ) from error
        header[feature] = {"kind": entry.pop("kind"), "bytes": len(field), **entry}
        fields.append(field)
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > HEADER_LIMIT:
        raise DataError(f"{name}: its header would have {len(text):,} bytes", why=f"the limit is {HEADER_LIMIT:,}")
    return b"".join((_START.pack(MAGIC, VERSION, len(text)), text, *fields))


def decode(data: bytes, features: Mapping[str, str], *, name: str) -> dict[str, Any]:
    """The sample in ``data``; fields of other features are not looked at.

    Args:
        data: From :func:`encode`, or anything.
        features: Name -> specification of what is wanted.
        name: File and record, for messages and as the name of images.

    Raises:
        DataError: Not such a record, cut short, of a newer version, or without a feature of that specification.
    """
    try:
        header, at = _header(data)
        places = {}
        for feature, entry in header.items():
            length = _natural(entry["bytes"]) if isinstance(entry, dict) else -1
            if length < 0 or at + length > len(data):
                raise ValueError(f"the field of {feature!r} ends outside the record")
            places[feature] = (at, at + length)
            at += length
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes follow the last field")
        sample = {}
        for feature, spec in features.items():
            if feature not in header:
                raise ValueError(f"it has no feature {feature!r}, but {', '.join(header) or 'none'}")
            start, end = places[feature]
            sample[feature] = _decoded(header[feature], data[start:end], feature, spec, name)
        return sample
    # The JSON of others nests as deep as it likes.
    except (ValueError, TypeError, KeyError, struct.error, zlib.error, RecursionError) as error:
        why = f"its header has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{name} cannot be read", why=why, fix="prepare the data set again") from error


def _encoded(value: Any, spec: str, root: str) -> tuple[dict[str, Any], bytes]:
    kinds, dtype, axes = _expected(spec)
    if "pixels" in kinds:
        return _encoded_image(value, root)
    if "image" in kinds:
        # A subclass may change what the bytes mean (a mask with other numbers): only its result is stored.
        if type(value) is EncodedImage:
            return {"kind": "image", "name": _relative(value.name, root)}, value.read()
        value = value if isinstance(value, np.ndarray) else value.decode_mask()
    if kinds == ("text",):
        if not isinstance(value, str):
            raise TypeError(f"it is a {type(value).__name__}")
        return {"kind": "text"}, value.encode("utf-8", _ERRORS)
    if kinds == ("texts",):
        if isinstance(value, str) or not all(isinstance(text, str) for text in value):
            raise TypeError("it is not a tuple of str")
        return {"kind": "texts"}, json.dumps(list(value)).encode()
    if kinds[0] in _SCALARS:
        return {"kind": kinds[0]}, _SCALARS[kinds[0]].pack(_scalar(value, kinds[0], dtype))
    return _encoded_array(np.asarray(value), dtype, axes)


def _encoded_image(value: Any, root: str) -> tuple[dict[str, Any], bytes]:
    name = _relative(getattr(value, "name", ""), root)
    if type(value) in (EncodedImage, StoredPixels):
        return {"kind": "image" if type(value) is EncodedImage else "pixels", "name": name}, value.read()
    pixels = ArrayImage(value.decode()).array
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return {"kind": "pixels", "name": name}, buffer.getvalue()


def _encoded_array(array: np.ndarray, dtype: str, axes: int) -> tuple[dict[str, Any], bytes]:
    if array.dtype.newbyteorder("=") != np.dtype(dtype) or array.ndim != axes:
        raise TypeError(f"it is {array.dtype} {list(array.shape)}")
    if array.nbytes > ARRAY_LIMIT:
        raise ValueError(f"it has {array.nbytes:,} bytes, the limit is {ARRAY_LIMIT:,}")
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    entry = {"kind": "array", "dtype": dtype, "shape": list(array.shape)}
    if len(raw) >= _SMALL and len(deflated := zlib.compress(raw)) < len(raw):
        return {**entry, "deflated": True}, deflated
    return entry, raw


def _scalar(value: Any, kind: str, dtype: str) -> int | float | bool:
    if np.ndim(value) or isinstance(value, str):
        raise TypeError(f"it is {value!r}")
    if kind == "float":
        return float(value)
    if kind == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"it is {value!r}")
        return bool(value)
    number, limits = operator.index(value), np.iinfo(dtype)
    if not limits.min <= number <= limits.max:
        raise ValueError(f"{number} is outside {dtype}")
    return number


def _relative(name: str, root: str) -> str:
    return name.removeprefix(root.rstrip("/") + "/") if root else name


@functools.lru_cache(maxsize=256)
def _expected(spec: str) -> tuple[tuple[str, ...], str, int]:
    """The kinds that a specification allows, its dtype, its number of axes."""
    dtype, *axes = spec.split()
    if dtype == "str" and len(axes) < 2:
        return ("texts" if axes else "text",), dtype, len(axes)
    if dtype not in _DTYPES:
        raise ValueError(f"{spec!r} cannot be stored")
    if axes == ["H", "W", "C"] and dtype == "uint8":
        return ("image", "pixels"), dtype, 3
    if axes == ["H", "W"] and dtype == "uint8":
        return ("image", "array"), dtype, 2
    return ("array" if axes else _SCALAR_KINDS[np.dtype(dtype).kind],), dtype, len(axes)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the fields begin."""
    if len(data) < _START.size or data[: len(MAGIC)] != MAGIC:
        raise ValueError("its bytes are not a record of a prepared data set")
    _, version, length = _START.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"it is of version {version}, this spendflops reads version {VERSION}")
    end = _START.size + length
    if length > HEADER_LIMIT or end > len(data):
        raise ValueError(f"it ends within its header: {len(data)} bytes, {length} of header")
    header = json.loads(data[_START.size : end].decode())
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    return header, end


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is not a length")
    return value


def _decoded(entry: Mapping[str, Any], field: bytes, feature: str, spec: str, name: str) -> Any:
    kinds, dtype, axes = _expected(spec)
    kind = entry["kind"]
    if kind not in kinds:
        raise ValueError(f"feature {feature!r} is stored as {str(kind)[:40]!r}, declared {spec!r}")
    if kind in ("image", "pixels"):
        known = entry.get("name")
        known = f"{name} ({known})" if isinstance(known, str) and known else name
        return (EncodedImage if kind == "image" else StoredPixels)(field, name=known)
    if kind == "array":
        return _decoded_array(entry, field, feature, dtype, axes)
    if kind == "text":
        return field.decode("utf-8", _ERRORS)
    if kind == "texts":
        texts = json.loads(field.decode())
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"feature {feature!r} is not a list of texts")
        return tuple(texts)
    return _SCALARS[kind].unpack(field)[0]


def _decoded_array(entry: Mapping[str, Any], field: bytes, feature: str, dtype: str, axes: int) -> np.ndarray:
    shape = entry["shape"]
    if entry["dtype"] != dtype or not isinstance(shape, list) or len(shape) != axes or axes > _AXES:
        raise ValueError(f"feature {feature!r} is stored as {str(entry['dtype'])[:20]} {str(shape)[:40]}")
    # Of a byte that is neither 0 nor 1 numpy would make a bool that is both.
    stored = np.dtype("uint8" if dtype == "bool" else dtype).newbyteorder("<")
    wanted = math.prod(_natural(side) for side in shape) * stored.itemsize
    if entry.get("deflated") is True and wanted <= min(ARRAY_LIMIT, EXPANSION * len(field)):
        stream = zlib.decompressobj()
        field = stream.decompress(field, wanted + 1)
        if not stream.eof or stream.unused_data:
            raise ValueError(f"the field of {feature!r} is not {wanted} deflated bytes")
    if len(field) != wanted:
        raise ValueError(f"feature {feature!r} of shape {str(shape)[:60]} cannot be in the bytes that are there")
    # A copy: what is given may be written to, as that of any other source.
    return np.frombuffer(field, stored).reshape(shape).astype(dtype)
