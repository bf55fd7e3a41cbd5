"""Writes benchmarks/README.md from the raw samples in results/."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Benchmarks

`make bench` takes all of them, one after the other, each in a process of its own, writes the raw samples to `results/`
and this page from them; `python benchmarks/run.py NAME` takes one. Take them on an idle machine. Nothing here is
asserted in a test. A table states median, minimum and maximum of its samples.
"""


def section(result: dict[str, Any], about: str) -> str:
    """One benchmark as Markdown."""
    machine = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"## {result['benchmark']}",
        "",
        about + (f" Here: {result['about']}." if result["about"] else ""),
        "",
        "| case | median | min | max | samples | unit | goal |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for case in result["cases"]:
        samples = case["samples"]
        cells = [f"{value:,.4g}" for value in (statistics.median(samples), min(samples), max(samples))]
        lines.append(f"| {case['name']} | {' | '.join(cells)} | {len(samples)} | {case['unit']} | {case['goal']} |")
    # Results that are older do not say it.
    used = machine.get("cores_used", machine["cores"])
    cores = f"{machine['cores']} cores" if used == machine["cores"] else f"{used} of {machine['cores']} cores"
    lines += [
        "",
        f"{machine['cpu']}, {cores}, load {machine['load']} at the start, {machine['system']}, Python "
        f"{machine['python']}; {packages}.",
    ]
    return "\n".join(lines) + "\n"


def about(name: str) -> str:
    """The text of a benchmark's module, as one paragraph."""
    text = (HERE / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    return " ".join(text.split())


def main() -> None:
    """Writes the page."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))]
    sections = [section(result, about(result["benchmark"])) for result in results]
    (HERE / "README.md").write_text("\n".join([HEAD, *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
