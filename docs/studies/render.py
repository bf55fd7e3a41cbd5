"""Keeps what a finished study found and writes docs/studies/README.md from all that is kept.

python docs/studies/render.py NAME FOLDER    # takes the report of a study's folder as docs/studies/NAME.json
python docs/studies/render.py                # writes the page again
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from spendflops.study.frontier import Point, points, select, varying
from spendflops.study.frontier.paired import Mean
from spendflops.study.labels import by_labels
from spendflops.study.points import Axis, Report, axes
from spendflops.study.report import text

HERE = Path(__file__).parent
ALSO = ("box_ap50", "mask_ap", "mask_ap50")
"""Figures that stand beside a score where an evaluator gives them."""
PAID = ("FLOPs paid", "marginal", "pre-training", "transfer", "tuning")
HEAD = """# Studies that were run

Written by `docs/studies/render.py` from the reports beside it. ±: one standard deviation over the seeds. Distance: how
far a method is above the random backbone, in pooled standard deviations of the two, sqrt((s² + s_random²) / 2).
Monitor: the method's own, the lowest of the last rows of its runs; what it means is in [methods.md](../methods.md).
"""


def take(name: str, folder: Path) -> None:
    """Keeps the report, the environment and the last row of each run, without the places of this machine."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    reported = {row["run_id"] for row in report["rows"]}
    rows = {}
    for path in sorted(folder.glob("rows/*/metrics.jsonl")):
        if path.parent.name not in reported:
            continue
        last = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][-1]
        rows[path.parent.name] = {key: value for key, value in last.items() if key != "seconds"}
    environment = json.loads(next(folder.glob("rows/*/environment.json")).read_text(encoding="utf-8"))
    kept = {key: environment[key] for key in ("python", "packages") if key in environment}
    body = {"name": name, "environment": kept, "last_rows": rows, "report": report}
    for row in report["rows"]:
        row["folder"] = f"runs/{name}/rows/{row['run_id']}"
        row["settings"] |= {key: "photos" for key in row["settings"] if key.endswith(("dataset.path", "folder.path"))}
    report["command"] = re.sub(r"--workdir \S+", f"--workdir runs/{name}", report["command"])
    report["command"] = re.sub(r"(dataset \w+):\S+", r"\1:photos", report["command"])
    report["command"] = re.sub(r"--gin '(\S+folder\.path) = .*", "--gin \"\\1 = 'photos'\"", report["command"])
    (HERE / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def groups(body: dict[str, Any], primary: str) -> dict[str, list[dict[str, Any]]]:
    """Rows with a score of the primary evaluator, by label."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in body["report"]["rows"]:
        for score in row["scores"]:
            if score["evaluator"] == primary:
                found.setdefault(row["label"], []).append({**row, "score": score})
    return found


def table(body: dict[str, Any]) -> list[str]:
    """A line a method, best first."""
    first = body["report"]["rows"][0]["scores"][0]
    found = groups(body, first["evaluator"])
    random = [row["score"]["value"] for row in found["random"]]
    lines = [
        f"{first['metric']} in {first['unit']} on {first['dataset']}/{first['split']}, `{first['protocol']}`:",
        "",
        "| method | score | distance | monitor | images | FLOPs | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    order = sorted(found, key=lambda label: -statistics.mean(r["score"]["value"] for r in found[label]))
    for label in order:
        rows = found[label]
        values = [row["score"]["value"] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        pooled = math.sqrt((spread**2 + statistics.stdev(random) ** 2) / 2) if len(random) > 1 else math.nan
        away = (statistics.mean(values) - statistics.mean(random)) / pooled if label != "random" else math.nan
        monitors = [body["last_rows"].get(row["run_id"], {}).get("monitor") for row in rows]
        monitor = f"{min(m for m in monitors if m is not None):.2f}" if any(m is not None for m in monitors) else "-"
        seconds = sum(sum(row["seconds"].values()) for row in rows) / len(rows)
        spent = sum(row["flops"]["pretrain"] + row["flops"]["transfer"] for row in rows) / len(rows)
        lines.append(
            f"| {label} | {statistics.mean(values):.1f} ± {spread:.1f} | {'-' if math.isnan(away) else f'{away:.1f}'} "
            f"| {monitor if spent else '-'} | {round(sum(r['images_seen'] for r in rows) / len(rows)):,} | {spent:.2e} "
            f"| {seconds / 60:.1f} |"
        )
    return lines


def transfers(body: dict[str, Any]) -> list[str]:
    """What a study with transfers or lengths found: a line a point, gains over labels, what tuning cost."""
    report = Report.from_json(body["report"])
    costs = PAID if any(row.trunk for row in report.rows) else tuple(name for name in PAID if name != "marginal")
    lines = []
    for axis in axes(report.rows):
        found = sorted(points(select(report.rows, axis), vary=varying(report.rows)), key=lambda p: -p.estimate.value)
        others = [name for name in ALSO if any(name in s.others for p in found for r in p.rows for s in r.scores)]
        lines += [
            f"{axis.metric} in {axis.unit} on {axis.place}, `{axis.protocol}`:",
            "",
            f"| {' | '.join(['method', 'budget', 'score', *others, *costs])} |",
            f"| --- |{' ---: |' * (2 + len(others) + len(costs))}",
            *(_line(point, axis, others, costs) for point in found),
            "",
        ]
    for item in by_labels(report.rows):
        lines += [
            f"Gains in {item.axis.metric} by labelled images, paired by seed, mean ± standard error;",
            "* is distinguishable from zero (two-sided t test, 5 %):",
            "",
            f"| method | over | {' | '.join(f'{size:,}' for size in item.sizes)} |",
            f"| --- | --- |{' ---: |' * len(item.sizes)}",
        ]
        for gain in item.gains:
            cells = [_gain(gain.by_labels.get(size)) for size in item.sizes]
            lines.append(f"| {gain.name} | {gain.over} | {' | '.join(cells)} |")
        lines.append("")
    tried = [row for row in report.rows if row.kind == "tuning"]
    if tried:
        spent = sum(row.own("transfer") for row in tried)
        lines.append(f"Choosing settings took {len(tried)} runs and {spent:.2e} FLOPs.")
    return lines


def _line(point: Point, axis: Axis, others: list[str], costs: tuple[str, ...]) -> str:
    first, budget = point.rows[0], "-" if point.budget is None else f"{point.budget:g}".replace("e+", "e")
    paid = (first.cost(), first.marginal, first.flops.get("pretrain"), first.flops.get("transfer"), first.tuning)
    known = dict(zip(PAID, paid, strict=True))
    said = [
        statistics.mean(s.others[name] for r in point.rows for s in r.scores if s.protocol == axis.protocol)
        for name in others
    ]
    cells = [text.score(point.estimate, axis), *(f"{value:.3f}" for value in said)]
    cells += [text.flops(known[name]) for name in costs]
    return f"| {point.name} | {budget} | {' | '.join(cells)} |"


def _gain(found: Mean | None) -> str:
    if found is None or found.se is None:
        return "-"
    return f"{found.value:+.1f} ± {found.se:.1f}{'*' if found.distinguishable else ''}"


def page() -> str:
    """All studies."""
    parts = [HEAD]
    for path in sorted(HERE.glob("*.json")):
        body = json.loads(path.read_text(encoding="utf-8"))
        report, packages = body["report"], body["environment"].get("packages", {})
        seeds = len({row["seed"] for row in report["rows"]})
        versions = ", ".join(f"{n} {packages[n]}" for n in ("spendflops", "jax", "jaxlib", "numpy") if n in packages)
        notes = HERE / f"{path.stem}.md"
        many = any(r.get("transfer") for r in report["rows"])
        many |= len({r["budget"] for r in report["rows"] if r["kind"] == "method"}) > 1
        parts += [
            f"## {report['title']}\n",
            f"{report['question']} {len(report['rows'])} runs, {seeds} seeds, {report['created'][:10]}; {versions}.\n",
            *([notes.read_text(encoding="utf-8")] if notes.exists() else []),
            "\n".join(transfers(body) if many else table(body)) + "\n",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        take(sys.argv[1], Path(sys.argv[2]))
    (HERE / "README.md").write_text(page(), encoding="utf-8")
