"""What is wrong with the data of a recipe is known before it spends anything.

All that it will read is opened. Of each split, the sizes of up to :data:`SIZES` stored label maps are compared with
those of their images, by their headers; up to :data:`LOOKED` examples are decoded, and labels, label maps and boxes are
compared with the lists of classes; up to :data:`MADE` are made into what the model will see. A split that is not larger
is looked at as a whole, of another one parts are, spread over it: `spendflops data verify` looks at everything.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.types import Sample
from spendflops.engine import data
from spendflops.engine.agreement import check_start
from spendflops.engine.build import Built, Prediction, open_source
from spendflops.engine.describe import digest
from spendflops.engine.load import parent, planned
from spendflops.engine.recipe import Evaluation
from spendflops.parts.faults import faults_of, place, sizes

SIZES = 4096
"""Stored label maps of a split whose sizes are compared with those of their images."""
LOOKED = 256
"""Examples of a split that are decoded and compared with the lists of classes."""
MADE = 16
"""Examples of a split that views or preprocessing are tried on."""
RUN = 16
"""Examples in a row that are looked at in a large split: many sets lie on disk in blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """One split that a recipe reads.

    Attributes:
        dataset, split, features: What is read.
        who: By whom, for messages.
        allowed: Examples that may be broken.
        scored: Whether it is for a score: then a label is needed.
        make: Sample -> what the model sees.
        structs: Shapes and dtypes of that, with a first axis for the examples.
        key: Equal for readings that need not be looked at twice.
    """

    dataset: Dataset
    split: str
    features: tuple[str, ...]
    who: str
    allowed: int
    scored: bool
    make: Callable[[Sample], Mapping[str, np.ndarray]]
    structs: Mapping[str, jax.ShapeDtypeStruct]
    key: str

    @property
    def name(self) -> str:
        """The split, for messages."""
        return f"{self.dataset.info.name}:{self.split}"


def check_data(*recipes: Built) -> None:
    """Looks at all that recipes read, and at each only once.

    Raises:
        errors.DataError: Missing, empty, wrong, or not what an evaluator can score.
        errors.ConfigError: Examples that views or preprocessing make into something else than they said.
    """
    readings = {r.key: r for built in recipes for r in _readings(built)}
    sources = {key: open_source(r.dataset, r.split, r.features) for key, r in readings.items()}
    for key, reading in readings.items():
        if not len(sources[key]):
            raise errors.DataError(f"{reading.name} is empty", why=f"{reading.who} reads it", fix="another split")
    scored = {digest([e.evaluator, e.data]): e for built in recipes for e in _evaluations(built)}
    for evaluation in scored.values():
        pairs = evaluation.data
        evaluation.evaluator.check(pairs, lambda role, features, pairs=pairs: open_source(*pairs[role], features))
    for key, reading in readings.items():
        _look(reading, sources[key])


def check_starts(built: Built, folder: Path) -> None:
    """Looks at the runs that stages start from: that they are finished, and that their models fit.

    Args:
        built: The recipe.
        folder: The run directory, which paths may be relative to.

    Raises:
        errors.DataError: Not a finished run, or a head of other classes.
        errors.ConfigError: A model that does not fit.
    """
    for stage, b in zip(built.recipe.stages, built.stages, strict=True):
        for init in (i for i in stage.init if i.run):
            definition, info = planned(parent(folder, init))
            check_start(stage, b.definition, (definition.params, definition.stats), info, init)


def _evaluations(built: Built) -> Iterator[Evaluation]:
    yield from built.recipe.evaluations
    yield from (probe.evaluation for probe in built.recipe.probes)


def _readings(built: Built) -> Iterator[Reading]:
    for stage, b in zip(built.recipe.stages, built.stages, strict=True):
        yield Reading(
            dataset=stage.dataset,
            split=stage.split,
            features=b.views.features,
            who=f"stage {stage.label!r}",
            allowed=stage.skip_broken,
            scored=False,
            make=lambda sample, b=b: b.views(sample, np.random.default_rng(0), b.spec),
            structs=b.inputs,
            key=digest([stage.dataset, stage.split, stage.skip_broken, b.views, b.spec, _shapes(b.inputs)]),
        )
    for prediction in (*built.predictions, *(p for predictions in built.probes for p in predictions)):
        yield _scored(prediction)


def _scored(prediction: Prediction) -> Reading:
    p = prediction
    return Reading(
        dataset=p.dataset,
        split=p.split,
        features=p.preprocess.features,
        who=p.program.name,
        allowed=p.skip_broken,
        scored=True,
        make=lambda sample: {n: x for n, x in p.preprocess(sample).items() if n not in p.preprocess.kept},
        structs={name: struct for name, struct in p.program.args[2].items() if name != "_mask"},
        key=digest([p.dataset, p.split, p.skip_broken, p.preprocess, "scored"]),
    )


def _shapes(structs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    return {name: [struct.dtype.name, struct.shape[1:]] for name, struct in structs.items()}


def _look(reading: Reading, source: Source) -> None:
    """Raises for what is wrong with examples of a split."""
    looked = _spread(len(source), LOOKED)
    tried = set(looked[:: -(-len(looked) // MADE)])
    made, stored = list[Mapping[str, np.ndarray]](), list[bool]()

    def whole(index: int) -> list[str]:
        sample = source[index]
        # An array does not say its size without being made: its `size` is a number.
        stored.append(isinstance(getattr(sample.get("mask"), "size", None), tuple))
        found = faults_of(sample, reading.dataset.info)
        if reading.scored and np.ndim(sample.get("label", 0)) == 0 and sample.get("label", 0) < 0:
            found.append("no label")
        if not found and index in tried:
            made.append(reading.make(sample))
        return [f"{place(sample, index)}: {fault}" for fault in found]

    faults = _all(whole, looked)
    if any(stored):
        places = np.linspace(0, len(source) - 1, min(SIZES, len(source))).astype(int)
        sized = sorted({*map(int, places)} - {*looked})
        faults += _all(lambda index: _size_fault(source[index], index), sized)
        looked = [*looked, *sized]
    if len(faults) > reading.allowed:
        raise errors.DataError(
            f"{reading.name}: {len(faults)} of {len(looked):,} examples that were looked at are wrong"
            + (f", {reading.allowed} may be" if reading.allowed else ""),
            why="; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else "") + f"; {reading.who} reads them",
            fix="repair the files or leave them out; `spendflops data verify` looks at all of them",
        )
    structs = {n: jax.ShapeDtypeStruct((1, *s.shape[1:]), s.dtype) for n, s in reading.structs.items()}
    for entries in made:
        data.check_batch({name: np.asarray(entry)[None] for name, entry in entries.items()}, structs, reading.who)


def _all(look: Callable[[int], list[str]], indices: list[int]) -> list[str]:
    """The faults of all of these examples, a line each, in their order."""

    def faults(index: int) -> list[str]:
        try:
            return look(index)
        except errors.DataError as error:
            return [error.what + (f": {error.why}" if error.why else "")]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [line for lines in pool.map(faults, indices) for line in lines[:1]]


def _spread(count: int, most: int) -> list[int]:
    """All indices, or ``most`` of them in runs of neighbours that are spread evenly."""
    if count <= most:
        return list(range(count))
    begins = np.linspace(0, count - RUN, most // RUN).astype(int)
    return sorted({int(begin) + step for begin in begins for step in range(RUN)})


def _size_fault(sample: Sample, index: int) -> list[str]:
    mask, image = tuple(sample["mask"].size), tuple(sample["image"].size)
    return [] if mask == image else [f"{place(sample, index)}: {sizes(mask, image)}"]
