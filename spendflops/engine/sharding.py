"""Where arrays live: the batch is split over a ``data`` axis, the state is on every device."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spendflops.contracts import errors


@functools.cache
def mesh() -> Mesh:
    """All devices along one axis ``data``."""
    # jax.make_mesh gives Explicit axes by default, under which ordinary reshapes raise.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated() -> NamedSharding:
    """On every device."""
    return NamedSharding(mesh(), PartitionSpec())


def split() -> NamedSharding:
    """Split over the first axis."""
    return NamedSharding(mesh(), PartitionSpec("data"))


def check_batch(size: int, *, parts: int = 1) -> None:
    """Raises a ConfigError for a batch of which the devices cannot share evenly each of ``parts`` micro-batches."""
    if parts < 1:
        raise errors.ConfigError(f"accumulate = {parts}", fix="a number of micro-batches, at least 1")
    shares = jax.device_count() * parts
    if size < 1 or size % shares:
        micro = f", in {parts} micro-batches" if parts > 1 else ""
        raise errors.ConfigError(
            f"batch_size {size} cannot be split over {jax.device_count()} devices{micro}",
            fix=f"a positive multiple of {shares}",
        )


def struct(shape: tuple[int, ...], dtype: Any, *, batch: bool) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of an argument that is not there yet."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=split() if batch else replicated())


def place(tree: Any, *, batch: bool) -> Any:
    """Host arrays to the devices."""
    return jax.device_put(tree, split() if batch else replicated())
