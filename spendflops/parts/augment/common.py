"""What all colour operators share: pixels as uint8 or float32 on the scale 0..1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

Pixels = UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"]


def to_float(array: Pixels) -> Float[np.ndarray, "H W 3"]:
    """uint8 to float32 on the scale 0..1; float32 stays as it is."""
    return array * np.float32(1 / 255) if array.dtype == np.uint8 else array


def to_uint8(array: Pixels) -> UInt8[np.ndarray, "H W 3"]:
    """Float32 on the scale 0..1 to uint8, to the nearest; uint8 stays as it is."""
    if array.dtype == np.uint8:
        return array
    return np.rint(np.clip(array, 0, 1) * np.float32(255)).astype(np.uint8)


def as_dtype(x: Pixels, dtype: np.dtype) -> Pixels:
    """``x`` as uint8 or as float32, whichever ``dtype`` is: an operator gives the type that it was given."""
    return to_uint8(x) if dtype == np.uint8 else x
