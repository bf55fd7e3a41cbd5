"""Plans as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spendflops.study.report import text

_KINDS = {"baseline": "baseline", "method": "pretrain", "transfer": "transfer", "tuning": "tuning"}


def recipe(body: Mapping[str, Any], name: str) -> str:
    """A plan of one recipe."""
    lines = [f"\n{name}: " + ", ".join(f"{stage} {count:,} parameters" for stage, count in body["parameters"].items())]
    lines.append(
        f"  {'program':34} {'role':9} {'calls':>9} {'FLOPs a call':>22} {'FLOPs an example':>20} {'FLOPs':>12}"
    )
    for row in body["programs"]:
        lines += _program(row)
    if target := body.get("target"):
        versions = ", ".join(f"{name} {version}" for name, version in target["versions"].items())
        what = f"{target['devices']} devices, {target['kind']}"
        lines.append(f"  compiled for {target['topology']}: {what}; nothing ran ({versions})")
    for row in body["data"]:
        lines.append(
            f"  data: {row['stage']} sees {row['seen']:,} examples of {row['data']} ({row['examples']:,}): "
            f"this budget repeats them {row['repeats']:.3g} times"
        )
    totals = ", ".join(f"{role} {flops:.4e}" for role, flops in body["totals"].items() if flops)
    lines.append(f"  total: {totals}    ({body['counter']}, 2 FLOPs a multiply-add, all devices)")
    lines += _priced(body)
    lines += [line for row in body.get("fit", ()) for line in _fit(row)]
    return "\n".join([*lines, *(f"  note: {note}" for note in body["notes"])])


def study(body: Mapping[str, Any]) -> str:
    """A plan of a study: a line for the runs that cost the same."""
    priced, branches = "price" in body, any(row["trunk"] for row in body["rows"])
    head = ["", "what", "data", "budget", "runs", "steps", "examples", "repeats", "FLOPs a step", "FLOPs of all"]
    head += ["trunk paid before"] if branches else []
    table = [head + (["hours", "kWh", "kg CO2e"] if priced else [])]
    for row in body["rows"]:
        what = f"{row['label']}, {row['follow_up']}" if row["follow_up"] else row["label"]
        cells = [_KINDS[row["kind"]], what, row["dataset"], str(row["budget"] or ""), str(row["runs"])]
        cells += [f"{row['steps']:,}", text.human(row["examples"], ""), f"{row['repeats']:.3g}"]
        cells += [f"{row['flops_per_step'] or 0:.4g}", f"{row['total']:.4g}"]
        cells += [f"{row['trunk'] * row['runs']:.4g}"] if branches else []
        table.append(cells + (_price_cells(row["price"]) if priced else []))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["", *(_fitted(line, widths) for line in table)]
    totals = ", ".join(f"{role} {flops:.4g}" for role, flops in body["totals"].items() if flops)
    lines.append(f"\n{body['runs']} runs: {totals}, together {sum(body['totals'].values()):.4g} FLOPs")
    lines += _priced(body)
    return "\n".join([*lines, *(f"note: {note}" for note in body["notes"])])


def _program(row: Mapping[str, Any]) -> list[str]:
    lines = [
        f"  {row['program'][:34]:34} {row['role']:9} {row['calls']:9} {row['flops_per_call']:22,} "
        f"{row['flops_per_example']:20,} {row['flops']:12.4e}",
        "    " + ", ".join(f"{phase} {flops:.3e}" for phase, flops in row["phases"].items()),
    ]
    if formula := row["closed_form_per_call"]:
        lines.append(f"    closed form: {formula:,} FLOPs (B/A {row['flops_per_call'] / formula:.6f})")
    if again := row["recomputed_flops_per_call"]:
        more = f"{again / row['flops_per_call']:.1%} more, not paid from the budget"
        lines.append(f"    computed again to save memory: {again:,} FLOPs ({more})")
    if row.get("hours") is not None:
        lines.append(f"    {text.duration(row['hours'] * 3600)}")
    if "hardware_flops_per_call" in row:
        memory, hardware = row["memory_bytes_per_device"], row["hardware_flops_per_call"]
        held = "unknown" if memory is None else f"{memory / 2**20:.0f} MiB a device"
        known, again = "unknown FLOPs", row["rematted_flops_per_call"]
        if hardware is not None:
            known = f"{hardware:,} FLOPs (C/B {row['hardware_over_model']}, {again:,} computed again)"
        lines.append(f"    compiled: {known}, compiler's own figure {row['raw_compiler_flops']}, memory {held}")
        lines += [f"    not counted: {name}" for name in row["unknown"]]
    return lines


def _fit(row: Mapping[str, Any]) -> list[str]:
    """Whether a step fits, and if not, what would."""
    said = {True: "fits", False: "does not fit", None: "nobody knows whether it fits"}[row["fits"]]
    usable = "unknown" if row["usable_bytes"] is None else _gib(row["usable_bytes"])
    needs = "unknown memory" if row["memory_bytes"] is None else _gib(row["memory_bytes"])
    note = f", {row['note']}" if row["note"] else ""
    lines = [
        f"  {row['stage']} on {row['place']}: {said}: {needs} of {usable} a device, "
        f"by the compiler for {row['compiler']}{note}",
        f"    memory: {row['usable_from']}",
    ]
    for tried in row["remedies"]:
        if tried["reason"] and not tried["setting"]:
            lines.append(f"    {tried['remedy']}: no, {tried['reason']}")
            continue
        price = "unknown" if tried["flops_ratio"] is None else f"{tried['flops_ratio']:.3f}"
        lines.append(
            f"    {tried['remedy']}: {'fits' if tried['fits'] else 'does not fit'}, {_gib(tried['memory_bytes'])}, "
            f"{price} times the FLOPs: {tried['setting']}"
        )
    return lines


def _gib(count: float) -> str:
    return f"{count / 2**30:.4g} GiB"


def _priced(body: Mapping[str, Any]) -> list[str]:
    """Hours, kWh and kg of all, and every factor with its source."""
    if "price" not in body:
        return []
    price = body["price"]
    if price["hours"] is None:
        return [f"  on {body['machine']}: no hours, {price['reason']}"]
    hours = text.duration(price["hours"] * 3600)
    if price["low"] is not None:
        low, high = (text.duration(price[name] * 3600) for name in ("low", "high"))
        hours += f" (90 % between {low} and {high})"
    if price["extrapolated"] > 1:
        hours += f", {price['extrapolated']:.3g} times outside the FLOPs that were timed"
    found = price["footprint"]
    energy = "kWh and kg unknown"
    if found["kwh"] is not None:
        energy = f"{_ranged(found, 'kwh')} kWh, {_ranged(found, 'kg')} kg CO2e ({found['basis']})"
    lines = [f"  on {body['machine']}: {hours}, {energy}", f"    time: {body['hours_from']}"]
    watts = "unknown" if found["watts"] is None else f"{found['watts']:.6g} W"
    lines.append(f"    power: {watts}, {found['watts_source']}")
    lines.append(f"    carbon: {found['intensity_g_per_kwh']:g} g CO2e/kWh, {found['intensity_source']}")
    lines.append(f"    PUE: {found['pue']:g}, {found['pue_source']}")
    return lines


def _ranged(found: Mapping[str, Any], name: str) -> str:
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    between = "" if low is None or low == high else f" ({low:.4g} to {high:.4g})"
    return f"{found[name]:.4g}{between}"


def _price_cells(price: Mapping[str, Any]) -> list[str]:
    found = price["footprint"] or {"kwh": None, "kg": None}
    return [text.NONE if v is None else f"{v:.4g}" for v in (price["hours"], found["kwh"], found["kg"])]


def _fitted(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
    return "  ".join(cells).rstrip()
