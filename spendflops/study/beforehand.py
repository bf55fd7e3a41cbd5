"""What is looked at before a study spends anything: that every row can work, and what a reader has to know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from spendflops.engine.agreement import check_start
from spendflops.engine.build import Built, build, build_stage, open_source
from spendflops.engine.describe import describe, digest
from spendflops.engine.recipe import InitFrom, Recipe, Stage
from spendflops.engine.rundir import read_json, write_atomically
from spendflops.parts.splits import overlap
from spendflops.study.grid import Planned, Study
from spendflops.study.plan import cautions
from spendflops.study.points import Overlap

OVERLAP = "overlap.json"
"""Counting shared images reads all of them, so that one worker counts for all while the data are the same."""


def later(study: Study) -> list[Built]:
    """The recipes of all rows that follow others, built; raises where one cannot work: before anything is spent."""
    cells = list(study.cells())
    for label, base in study.continued.items():
        _check_starts(study.methods[label][0], [(base, study.methods[base])])
    recipes = []
    if study.finetune is not None:
        recipes.append(study.recipe((study.finetune,), seed=0, budget=None, transfer=True))
        _check_starts(study.finetune, cells)
    if study.scratch is not None:
        stage = dataclasses.replace(study.scratch, length="1 step")
        recipes.append(study.recipe((stage,), seed=0, budget=None, transfer=True))
    for transfer in study.transfers.values():
        for stage in transfer.stages.values():
            followed = [(label, stages) for label, stages in cells if transfer.follows(label)]
            _check_starts(stage, followed, select=transfer.select, allow=transfer.allow)
            recipes += [
                Recipe(stages=(stage,), evaluations=evaluations)
                for evaluations in (transfer.evaluations, (transfer.chooser,))
            ]
    return [build(recipe) for recipe in recipes]


def notes(planned: list[Planned], recipes: list[Built]) -> tuple[str, ...]:
    """What to know before the results are read: a budget below one epoch, many repeats of the data."""
    rows = zip(planned, recipes, strict=True)
    lines = [line for row, built in rows if row.kind == "method" for line in cautions(built, row.label)]
    return tuple(dict.fromkeys(lines))


def overlaps(study: Study, folder: Path) -> tuple[Overlap, ...]:
    """How many images each two roles of a study share, kept in its folder."""
    sources = {}
    seen = {}
    evaluations = study.row_evaluations
    for name, transfer in study.transfers.items():
        pair = transfer.stage.dataset, transfer.stage.split
        seen.setdefault(_place(*pair), f"training ({name})")
        sources.setdefault(_place(*pair), pair)
        evaluations += transfer.evaluations
    for label, stages in study.cells():
        for stage in stages:
            seen.setdefault(_place(stage.dataset, stage.split), f"pre-training ({label})")
            sources.setdefault(_place(stage.dataset, stage.split), (stage.dataset, stage.split))
    for evaluation in evaluations:
        for role, (dataset, split) in evaluation.data.items():
            if "image" not in dataset.info.features:
                continue  # prompts
            seen.setdefault(_place(dataset, split), f"{role} ({evaluation.label})")
            sources.setdefault(_place(dataset, split), (dataset, split))
    named = {f"{seen[key]}: {dataset.info.name} {split}": (dataset, split) for key, (dataset, split) in sources.items()}
    opened = {name: open_source(dataset, split, ("image",)) for name, (dataset, split) in named.items()}
    key = digest({name: [*named[name], len(source)] for name, source in opened.items()})
    found = read_json(folder / OVERLAP)
    if found is None or found["of"] != key:
        pairs = [
            {"a": a, "b": b, "shared": n, "a_images": len(opened[a]), "b_images": len(opened[b])}
            for (a, b), n in overlap(opened).items()
        ]
        found = {"of": key, "pairs": pairs}
        write_atomically(folder / OVERLAP, json.dumps(found, indent=1))
    return counted(folder)


def counted(folder: Path) -> tuple[Overlap, ...]:
    """What was counted in the folder of a study, nothing if nobody has."""
    found = read_json(folder / OVERLAP) or {"pairs": ()}
    return tuple(Overlap(**pair) for pair in found["pairs"])


def _check_starts(stage: Stage, cells: list[tuple[str, tuple[Stage, ...]]], **options: Any) -> None:
    """Raises where a stage cannot start from the last one of a method; options are those of :class:`InitFrom`."""
    target = build_stage(stage).definition
    for label, stages in cells:
        source = build_stage(stages[-1]).definition
        init = InitFrom(stage=label, **options)
        check_start(stage, target, (source.params, source.stats), stages[-1].dataset.info, init)


def _place(dataset: Any, split: str) -> str:
    return json.dumps([describe(dataset), split], sort_keys=True)
