"""TPUs that are not here: the compiler in the package libtpu runs on any CPU, and compiles programs for them.

Nothing is executed and nothing is allocated. Koppula et al. 2022 (arXiv 2209.15589, section 2.3) count the FLOPs of
programs compiled for TPU v3; `v3:4x8x1` are 32 of its chips. A chip of TPU v2, v3, v4 and TPU7x is two JAX devices.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from spendflops.contracts import errors
from spendflops.engine.program import Program
from spendflops.engine.sharding import ROWS

GENERATIONS = ("v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x")

# A size of zero would end the process inside the library.
_FORM = re.compile(r"([a-z]\w*):([1-9]\d*(?:x[1-9]\d*){1,2})")

# The library would otherwise ask the network for the TPU of this host, and lock other processes out.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Chips of a TPU that programs are compiled for.

    Attributes:
        name: ``"v3:4x8x1"``: generation and chips along the axes of the torus.
        mesh: All their devices along ``data``; it has the axes of :attr:`spendflops.engine.sharding.Mesh.devices`.
    """

    name: str
    mesh: Mesh

    @property
    def devices(self) -> int:
        """JAX devices."""
        return self.mesh.size

    def program(self, program: Program) -> Program:
        """The same program for these devices: its batch is split over them, its state is on each.

        Raises:
            errors.ConfigError: A batch that they cannot share evenly.
        """

        def moved(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            spec = x.sharding.spec
            if spec == ROWS and x.shape[0] % self.devices:
                raise errors.ConfigError(
                    f"{program.name}: a batch of {x.shape[0]} cannot be split over the {self.devices} devices of "
                    f"{self.name}",
                    fix=f"a multiple of {self.devices}, or fewer chips",
                )
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))

        args = jax.tree.map(moved, program.args)
        return dataclasses.replace(program, args=args, devices=self.devices, target=self.name)

    def to_json(self) -> dict[str, Any]:
        """What its numbers depend on."""
        packages = ("libtpu", "jax", "jaxlib")
        return {
            "topology": self.name,
            "devices": self.devices,
            "kind": self.mesh.devices.flat[0].device_kind,
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }


def prepare() -> None:
    """Keeps the library off the network. Best before JAX starts: where libtpu is installed, JAX loads it then."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def named(name: str) -> Target:
    """The target of a name.

    Raises:
        errors.ConfigError: Not such a name, no libtpu, or chips that it does not know.
    """
    match = _FORM.fullmatch(name.strip().lower())
    if match is None:
        raise errors.ConfigError(
            f"{name!r} is no target",
            why="it is a generation of TPUs and its chips along two or three axes",
            fix=f"v3:4x8x1, v5e:4x4; generations: {', '.join(GENERATIONS)}",
        )
    if match[1] not in GENERATIONS:
        raise errors.ConfigError(
            f"unknown generation of TPUs {match[1]!r}{errors.suggest(match[1], GENERATIONS)}",
            fix=f"one of {', '.join(GENERATIONS)}",
        )
    try:
        version = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError as error:
        raise errors.ConfigError(
            f"compiling for {name} needs the package libtpu",
            why="it holds the compiler for TPUs; it runs on a machine without one",
            fix="pip install 'spendflops[tpu-plan]' (its licence: the Google Cloud Platform Terms of Service)",
        ) from error
    prepare()
    try:
        found = topologies.get_topology_desc(match[0], platform="tpu").devices
    except Exception as error:
        raise errors.ConfigError(
            f"libtpu {version} does not compile for {name}",
            why=str(error).splitlines()[0][:300],
            fix=f"another number of chips, as {match[1]}:2x2x1; generations: {', '.join(GENERATIONS)}",
        ) from error
    return Target(
        name=match[0], mesh=Mesh(np.array(found).reshape(-1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    )
