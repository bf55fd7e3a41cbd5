"""PyTorch's zip files, written without PyTorch: pickles instruction by instruction, so that they may be wrong."""

from __future__ import annotations

import dataclasses
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.bool_): "BoolStorage",
}


@dataclasses.dataclass
class Name:
    """``module.name``, by GLOBAL."""

    full: str


@dataclasses.dataclass
class Call:
    """A call, by REDUCE."""

    full: str
    arguments: tuple


@dataclasses.dataclass
class Made:
    """An object with a state, by NEWOBJ and BUILD."""

    full: str
    state: dict


@dataclasses.dataclass
class Persistent:
    """A persistent id."""

    value: tuple


@dataclasses.dataclass
class Raw:
    """Instructions."""

    code: bytes


@dataclasses.dataclass
class View:
    """A tensor of some storage: everything as it is said, true or not."""

    key: str
    storage: str
    count: object
    offset: object
    shape: object
    strides: object


def instructions(value):
    """The instructions that make a value, protocol 2."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case dict():
            return b"}(" + b"".join(instructions(x) for pair in value.items() for x in pair) + b"u"
        case list():
            return b"](" + b"".join(map(instructions, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(instructions, value)) + b"t"
        case Name():
            return "c{}\n{}\n".format(*value.full.rsplit(".", 1)).encode()
        case Call():
            return instructions(Name(value.full)) + instructions(value.arguments) + b"R"
        case Made():
            return instructions(Name(value.full)) + b")\x81" + instructions(value.state) + b"b"
        case Persistent():
            return instructions(value.value) + b"Q"
        case Raw():
            return value.code
        case View():
            storage = Persistent(("storage", Name(value.storage), value.key, "cpu", value.count))
            rest = (value.offset, value.shape, value.strides, False, Call("collections.OrderedDict", ()))
            return instructions(Call("torch._utils._rebuild_tensor_v2", (storage, *rest)))
    raise TypeError(type(value))


def save(path, value, *, storages=None, pickle=None, entries=(), folder="archive", compression=zipfile.ZIP_STORED):
    """Writes a file: arrays anywhere in ``value`` become tensors with storages of their own."""
    data = dict(storages or {})
    code = pickle if pickle is not None else b"\x80\x02" + instructions(_tensors(value, data)) + b"."
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{folder}/data.pkl", code)
        file.writestr(f"{folder}/byteorder", b"little")
        for key, content in data.items():
            file.writestr(f"{folder}/data/{key}", content)
        for name, content in entries:
            file.writestr(f"{folder}/{name}", content)
        file.writestr(f"{folder}/version", b"3\n")
    return path


def _tensors(value, data):
    if isinstance(value, np.ndarray):
        key, strides = str(len(data)), [s // value.itemsize for s in value.copy(order="C").strides]
        data[key] = value.tobytes()
        return View(key, f"torch.{STORAGES[value.dtype]}", value.size, 0, value.shape, tuple(strides))
    if isinstance(value, dict):
        return {key: _tensors(item, data) for key, item in value.items()}
    if isinstance(value, list):
        return [_tensors(item, data) for item in value]
    if isinstance(value, Made):
        return Made(value.full, _tensors(value.state, data))
    return value
