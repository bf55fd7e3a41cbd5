"""Pictures for tests, and how to encode them."""

import io

import numpy as np
import PIL.Image


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
