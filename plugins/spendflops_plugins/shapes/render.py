"""The pixels of a block of scenes.

Every surface is a field with values in about [-1, 1] (stripes, blotches or a plain value, plus pixel noise) that runs
between two colours. The fields are quantised and looked up in a palette of packed RGBA words, where A is the number of
the object: one gather a pixel gives the picture and the instance map. All arithmetic on pixels is elementwise, and the
sines are rounded, so that the bytes of a scene depend neither on the block it was rendered in nor on the processor.
"""

from __future__ import annotations

import numpy as np

from spendflops_plugins.shapes.scenes import Layout, Scenes, between, uniform
from spendflops_plugins.shapes.vocabulary import ATLAS, ORIENTATIONS, atlas

_LEVELS = 64
_LATTICE = 9


def render(layout: Layout, scenes: Scenes, size: int) -> np.ndarray:
    """uint8 [n size size 4]: red, green, blue and the object's number (0 background, k + 1 for slot k)."""
    out = np.empty((len(scenes.keys), size, size, 4), np.uint8)
    # Chunks whose working arrays stay in the second-level cache.
    step = max(1, 65_536 // size**2)
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        chunk = Scenes(*(getattr(scenes, name)[part] for name in Scenes.__dataclass_fields__))
        out[part] = _render(layout, chunk, size)
    return out


def _render(layout: Layout, scenes: Scenes, size: int) -> np.ndarray:
    n, preset, high = len(scenes.keys), layout.preset, layout.objects[1]
    grain = _grain(scenes.keys, size)
    grain *= np.float32(preset.grain)
    limit = np.float32(1 + preset.grain)
    field = _blotches(uniform(scenes.keys, "lattice", _LATTICE, _LATTICE).astype(np.float32), size)
    field += grain
    words = _quantise(field, limit)  # background: layer 0

    palettes = _palettes(layout, scenes, float(limit))
    pitch = _pitch(layout, scenes)
    for slot in reversed(range(layout.things)):
        there = scenes.objects > slot if slot < high else scenes.clutter > slot - high
        rows = np.flatnonzero(there)
        if not len(rows):
            continue
        everywhere = len(rows) == n
        take = slice(None) if everywhere else rows
        inside = _inside(scenes, slot, take, size)
        if slot < high:
            field = _stripes(pitch[take, slot], size)
            field += grain[take]
        else:
            field = grain[take].copy()
        paint = _quantise(field, limit)
        paint += np.int32((slot + 1) * _LEVELS)
        if everywhere:
            np.copyto(words, paint, where=inside)
        else:
            words[rows] = np.where(inside, paint, words[rows])
    words += (np.arange(n, dtype=np.int32) * np.int32(palettes.shape[1]))[:, None, None]
    return palettes.reshape(-1).take(words).view(np.uint8).reshape(n, size, size, 4)


def _quantise(field: np.ndarray, limit: np.float32) -> np.ndarray:
    """Levels 0 .. _LEVELS - 1, int32, of a field within [-limit, limit]; overwrites ``field``."""
    field += limit
    field *= np.float32((_LEVELS - 0.01) / (2 * limit))
    return field.astype(np.int32)


def _grain(keys: np.ndarray, size: int) -> np.ndarray:
    """White noise in [-1, 1), float32 [n size size], from a 32-bit hash of key and pixel."""
    pixel = np.arange(size * size, dtype=np.uint32).reshape(size, size) * np.uint32(0x9E3779B1)
    h = (keys >> np.uint64(32)).astype(np.uint32)[:, None, None] ^ pixel
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    noise = (h >> np.uint32(8)).astype(np.float32)
    noise *= np.float32(2.0**-23)
    noise -= np.float32(1)
    return noise


def _blotches(lattice: np.ndarray, size: int) -> np.ndarray:
    """Value noise in [-1, 1), float32 [n size size]: a lattice [n g g] in [0, 1), interpolated bilinearly."""
    position = (np.arange(size) + 0.5) * (lattice.shape[-1] - 1) / size
    low = position.astype(int)
    weight = (position - low).astype(np.float32)
    across = lattice[:, :, low]
    across += (lattice[:, :, low + 1] - across) * weight
    down = across[:, low]
    rise = across[:, low + 1]
    rise -= down
    rise *= weight[:, None]
    down += rise
    down *= np.float32(2)
    down -= np.float32(1)
    return down


def _pitch(layout: Layout, scenes: Scenes) -> np.ndarray:
    """Phase per image side along x and y, and phase at the corner, of all stripes: float64 [n K 3], radians."""
    preset, slots = layout.preset, layout.things
    normals = np.array([normal for _, normal in ORIENTATIONS])[scenes.parts[..., 0]]
    tilt = between(uniform(scenes.keys, "tilt", slots), (-preset.tilt, preset.tilt))
    c, s = np.cos(tilt), np.sin(tilt)
    x, y = c * normals[..., 0] - s * normals[..., 1], s * normals[..., 0] + c * normals[..., 1]
    stretch = between(uniform(scenes.keys, "stretch", slots), (0.92, 1.08))
    speed = 2 * np.pi * np.array(preset.cycles)[scenes.parts[..., 1]] * stretch
    return np.stack([speed * x, speed * y, 2 * np.pi * uniform(scenes.keys, "phase", slots)], axis=-1)


def _stripes(pitch: np.ndarray, size: int) -> np.ndarray:
    """sin(a x + b y + c) for pitch [n 3], float32 [n size size], from sines along the two axes alone."""
    axis = (np.arange(size) + 0.5) / size
    along = pitch[:, :1] * axis
    down = pitch[:, 1:2] * axis + pitch[:, 2:]
    # Rounded: the last bit of a sine differs between processors, the bytes of a scene must not.
    sx, cx, sy, cy = (np.rint(f(p) * 16384).astype(np.float32) for p in (along, down) for f in (np.sin, np.cos))
    field = sx[:, None, :] * cy[:, :, None]
    field += cx[:, None, :] * sy[:, :, None]
    field *= np.float32(2.0**-28)
    np.clip(field, np.float32(-1), np.float32(1), out=field)
    return field


def _inside(scenes: Scenes, slot: int, take, size: int) -> np.ndarray:
    """bool [n size size]: the silhouette in ``slot``, turned, scaled and put in its place."""
    axis = (np.arange(size) + 0.5) / size
    turn, scale = scenes.turn[take, slot], ATLAS / 2 / scenes.radius[take, slot]
    centre = scenes.centre[take, slot]
    c = (np.rint(np.cos(turn) * 16384) / 16384 * scale)[:, None]
    s = (np.rint(np.sin(turn) * 16384) / 16384 * scale)[:, None]
    x, y = axis - centre[:, :1], axis - centre[:, 1:]
    middle = np.float32(ATLAS / 2)
    columns = (c * x).astype(np.float32)[:, None, :] + ((s * y).astype(np.float32) + middle)[:, :, None]
    rows = (-s * x).astype(np.float32)[:, None, :] + ((c * y).astype(np.float32) + middle)[:, :, None]
    for place in (columns, rows):
        np.clip(place, np.float32(0), np.float32(ATLAS - 1), out=place)
    index = rows.astype(np.int32)
    index *= np.int32(ATLAS)
    index += columns.astype(np.int32)
    index += (scenes.parts[take, slot, 2] * ATLAS**2).astype(np.int32)[:, None, None]
    return atlas().reshape(-1).take(index)


def _palettes(layout: Layout, scenes: Scenes, limit: float) -> np.ndarray:
    """Packed colours by layer and level, uint32 [n (1 + K) * _LEVELS]; layer 0 is the background."""
    preset, slots, high = layout.preset, layout.things, layout.objects[1]
    n = len(scenes.keys)
    middle = between(uniform(scenes.keys, "colours", 1 + slots, 3), (70.0, 186.0))
    way = 2 * uniform(scenes.keys, "ways", 1 + slots, 3) - 1
    strength = uniform(scenes.keys, "contrast", 1 + slots)
    strength[:, 0] = between(strength[:, 0], preset.ground)
    strength[:, 1:] = between(strength[:, 1:], preset.contrast)
    length = np.sqrt((way * way).sum(axis=-1)) + 1e-3
    way *= (strength / 2 / length)[..., None]
    level = np.linspace(-limit, limit, _LEVELS, dtype=np.float32)
    packed = np.zeros((n, 1 + slots, _LEVELS, 4), np.uint8)
    for channel in range(3):
        colour = way[..., channel, None].astype(np.float32) * level
        colour += middle[..., channel, None].astype(np.float32) + np.float32(0.5)
        packed[..., channel] = np.clip(colour, np.float32(0), np.float32(255), out=colour)
    packed[:, 1 : 1 + high, :, 3] = np.arange(1, high + 1)[:, None]
    return packed.reshape(n, -1).view(np.uint32)
