"""Pictures of single examples for reports: tiles side by side under their names, small and readable on a phone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Int, UInt8

from spendflops.parts.images import resize
from spendflops.parts.metrics import IGNORE

BAR, LETTERS, GAP = 22, 13, 4
"""Pixels of the bar with a name, of its letters, and between two tiles."""
COVER = 0.55
"""How much of a class's colour covers the image."""
RIGHT, WRONG, PLAIN = (36, 138, 78), (196, 62, 32), (40, 46, 54)
"""Colours of the bars; what is right and what is wrong is also said in words."""
_LIGHT = (255, 255, 255)


def colour(label: int) -> tuple[int, int, int]:
    """A colour of its own for each class: steps of the golden ratio round the circle of hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def covered(
    image: UInt8[np.ndarray, "H W 3"], classes: Int[np.ndarray, "h w"], *, cover: float = COVER
) -> UInt8[np.ndarray, "H W 3"]:
    """An image under the colours of a map of classes, which is brought to its size; ignored pixels stay."""
    full = resize(classes.astype(np.uint8), image.shape[:2], "nearest")
    known = np.unique(full[full != IGNORE])
    painted = image.astype(np.float32)
    for label in known:
        inside = full == label
        painted[inside] = (1 - cover) * painted[inside] + cover * np.array(colour(int(label)), np.float32)
    return np.rint(painted).astype(np.uint8)


def fitted(
    image: UInt8[np.ndarray, "H W 3"], side: int, *, interpolation: str = "bicubic"
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its longer side at ``side`` pixels."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(extent * scale)) for extent in image.shape[:2])
    return resize(image, (height, width), interpolation)


def named(
    image: UInt8[np.ndarray, "H W 3"], name: str, *, bar: tuple[int, int, int] = PLAIN
) -> UInt8[np.ndarray, "h w 3"]:
    """The image under a bar with a name, which is cut to fit."""
    height, width = image.shape[:2]
    canvas = PIL.Image.new("RGB", (width, height + BAR), bar)
    canvas.paste(PIL.Image.fromarray(image), (0, BAR))
    draw, font = PIL.ImageDraw.Draw(canvas), PIL.ImageFont.load_default(LETTERS)
    while len(name) > 1 and draw.textlength(name, font) > width - 8:
        name = name.rstrip("…")[:-1] + "…"
    draw.text((4, BAR / 2), name, _LIGHT, font, anchor="lm")
    return np.asarray(canvas)


def keyed(image: UInt8[np.ndarray, "H W 3"], labels: Sequence[int], names: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """The image above the colours and names of some classes, in lines as they fit."""
    font, width = PIL.ImageFont.load_default(LETTERS), image.shape[1]
    places, x, line = [], 4, 0
    for label in labels:
        room = round(font.getlength(names[label])) + LETTERS + 16
        if x > 4 and x + room > width:
            x, line = 4, line + 1
        places.append((label, x, line))
        x += room
    canvas = PIL.Image.new("RGB", (width, image.shape[0] + (BAR * (line + 1) if places else 0)), PLAIN)
    canvas.paste(PIL.Image.fromarray(image), (0, 0))
    draw = PIL.ImageDraw.Draw(canvas)
    for label, x, line in places:
        y = image.shape[0] + BAR * line + (BAR - LETTERS) // 2
        draw.rectangle((x, y, x + LETTERS - 2, y + LETTERS - 2), fill=colour(label))
        draw.text((x + LETTERS + 3, y + LETTERS / 2), names[label], _LIGHT, font, anchor="lm")
    return np.asarray(canvas)


def tiled(tiles: Sequence[UInt8[np.ndarray, "H W 3"]], columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """Tiles row after row on white, all cells as large as the largest tile."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // columns * (height + GAP), place % columns * (width + GAP)
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


def jpeg(image: UInt8[np.ndarray, "H W 3"], *, quality: int = 78) -> bytes:
    """The picture as a file."""
    return cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` places of ``count``, evenly spread: data that are sorted by class show several of them."""
    return sorted({int((i + 0.5) * count / wanted) for i in range(wanted)}) if count else []
