"""What can be seen in a scene and what it is called: textures, silhouettes, classes, presets, captions."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

# (name, unit normal of the stripes (x to the right, y downwards)); "rising" stripes look like "/".
_HALF = 0.7071067811865476
ORIENTATIONS = (
    ("vertical", (1.0, 0.0)),
    ("horizontal", (0.0, 1.0)),
    ("rising", (_HALF, _HALF)),
    ("falling", (_HALF, -_HALF)),
)
FREQUENCIES = ("wide", "fine")
SILHOUETTES = ("disk", "square", "triangle", "star", "cross", "heart")

ATLAS = 256  # side of the silhouette pictures, which cover [-1, 1] x [-1, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """How hard the scenes are.

    Attributes:
        by_shape: The silhouette is part of the class; otherwise it is a nuisance.
        cycles: Stripes across the image side, for each of ``FREQUENCIES``.
        tilt: Largest rotation of the stripes away from their class, radians.
        contrast: Range of the distance between the two colours of an object, grey levels, root of the sum over RGB.
        ground: The same for the background.
        grain: Amplitude of the pixel noise, where the stripes have amplitude 1.
        crowd: Range of the number of objects in an uncurated scene.
        clutter: Largest number of plain distractors in a scene.
        label_noise: Part of the uncurated training labels that is drawn at random.
        caption_noise: Part of the uncurated training captions that describe something else.
    """

    by_shape: bool
    cycles: tuple[float, float]
    tilt: float
    contrast: tuple[float, float]
    ground: tuple[float, float]
    grain: float
    crowd: tuple[int, int]
    clutter: int
    label_noise: float
    caption_noise: float


PRESETS = {
    "quick": Preset(
        by_shape=False,
        cycles=(4.0, 8.5),
        tilt=0.10,
        contrast=(100.0, 170.0),
        ground=(50.0, 120.0),
        grain=0.3,
        crowd=(1, 4),
        clutter=0,
        label_noise=0.1,
        caption_noise=0.1,
    ),
    "hard": Preset(
        by_shape=True,
        cycles=(9.0, 18.0),
        tilt=0.20,
        contrast=(45.0, 110.0),
        ground=(50.0, 120.0),
        grain=0.8,
        crowd=(2, 7),
        clutter=4,
        label_noise=0.2,
        caption_noise=0.2,
    ),
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Class names of a preset and what each class is made of.

    Attributes:
        classes: Names, "fine-rising" or "fine-rising-star".
        groups: Names of the families above the classes: orientations, frequencies, then silhouettes where they count.
        parts: int32 [classes 3], the orientation, frequency and silhouette of a class; silhouette -1 where it is free.
    """

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    parts: np.ndarray

    @classmethod
    def of(cls, preset: Preset) -> Vocabulary:
        """The classes of ``preset``: frequency x orientation (x silhouette)."""
        shapes = list(enumerate(SILHOUETTES)) if preset.by_shape else [(-1, "")]
        rows = [
            (f"{size}-{way}" + (f"-{shape}" if shape else ""), (o, f, s))
            for s, shape in shapes
            for f, size in enumerate(FREQUENCIES)
            for o, (way, _) in enumerate(ORIENTATIONS)
        ]
        groups = tuple(name for name, _ in ORIENTATIONS) + FREQUENCIES + (SILHOUETTES if preset.by_shape else ())
        return cls(tuple(name for name, _ in rows), groups, np.array([parts for _, parts in rows], np.int32))

    def lineage(self, label: int) -> list[int]:
        """Ids of a class and of its families; families are numbered after the classes, in the order of ``groups``."""
        orientation, frequency, silhouette = (int(part) for part in self.parts[label])
        first = len(self.classes)
        ids = [label, first + orientation, first + len(ORIENTATIONS) + frequency]
        if silhouette >= 0:
            ids.append(first + len(ORIENTATIONS) + len(FREQUENCIES) + silhouette)
        return ids


def caption(parts: np.ndarray, opening: int) -> str:
    """A sentence for objects with ``parts`` int [M 3] (orientation, frequency, silhouette), front to back."""
    things = [f"a {SILHOUETTES[s]} with {FREQUENCIES[f]} {ORIENTATIONS[o][0]} stripes" for o, f, s in parts.tolist()]
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return ("", "a picture of ", "a drawing of ", "here is ")[opening] + listed


@functools.lru_cache(maxsize=1)
def atlas() -> np.ndarray:
    """Pictures of the silhouettes, bool [S ATLAS ATLAS]: inside or not; the outermost ring is always outside."""
    axis = (np.arange(ATLAS) + 0.5) / (ATLAS / 2) - 1
    x, y = axis[None, :], axis[:, None]
    star = np.zeros((ATLAS, ATLAS), bool)
    corners = [_turn(0.0, -1.0, turn * 0.4 * np.pi) for turn in range(5)]
    # A pentagram is the set of points on the inner side of at least four of its five edges.
    votes = np.zeros((ATLAS, ATLAS), np.int32)
    for k in range(5):
        (ax, ay), (bx, by) = corners[k], corners[(k + 2) % 5]
        votes += (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
    star = votes >= 4
    bumps = ((np.abs(x) - 0.45) ** 2 + (y + 0.3) ** 2 < 0.5**2) & (y < 0.2)
    heart = bumps | ((y >= -0.3) & (np.abs(x) < 0.93 * (0.95 - y) / 1.08) & (y < 0.95) & (y > -0.05))
    pictures = np.stack(
        [
            x**2 + y**2 < 0.9**2,
            (np.abs(x) < 0.8) & (np.abs(y) < 0.8),
            (y < 0.75) & (np.abs(x) < (y + 0.95) / 1.75),
            star,
            ((np.abs(x) < 0.33) | (np.abs(y) < 0.33)) & (np.abs(x) < 0.92) & (np.abs(y) < 0.92),
            heart,
        ]
    )
    pictures[:, [0, -1]] = False
    pictures[:, :, [0, -1]] = False
    pictures.flags.writeable = False
    return pictures


def _turn(x: float, y: float, angle: float) -> tuple[float, float]:
    c, s = np.cos(angle), np.sin(angle)
    return c * x - s * y, s * x + c * y
