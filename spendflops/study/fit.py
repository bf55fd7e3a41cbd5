"""Does a training step fit into the memory of a machine, and if not, what would, and at which price?

What the compiler of this machine says is compared: that of another kind arranges memory in another way, and with
``--target`` it is the TPU's own. Price: FLOPs of the compiled program (counter C), all devices, over those without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from spendflops.accounts import machines
from spendflops.accounts.figures import Figure
from spendflops.contracts import errors
from spendflops.engine.build import Built, build_stage
from spendflops.engine.program import Program
from spendflops.engine.recipe import Stage
from spendflops.engine.remedies import REMEDIES, Remedy
from spendflops.engine.target import Target

GPU_PART = 0.75
"""What JAX takes of a GPU, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a step is to run.

    Attributes:
        name: Of the machine, or of the topology.
        devices: JAX devices that share a batch.
        memory: Of one device; None where no figure is known.
        target: What is compiled for; None for the compiler of this machine.
    """

    name: str
    devices: int
    memory: Figure | None
    target: Target | None = None

    @property
    def usable(self) -> float | None:
        """Bytes of one device that a run gets."""
        return None if self.memory is None else self.memory.value * (GPU_PART if self._gpu else 1.0)

    @property
    def told(self) -> str:
        """Where the figure is from."""
        if self.memory is None:
            return "nobody states its memory"
        part = f"{GPU_PART:.0%} of it, which JAX takes of a GPU by default; " if self._gpu else ""
        return f"{part}{self.memory.source}"

    @property
    def _gpu(self) -> bool:
        return not any(word in self.name for word in ("TPU", "cpu"))


def of_machine(machine: machines.Machine) -> Place:
    """A machine by its name; this machine's compiler stands for its own."""
    return Place(name=str(machine), devices=machine.devices, memory=machine.memory)


def of_target(target: Target) -> Place:
    """A topology of TPUs."""
    kind = target.mesh.devices.flat[0].device_kind
    found = machines.parse("this", here=machines.Host(kind=kind, devices=target.devices, cores=1))
    return Place(name=f"{found} ({target.name})", devices=target.devices, memory=found.memory, target=target)


def report(built: Built, place: Place) -> list[dict[str, Any]]:
    """What is known of each training step, as JSON: whether it fits, and if not, what would."""
    return [_stage(stage, place) for stage, steps in zip(built.recipe.stages, built.steps, strict=True) if steps]


def _stage(stage: Stage, place: Place) -> dict[str, Any]:
    share, note = _share(stage, place)
    plain = _compiled(share, place)
    row = {
        "stage": stage.label,
        "place": place.name,
        "compiler": jax.default_backend() if place.target is None else place.target.name,
        "usable_bytes": place.usable,
        "usable_from": place.told,
        "note": note,
        **_size(plain, place),
    }
    tried = [] if row["fits"] is not False else [line for r in REMEDIES for line in _tried(r, share, plain, place)]
    return {**row, "remedies": tried}


def _share(stage: Stage, place: Place) -> tuple[Stage, str]:
    """What as many devices as are here do of the stage, and what is not as it will be."""
    here = jax.device_count() if place.target is None else place.devices
    if place.devices <= here:
        return stage, ""
    objective, times = build_stage(stage).definition.example, place.devices // here
    if objective.couples_batch or objective.backbone.couples_batch:
        return stage, f"of the whole batch on {here} device(s): examples meet across devices; a share needs less"
    if stage.batch_size % times:
        raise errors.ConfigError(
            f"a batch of {stage.batch_size} cannot be split over the {place.devices} devices of {place.name}",
            fix=f"a multiple of {place.devices}",
        )
    return dataclasses.replace(
        stage, batch_size=stage.batch_size // times
    ), f"of a {times}th of the batch, with all of the state"


def _tried(remedy: Remedy, stage: Stage, plain: Program, place: Place) -> Iterator[dict[str, Any]]:
    """Its weakest form that fits, else its strongest; or why there is none."""
    line = {"remedy": remedy.name, "setting": "", "reason": "", "memory_bytes": None, "fits": None, "flops_ratio": None}
    try:
        for setting, smaller in remedy.smaller(stage):
            program = _compiled(smaller, place)
            line |= {"setting": setting, **_size(program, place)}
            line["flops_ratio"] = _ratio(program, plain, remedy.share(stage, smaller))
            if line["fits"]:
                break
    except errors.ConfigError as error:
        line["reason"] = error.why or error.what
    if not line["setting"] and not line["reason"]:
        line["reason"] = f"a batch of {stage.batch_size} has no smaller parts"
    yield line


def _compiled(stage: Stage, place: Place) -> Program:
    program = build_stage(stage).train
    return program if place.target is None else place.target.program(program)


def _size(program: Program, place: Place) -> dict[str, Any]:
    memory = program.memory()
    known = memory is not None and place.usable is not None
    return {
        "memory_bytes": None if memory is None else memory.peak,
        "fits": memory.peak <= place.usable if known else None,
    }


def _ratio(program: Program, plain: Program, share: int) -> float | None:
    ours, theirs = (p.cost(hardware=True).total for p in (program, plain))
    return None if not ours or not theirs else share * ours / theirs
