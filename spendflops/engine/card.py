"""The model card of an export: ``README.md`` with front matter that hubs read, CO2e in grams, and a block of FLOPs.

``co2_eq_emissions`` follows the public metadata of Hugging Face (huggingface.co/docs/hub/model-cards-co2): grams of
CO2e in ``emissions``, and where they come from in words. It holds one number, a measurement if every counter was read
and an estimate otherwise, never a sum of the two; without either it is left out, and our own block says why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spendflops.accounts.footprint import Footprint, estimate, measured
from spendflops.accounts.ledger import CONVENTION
from spendflops.accounts.machines import Host, Machine, parse
from spendflops.accounts.regions import WORLD
from spendflops.engine.describe import NAME
from spendflops.engine.rundir import environment, read_json

FILE = "README.md"
KINDS = {"pretrain": "pre-training", "transfer": "fine-tuning"}
"""Our roles of a stage, as the hub calls the types of a training."""


def machine_of(devices: list[str], told: Mapping[str, Any]) -> Machine:
    """The machine that a run ran on, where it said it stands; ``told`` is its ``environment.json``."""
    here = Host(kind=devices[0], devices=len(devices), cores=told.get("cores") or os.cpu_count() or 1)
    return parse(f"this@{told.get('region', WORLD)}", here=here)


def metadata(origin: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """The front matter of a model, as plain data.

    Args:
        origin: Of the model, from :func:`spendflops.engine.load.load`.
        run: Its run directory; None for weights that were imported.
    """
    objective = origin["objective"] and origin["objective"][NAME].rpartition(".")[2]
    tags = ["spendflops", *([objective] if objective else [])]
    result = read_json(run / "result.json") if run else None
    card: dict[str, Any] = {"library_name": "spendflops", "pipeline_tag": "image-feature-extraction", "tags": tags}
    if result is None or run is None:
        reason = "the run is not finished" if run else "the weights were imported: their footprint is not known here"
        card["spendflops"] = {**_block(origin, None), "co2_measured_grams": None, "co2_measured_reason": reason}
        return card
    told = read_json(run / "environment.json") or {}
    machine = machine_of(result["devices"], told)
    watts = (read_json(run / "config.json") or {"config": {}})["config"].get("watts")
    seconds = sum(result["seconds"][kind] for kind in ("pretrain", "transfer", "evaluate"))
    guess = estimate(hours=seconds / 3600, machine=machine, watts=watts)
    known, reason = measurement(result, machine)
    best = known or guess
    if best.kg is not None:
        card["co2_eq_emissions"] = {
            "emissions": _grams(best.kg),
            "source": _source(best),
            "training_type": KINDS[result["stages"][-1]["role"]],
            "geographical_location": machine.region.name,
            "hardware_used": f"{len(result['devices'])} x {result['devices'][0]}",
        }
    card["spendflops"] = {
        **_block(origin, result),
        "co2_estimated_grams": _grams(guess.kg),
        "co2_estimated_range_grams": [_grams(guess.kg_low), _grams(guess.kg_high)],
        "co2_measured_grams": _grams(known.kg) if known else None,
        **({} if known else {"co2_measured_reason": reason}),
    }
    return card


def measurement(result: Mapping[str, Any], machine: Machine) -> tuple[Footprint | None, str]:
    """What counters measured of a run, or None and why not; ``result`` is its ``result.json``."""
    energy = result.get("energy", {"kwh": None, "reason": "the run is older than its measurement"})
    if energy["kwh"] is None:
        return None, energy["reason"]
    counters = ", ".join(energy["counters"])
    hours = energy["seconds"] / 3600
    return measured(hours=hours, kwh=energy["kwh"], counters=counters, machine=machine), energy["reason"]


def text(origin: Mapping[str, Any], run: Path | None, *, layout: str) -> str:
    """The whole card: front matter, then the same and the scores for readers."""
    card = metadata(origin, run)
    block, emissions = card["spendflops"], card.get("co2_eq_emissions")
    result = (read_json(run / "result.json") if run else None) or {"scores": []}
    lines = ["---", *_yaml(card), "---", "", f"# {origin['source'].get('run') or 'Imported weights'}", ""]
    version = environment()["packages"]["spendflops"]
    lines += [f"Weights in the layout `{layout}`, exported by spendflops {version}.", ""]
    lines += ["## FLOPs", "", "| what | FLOPs |", "| --- | --- |"]
    lines += [f"| {name} | {value or 'unknown'} |" for name, value in block["flops"].items()]
    lines += ["", f"Counted as {block['flop_convention']}.", "", "## CO2e", ""]
    if emissions is None:
        lines.append(f"Unknown: {block.get('co2_measured_reason') or 'no power of this machine is known'}.")
    else:
        lines.append(f"{emissions['emissions']:g} g. {emissions['source']}.")
    if result["scores"]:
        lines += ["", "## Scores", "", "| evaluation | score | protocol |", "| --- | --- | --- |"]
        for score in result["scores"]:
            value = score["values"][score["primary"]] * (100 if score["unit"] == "%" else 1)
            shown = f"{score['primary']} {value:.4g}{' %' if score['unit'] == '%' else ''}"
            data = ", ".join(f"{role} {name}" for role, name in score["data"].items())
            lines.append(f"| {score['evaluation']} ({data}) | {shown} | `{score['protocol']}` |")
    return "\n".join([*lines, ""])


def _block(origin: Mapping[str, Any], result: Mapping[str, Any] | None) -> dict[str, Any]:
    """FLOPs as words: numbers of hubs are doubles, which are exact up to 9e15. None is unknown."""
    flops = {"all, with what it started from": origin["flops"]}
    if result is not None:
        names = {"prior": "what it started from", "pretrain": "pre-training", "transfer": "fine-tuning"}
        names |= {"evaluate": "evaluation", "wasted": "wasted"}
        flops |= {name: result["flops"][kind] for kind, name in names.items()}
    return {
        "flops": {name: None if value is None else str(value) for name, value in flops.items()},
        "flop_convention": CONVENTION,
    }


def _source(item: Footprint) -> str:
    how = "measured by energy counters" if item.basis == "measurement" else "estimated, not measured"
    return f"spendflops: {how}, training and evaluation of this run. {' '.join(item.sources)}".rstrip(".")


def _grams(kg: float | None) -> float | None:
    return None if kg is None else float(f"{1000 * kg:.6g}")


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """YAML 1.2, in which every scalar and list is JSON."""
    for name, item in value.items():
        key = name if name.replace("_", "").isalnum() else json.dumps(name)
        if isinstance(item, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(item, f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}"
