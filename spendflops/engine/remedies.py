"""What makes a training step smaller, and what each way asks for; :data:`REMEDIES` is the list of all.

None changes what is learnt but for rounding, except where it says so. A plan compiles and prices them
(:mod:`spendflops.study.fit`); a run that has no memory left names those that apply.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

from spendflops.contracts import conformity, errors
from spendflops.engine.build import build_stage
from spendflops.engine.recipe import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way to need less memory.

    Attributes:
        name: In a few words.
        smaller: Stage -> (what to set, the stage with it) from the least to the strongest; a ConfigError says why not.
        share: How many times the devices it takes: its stage is what each of the former devices would do.
    """

    name: str
    smaller: Callable[[Stage], Iterator[tuple[str, Stage]]]
    share: Callable[[Stage, Stage], int] = lambda before, after: 1


def _option(stage: Stage, name: str, value: str) -> Iterator[tuple[str, Stage]]:
    factory = stage.backbone
    cls, bound = getattr(factory, "func", factory), getattr(factory, "keywords", {})
    known = conformity.options("backbones", cls)
    if name not in known:
        raise errors.ConfigError(f"{cls.__name__} has no option {name}")
    if bound.get(name, known[name].default) == value:
        raise errors.ConfigError(f"{name} is {value!r} already")
    wanted = functools.partial(factory, **{name: value})
    yield f"the backbone's {name} = {value!r}", dataclasses.replace(stage, backbone=wanted)


def _accumulated(stage: Stage) -> Iterator[tuple[str, Stage]]:
    parts = 2 * stage.accumulate
    while stage.batch_size % parts == 0:
        smaller = dataclasses.replace(stage, accumulate=parts)
        # Where the examples of a batch meet, building it says so.
        build_stage(smaller)
        yield f"Stage.accumulate = {parts}", smaller
        parts *= 2


def _spread(stage: Stage) -> Iterator[tuple[str, Stage]]:
    objective = build_stage(stage).definition.example
    if objective.couples_batch or objective.backbone.couples_batch:
        raise errors.ConfigError(
            "not told here: examples meet across devices, so that a device's share is not a smaller batch"
        )
    times = 2
    while stage.batch_size % times == 0 and stage.batch_size // times >= stage.accumulate:
        yield f"{times} times the devices", dataclasses.replace(stage, batch_size=stage.batch_size // times)
        times *= 2


REMEDIES = (
    Remedy(name="chunked attention", smaller=lambda stage: _option(stage, "attention", "chunked")),
    Remedy(name="remat of blocks", smaller=lambda stage: _option(stage, "remat", "blocks")),
    Remedy(name="accumulation", smaller=_accumulated),
    Remedy(
        name="fewer examples a device",
        smaller=_spread,
        share=lambda before, after: before.batch_size // after.batch_size,
    ),
)
