"""From run directories to the rows of a report."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.accounts.footprint import estimate
from spendflops.accounts.ledger import Ledger
from spendflops.contracts.evaluator import PICTURES
from spendflops.engine import card
from spendflops.engine.describe import describe
from spendflops.engine.evaluate import FOLDER
from spendflops.engine.rundir import read_json
from spendflops.study import traces
from spendflops.study.grid import Planned
from spendflops.study.points import Picture, Row, Score


def failed_row(planned: Planned, folder: Path, reason: str) -> Row:
    """The row of a run that did not finish; what it spent until then is wasted."""
    ledger = Ledger(folder / "ledger.jsonl")
    spent = ledger.total() - ledger.cached() + ledger.total(kind="wasted")
    seconds = {"wasted": ledger.seconds()}
    environment = read_json(folder / "environment.json")  # none where the run failed before it was anything
    footprint = None
    if environment is not None:
        machine = card.machine_of(environment["devices"], environment)
        footprint = estimate(hours=ledger.seconds() / 3600, machine=machine, watts=planned.recipe.watts)
    told = {"status": f"failed: {reason}", "footprint": footprint, "traces": traces.read(folder)}
    return Row(**_common(planned, folder), flops={"wasted": spent}, seconds=seconds, **told)


def stopped_row(planned: Planned, folder: Path, reason: str) -> Row:
    """The row of a run that was not made, or not finished, since what is known says that it is not worth its FLOPs."""
    return dataclasses.replace(failed_row(planned, folder, reason), status=f"stopped: {reason}")


def finished_row(planned: Planned, folder: Path, result: Mapping[str, Any]) -> Row:
    """The row of a finished run."""
    main = result["stages"][-1]
    flops, seconds = dict(result["flops"]), dict(result["seconds"])
    before, cached = (flops.pop("prior"), seconds.pop("prior")), flops.pop("cached", 0)
    # Runs of earlier versions had no trunk.
    trunk, trunk_seconds = flops.pop("trunk", 0), seconds.pop("trunk", 0.0)
    seconds["wasted"] = 0.0
    if _parent(planned):
        flops["pretrain"], seconds["pretrain"] = before
    trained = "pretrain" if result["phases"]["pretrain"] else "transfer"
    hardware = result["hardware_flops"][trained]
    environment = read_json(folder / "environment.json") or {}
    machine = card.machine_of(result["devices"], environment)
    counted, reason = card.measurement(result, machine)
    return Row(
        **_common(planned, folder),
        flops=flops,
        cached=cached,
        trunk=trunk,
        trunk_seconds=trunk_seconds,
        hardware_flops=hardware,
        hardware_reason="" if hardware is not None else "the compiled program holds a call that cannot be counted",
        phases=result["phases"][trained],
        images_seen=main["examples"] if planned.kind == "baseline" else sum(s["examples"] for s in result["stages"]),
        epochs=main["epochs"],
        steps=main["steps"],
        parameters=main["parameters"],
        labelled=main["available"] if planned.transfer else None,
        seconds=seconds,
        device=", ".join(sorted(set(result["devices"]))),
        scores=tuple(_score(s) for s in result["scores"]),
        footprint=estimate(hours=sum(seconds.values()) / 3600, machine=machine, watts=planned.recipe.watts),
        measured=counted,
        measured_reason=reason,
        versions=environment.get("packages", {}),
        pictures=_pictures(folder, result["scores"]),
        traces=traces.read(folder),
    )


def _pictures(folder: Path, scores: Sequence[Mapping[str, Any]]) -> tuple[Picture, ...]:
    """Pictures of a run; the report lies two folders above it."""
    place = folder.relative_to(folder.parents[1])
    # Runs of earlier versions kept no files.
    named = ((s["evaluation"], name) for s in scores for name in s.get("files", ()))
    return tuple(
        Picture(evaluation=evaluation, path=(place / FOLDER / evaluation / name).as_posix())
        for evaluation, name in named
        if re.fullmatch(PICTURES, name)
    )


def _parent(planned: Planned) -> str:
    """The folder of the row that a run of a study starts from, relative to its own; empty for none."""
    init = planned.recipe.stages[0].init
    return (init[0].run or "") if init else ""


def _common(planned: Planned, folder: Path) -> dict[str, Any]:
    stage = planned.recipe.stages[-1]
    backbone = describe(stage.backbone)
    return {
        "run_id": planned.run_id,
        "label": planned.label,
        "kind": planned.kind,
        "backbone": f"{backbone['@'].split('.')[-1]} {backbone.get('dim', '')}x{backbone.get('depth', '')}".strip(),
        "dataset": planned.dataset,
        "seed": planned.seed,
        "budget": None if planned.budget is None else _flops(planned, folder),
        "config_hash": planned.run_id.rsplit("-", 1)[-1],
        "settings": settings(planned),
        "parent": _parent(planned).removeprefix("../"),
        "transfer": planned.transfer,
        "candidate": planned.candidate,
        "tuning": planned.tuning,
        "folder": os.fspath(folder),
    }


def _flops(planned: Planned, folder: Path) -> int | None:
    """FLOPs that a row was to spend on pre-training; None for a number of steps that was never resolved."""
    resolved = (read_json(folder / "config.json") or {}).get("resolved") or {}
    # What hours or kWh were is what they were when the run was made, whatever the tables say today.
    converted = resolved.get("budget")
    if converted is not None:
        return converted["flops"]
    parsed = budgets.parse(planned.budget or "")
    if parsed.unit == "flops":
        return int(parsed.amount)
    if not resolved:
        return None
    paid = [stage.label for stage in planned.recipe.stages if stage.role == "pretrain"]
    return sum(resolved["steps"][label] * resolved["flops_per_step"][label] for label in paid)


def settings(planned: Planned) -> dict[str, Any]:
    """The options of a run, flat, for the table of what differs between rows."""
    flat: dict[str, Any] = {}
    for position, stage in enumerate(planned.recipe.stages):
        prefix = "" if len(planned.recipe.stages) == 1 else f"stage {position + 1} "
        described = describe(stage)
        described.pop("name", None)
        described.pop("init", None)
        _flatten(described, prefix, flat)
    return flat


def _flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, name if key == "@" else f"{name}.{key}".strip("."), into)
    else:
        into[name.strip() or "stage"] = value if not isinstance(value, list) else ", ".join(map(str, value))


def _score(score: Mapping[str, Any]) -> Score:
    values, primary = score["values"], score["primary"]
    parts = [name for name in values if name.startswith(f"{primary}/")]
    place = score["data"].get("query") or score["data"].get("eval") or next(iter(score["data"].values()))
    dataset, _, split = place.partition(":")
    scale = 100 if score["unit"] == "%" else 1
    sd = values.get(f"{primary}_sd")
    count = int(values.get(f"{primary}_n", max(len(parts), 1)))
    return Score(
        evaluator=score["evaluation"],
        protocol=score["protocol"],
        metric=primary,
        value=scale * values[primary],
        sd=None if sd is None or count < 2 else scale * sd,
        n=count,
        spread=score["spread"],
        higher_is_better=score["higher_is_better"],
        dataset=dataset,
        split=split,
        unit=score["unit"],
        others={n: v for n, v in values.items() if not re.fullmatch(rf"{re.escape(primary)}(_sd|_n|/.*)?", n)},
    )
