"""Contact sheets: what a data set holds, and what a method makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import UInt8

from spendflops.contracts.dataset import Source
from spendflops.contracts.errors import DataError
from spendflops.contracts.objective import Views
from spendflops.contracts.types import DatasetInfo, InputSpec, Sample
from spendflops.parts.images import decode_mask

SIDE, LINE, GAP = 160, 14, 6
"""Pixels of a picture's longer side, of a line of text, between pictures."""
_COLOURS = np.random.default_rng(5).integers(40, 256, (256, 3)).astype(np.uint8)


def sample_sheet(source: Source, info: DatasetInfo, *, count: int = 24, columns: int = 6) -> PIL.Image.Image:
    """Evenly spaced samples with their labels: masks beside the image, boxes in it, captions below.

    A sample that cannot be read is shown as a grey field with its error.
    """
    cells = []
    for index in _chosen(len(source), count):
        try:
            cells.append(_sample_cell(source[index], info))
        except DataError as error:
            cells.append(([np.full((SIDE, SIDE, 3), 128, np.uint8)], f"{error.what}: {error.why}"))
    return _sheet(cells, columns)


def views_sheet(source: Source, views: Views, spec: InputSpec, *, count: int = 6, seed: int = 0) -> PIL.Image.Image:
    """A row a sample: the image, then every view that the method makes of it.

    Args:
        source: Samples with the features that the views read.
        views: Of the objective.
        spec: Of the model.
        count: Rows.
        seed: Of the augmentation.

    Raises:
        DataError: A broken image.
    """
    cells = []
    for index in _chosen(len(source), count):
        sample = source[index]
        made = views(sample, np.random.default_rng([seed, index]), spec)
        pictures = [sample["image"].decode(), *_pictures(made)]
        others = ", ".join(f"{name} {list(np.shape(value))}" for name, value in made.items())
        cells.append((pictures, others))
    return _sheet(cells, 1)


def _chosen(length: int, count: int) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))]


def _pictures(made: Mapping[str, Any]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for value in made.values():
        array = np.asarray(value)
        if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3:
            found += list(array.reshape(-1, *array.shape[-3:]))
    return found


def _sample_cell(sample: Sample, info: DatasetInfo) -> tuple[list[np.ndarray], str]:
    pixels = sample["image"].decode()
    if len(boxes := np.reshape(sample.get("boxes", ()), (-1, 4))):
        drawn = PIL.Image.fromarray(pixels)
        pen = PIL.ImageDraw.Draw(drawn)
        for box, label in zip(boxes, sample.get("box_labels", range(len(boxes))), strict=True):
            colour = tuple(_COLOURS[int(label) % 256].tolist())
            pen.rectangle([float(x) for x in box], outline=colour, width=max(1, max(drawn.size) // 150))
        pixels = np.asarray(drawn)
    pictures = [pixels]
    if "mask" in sample:
        mask = decode_mask(sample["mask"])
        pictures.append(np.where((mask == 255)[..., None], np.uint8(0), _COLOURS[mask]))
    names = info.class_names or info.classes
    words = []
    if "label" in sample:
        label = int(sample["label"])
        words.append(f"{label} {names[label]}" if 0 <= label < len(names) else str(label))
    if "caption" in sample or "captions" in sample:
        words.append(str(sample.get("caption", *(sample.get("captions") or ("",))[:1])))
    return pictures, ", ".join(words)


def _fit(pixels: UInt8[np.ndarray, "H W 3"]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    # Small images are enlarged by whole pixels: a pixel stays a pixel.
    how = PIL.Image.Resampling.NEAREST if scale > 1 else PIL.Image.Resampling.BICUBIC
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), how)


def _sheet(cells: Sequence[tuple[list[np.ndarray], str]], columns: int) -> PIL.Image.Image:
    if not cells:
        raise DataError("there is nothing to show", fix="check the path and the split")
    most = max(len(pictures) for pictures, _ in cells)
    width, height = most * (SIDE + GAP), SIDE + LINE + GAP
    rows = -(-len(cells) // columns)
    sheet = PIL.Image.new("RGB", (GAP + min(columns, len(cells)) * width, GAP + rows * height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for number, (pictures, text) in enumerate(cells):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        for place, pixels in enumerate(pictures):
            fitted = _fit(pixels)
            across, down = ((SIDE - side) // 2 for side in fitted.size)
            sheet.paste(fitted, (left + place * (SIDE + GAP) + across, top + down))
        plain = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
        while plain and pen.textlength(plain) > width - GAP:
            plain = plain[: max(1, len(plain) * 9 // 10 - 1)] if len(plain) > 1 else ""
        pen.text((left, top + SIDE), plain, fill="black")
    return sheet
