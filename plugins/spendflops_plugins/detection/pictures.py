"""Pictures of detections: what a model found and what is there, readable at the width of a phone."""

from __future__ import annotations

import colorsys
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Bool, Float, Int, UInt8

from spendflops.parts.images import resize

SIDE, BAR, LETTERS = 380, 24, 15
"""Pixels of the longer side of an image in a picture, of the bar above it, and of letters."""
LONGEST = 22
"""Characters of the longest name that is written."""
FILL = 0.4
"""How much of a mask's colour covers the image."""
_DARK, _LIGHT = (24, 28, 33), (255, 255, 255)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """What is drawn into an image, in its pixels; ``masks`` may be empty, and of what is true there are no scores.

    ``left_out``: how many smaller ones are not drawn, which the picture says.
    """

    boxes: Float[np.ndarray, "M 4"]
    labels: Int[np.ndarray, " M"]
    scores: Float[np.ndarray, " M"] | None
    masks: Bool[np.ndarray, "M H W"]
    left_out: int = 0


def beside(image: UInt8[np.ndarray, "H W 3"], predicted: Objects, true: Objects, *, names: Sequence[str]) -> bytes:
    """A JPEG of the image twice, with what was predicted and with what is true: one above the other, or, if it is
    higher than wide, side by side. Images of any size come to the same one."""
    panels = [_panel(image, o, title, names) for o, title in ((predicted, "predicted"), (true, "true"))]
    height, width = image.shape[:2]
    both = np.concatenate(panels, axis=1 if height > width else 0)
    file = io.BytesIO()
    PIL.Image.fromarray(both).save(file, "JPEG", quality=75)
    return file.getvalue()


def _panel(image: np.ndarray, objects: Objects, title: str, names: Sequence[str]) -> np.ndarray:
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = resize(image, size, "bicubic").copy()
    for mask, label in zip(objects.masks, objects.labels, strict=False):
        _fill(pixels, resize(mask.astype(np.uint8), size, "nearest"), _colour(int(label)))
    canvas = PIL.Image.new("RGB", (size[1], size[0] + BAR), _DARK)
    canvas.paste(PIL.Image.fromarray(pixels), (0, BAR))
    draw, font = PIL.ImageDraw.Draw(canvas), PIL.ImageFont.load_default(LETTERS)
    title += f", {objects.left_out} smaller not drawn" if objects.left_out else ""
    draw.text((6, BAR / 2), title, _LIGHT, font, anchor="lm")
    # Of a data set they may reach over the edge of the image.
    boxes = np.clip(objects.boxes, 0, (width, height, width, height)) * scale + (0, BAR, 0, BAR)
    # The best come last, and names after all boxes: on top.
    order = range(len(boxes) - 1, -1, -1)
    for row in order:
        left, top, right, bottom = boxes[row]
        edges = (int(left), int(top), max(int(left), int(np.ceil(right)) - 1), max(int(top), int(np.ceil(bottom)) - 1))
        draw.rectangle(edges, outline=_colour(int(objects.labels[row])), width=2)
    for row in order:
        label = int(objects.labels[row])
        said = names[label][:LONGEST] + ("" if objects.scores is None else f" {objects.scores[row]:.2f}")
        _name(draw, font, (int(boxes[row][0]), int(boxes[row][1])), said, _colour(label), canvas.size)
    return np.asarray(canvas)


def _fill(pixels: np.ndarray, mask: UInt8[np.ndarray, "h w"], colour: tuple[int, int, int]) -> None:
    inside = mask.astype(bool)
    pixels[inside] = ((1 - FILL) * pixels[inside] + FILL * np.array(colour)).astype(np.uint8)
    pixels[inside & ~cv2.erode(mask, np.ones((3, 3), np.uint8)).astype(bool)] = colour


def _name(
    draw: PIL.ImageDraw.ImageDraw, font: Any, corner: tuple[int, int], said: str, colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:  # fmt: skip
    """A name above the top left corner of a box, inside it where there is no room; never outside of the picture."""
    wide, high = draw.textlength(said, font) + 6, LETTERS + 4
    x = min(max(0, corner[0]), max(0, size[0] - wide))
    y = min(max(BAR, corner[1] - high if corner[1] - high >= BAR else corner[1]), size[1] - high)
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    bright = sum(part * weight for part, weight in zip(colour, (0.3, 0.59, 0.11), strict=True)) > 140
    draw.text((x + 3, y + high / 2), said, _DARK if bright else _LIGHT, font, anchor="lm")


def _colour(label: int) -> tuple[int, int, int]:
    """A colour of its own for each class: steps of the golden ratio round the circle of hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
