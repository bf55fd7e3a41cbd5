"""What the benchmarks share: a case is a name, a unit and raw samples; a result is a JSON file with the machine."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("spendflops", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "pillow", "opencv-python-headless")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that was timed.

    Attributes:
        name: What.
        unit: Of the samples: ``"s"``, ``"us"``, ``"examples a second"``.
        samples: Raw, in the order in which they were taken.
        goal: What is aimed at, in words; empty if nothing is.
    """

    name: str
    unit: str
    samples: list[float]
    goal: str = ""


def machine() -> dict[str, Any]:
    """Where and with what.

    ``cores_used`` are those that this process may run on; ``load`` is the average over a minute: timings of a busy
    machine are too large.
    """
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    used = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "cores_used": used,
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def options(description: str) -> argparse.Namespace:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, writes no result")
    return parser.parse_args()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def finish(name: str, cases: Sequence[Case], *, quick: bool, before: dict[str, Any], about: str = "") -> None:
    """Prints the cases and, unless quick, writes ``results/NAME.json``."""
    for case in cases:
        ordered = sorted(case.samples)
        print(
            f"{case.name}: median {ordered[len(ordered) // 2]:.4g}, min {ordered[0]:.4g} {case.unit}", file=sys.stderr
        )
    if quick:
        return
    body = {"benchmark": name, "about": about, "machine": before, "cases": [dataclasses.asdict(case) for case in cases]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def between(page: Path, mark: str, text: str) -> None:
    """Puts a text between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(mark)
    _, _, after = rest.partition(mark)
    page.write_text(f"{before}{mark}\n\n{text}\n\n{mark}{after}", encoding="utf-8")
