"""RoIAlign over a feature pyramid (He et al., arXiv:1703.06870, section 3; Lin et al., arXiv:1612.03144, equation 1).

No matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from spendflops.contracts.errors import ConfigError
from spendflops_plugins.detection.boxes import area


def levels_of(
    boxes: Float[Array, "R 4"],
    *,
    lowest: int,
    highest: int,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int32[Array, " R"]:
    """The pyramid level of each box: clip(floor(canonical_level + log2(sqrt(area) / canonical_size)), lowest, highest).

    Areas are compared with those where a level begins, which are exact; a logarithm in float32 may put a box of
    just 112 x 112 pixels one level too low. A box without area has the lowest level.

    Args:
        boxes: In pixels of the image.
        lowest, highest: Levels that there are; level l has stride 2^l.
        canonical_size: Pixels of the side of a square box that begins ``canonical_level``.
        canonical_level: That level.
    """
    begins = [(canonical_size * 2.0 ** (level - canonical_level)) ** 2 for level in range(lowest + 1, highest + 1)]
    return lowest + (area(boxes)[:, None] >= jnp.asarray(begins, jnp.float32)).sum(axis=1, dtype=jnp.int32)


def roi_align(
    maps: Sequence[Float[Array, "H W C"]],
    boxes: Float[Array, "R 4"],
    level: Int32[Array, " R"],
    *,
    strides: tuple[int, ...],
    size: int,
    samples: int = 2,
) -> Float[Array, "R S S C"]:
    """What the maps show within each box, at ``size`` x ``size`` bins.

    A bin is the mean of ``samples`` x ``samples`` bilinear samples at regular places. The middle of cell i of a map is
    at (i + 0.5) * stride (``aligned=True`` of torchvision and detectron2). Samples up to half a cell outside of the map
    read the cells at its border; beyond, they are 0 (torchvision's rule).

    All maps are laid end to end, so that a box reads its own level only. The 4 samples^2 cells that make up a bin are
    gathered, weighed and added one after the other: nothing is larger than the output, but for a copy of the maps in
    float32. The gradient is added up in the same way, in float32; on a GPU the order of these additions is not
    determined. There is none for the boxes, as in torchvision.

    Deviation: the number of samples is fixed, where detectron2's ``sampling_ratio=0`` takes as many as a bin has
    cells, which no fixed shape can.

    Args:
        maps: Of one image, any number of levels, the same channels.
        boxes: In pixels of the image.
        level: Which of ``maps`` each box reads.
        strides: Pixels of the image from one cell of a map to the next.
        size: S.
        samples: Along each side of a bin.

    Returns:
        In the dtype of the maps.

    Raises:
        ConfigError: Not one stride a map.
    """
    if len(maps) != len(strides):
        raise ConfigError(f"{len(maps)} feature maps have {len(strides)} strides", fix="give one for each map")
    boxes = jax.lax.stop_gradient(boxes)
    heights, widths = (np.asarray([one.shape[axis] for one in maps], np.int32) for axis in (0, 1))
    begins = np.cumsum([0, *(heights * widths)[:-1]], dtype=np.int32)
    height, width, begin = (jnp.asarray(table)[level] for table in (heights, widths, begins))
    boxes = boxes / jnp.asarray(strides, jnp.float32)[level, None]
    rows, row_weights = _taps(boxes[:, 1], boxes[:, 3], height, size, samples)
    columns, column_weights = _taps(boxes[:, 0], boxes[:, 2], width, size, samples)
    rows = begin[:, None] + rows * width[:, None]
    index = rows[:, None, :, :, None] + columns[None, :, :, None, :]
    weights = row_weights[:, None, :, :, None] * column_weights[None, :, :, None, :]

    dtype, channels = maps[0].dtype, maps[0].shape[-1]
    cells = jnp.concatenate([one.reshape(-1, channels) for one in maps]).astype(jnp.promote_types(dtype, jnp.float32))

    def add(total, tap):
        where, weight = tap
        return total + weight[..., None] * cells.at[where].get(mode="promise_in_bounds"), None

    shape = (len(boxes), size, size)
    taps = [one.reshape((2 * samples) ** 2, *shape) for one in (index, weights)]
    return jax.lax.scan(add, jnp.zeros((*shape, channels), cells.dtype), taps)[0].astype(dtype)


def _taps(
    start: Float[Array, " R"], stop: Float[Array, " R"], count: Int[Array, " R"], size: int, samples: int
) -> tuple[Int[Array, "T R S"], Float[Array, "T R S"]]:
    """Along one axis: the 2 samples cells of each of ``size`` bins from ``start`` to ``stop``, and their weights."""
    last = count[:, None] - 1
    steps = (np.arange(size * samples, dtype=np.float32) + 0.5) / (size * samples)
    place = start[:, None] + steps * (stop - start)[:, None] - 0.5
    near = (place >= -1) & (place <= last + 1)
    place = jnp.clip(place, 0, last)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    part = place - low

    def by_sample(first: Array, second: Array) -> Array:
        bins = jnp.stack([first, second]).reshape(2, len(start), size, samples)
        return jnp.moveaxis(bins, -1, 1).reshape(2 * samples, len(start), size)

    return by_sample(low, high), by_sample(near * (1 - part) / samples, near * part / samples)
