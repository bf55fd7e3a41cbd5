"""Where arrays live: every device has its rows of a batch, and all of the state or, of large tensors, its share.

Programs are written for the global batch and the whole state; the compiler puts in what devices have to exchange.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spendflops.contracts import errors

ROWS = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How a stage uses the devices. It changes neither what is computed, but for rounding, nor its price.

    Attributes:
        fsdp: Each large tensor of the state (parameters, EMA copies, moments) is divided over at most so many devices:
            over the largest divisor of their number. 1 keeps all of it on every device.
        min_size: Elements from which on a tensor is divided, along its longest axis that can be divided evenly.
    """

    fsdp: int = 1
    min_size: int = 2**16

    def __post_init__(self) -> None:
        if self.fsdp < 1 or self.min_size < 1:
            raise errors.ConfigError(f"Mesh: fsdp {self.fsdp}, min_size {self.min_size}", fix="both are at least 1")

    @property
    def ways(self) -> int:
        """Devices over which a tensor is divided."""
        devices = jax.device_count()
        return max(n for n in range(1, min(self.fsdp, devices) + 1) if devices % n == 0)

    @property
    def devices(self) -> jax.sharding.Mesh:
        """All devices."""
        return _devices(self.ways)

    @property
    def replicated(self) -> NamedSharding:
        """On every device."""
        return NamedSharding(self.devices, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Rows of the first axis over all devices."""
        return NamedSharding(self.devices, ROWS)

    def of(self, shape: tuple[int, ...]) -> NamedSharding:
        """Where a tensor of the state with this shape lives."""
        axes = [axis for axis, size in enumerate(shape) if size % self.ways == 0]
        if self.ways == 1 or math.prod(shape) < self.min_size or not axes:
            return self.replicated
        longest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(self.devices, PartitionSpec(*[None] * longest, "fsdp"))

    def struct(self, shape: tuple[int, ...], dtype: Any, *, batch: bool = False) -> jax.ShapeDtypeStruct:
        """Shape, dtype and place of an argument that is not there yet: of the rows of a batch, or on every device."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.split if batch else self.replicated)

    def state(self, shapes: Any) -> Any:
        """The same of a state, or a part of it."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.of(x.shape)), shapes)


@functools.cache
def _devices(ways: int) -> jax.sharding.Mesh:
    """All devices, those of a host side by side, so that a host reads consecutive rows of a batch."""
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    grid = np.asarray(devices, object).reshape(-1, ways)
    # Explicit axes, JAX's default, would make ordinary reshapes raise.
    return jax.sharding.Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


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


def places(like: Any) -> Any:
    """The shardings of a tree of arrays or of shapes."""
    return jax.tree.map(lambda x: x.sharding, like)


def place(tree: Any, like: Any) -> Any:
    """Arrays of the host, the same on every host, to the devices where ``like`` is."""
    if jax.process_count() == 1:
        return jax.device_put(tree, places(like))
    return jax.tree.map(_placed, tree, places(like))


def _placed(array: Any, where: NamedSharding) -> jax.Array:
    if jnp.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        # A key cannot be put on other hosts' devices; its words can.
        words = _placed(jax.random.key_data(array), where)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(array))
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def place_rows(batch: Any, like: Any) -> Any:
    """The rows of a batch that this host read, to its devices: with those of the other hosts they are ``like``."""
    if jax.process_count() == 1:
        return place(batch, like)
    return jax.tree.map(lambda x, s: jax.make_array_from_process_local_data(s.sharding, x, s.shape), batch, like)


def own_rows(structs: Any) -> Any:
    """Shapes of the rows of a batch that this host reads."""
    hosts = jax.process_count()
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((s.shape[0] // hosts, *s.shape[1:]), s.dtype), structs)


def copied(tree: Any, like: Any) -> Any:
    """Arrays of the host or of devices, copied to where ``like`` is."""
    return jax.jit(lambda x: jax.tree.map(jnp.copy, x), out_shardings=places(like))(tree)
