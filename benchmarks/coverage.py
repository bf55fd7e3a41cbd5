"""How often intervals of 90 % hold the truth, on simulated studies: writes docs/answer_coverage.json and its table.

Nothing is timed. Draws without an interval (no crossing was found) are counted apart; an open end holds what is beyond.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import harness

from spendflops.testing import coverage
from spendflops.testing.coverage import CROSSING, EQUAL, FOUR, LENGTHS, Coverage

FILE = harness.DOCS / "answer_coverage.json"
MARK = "<!-- written by benchmarks/coverage.py -->"
DRAWS = 500


def seeds(count: int, **more: Any) -> Any:
    """Two curves that cross, with so many seeds."""
    return dataclasses.replace(CROSSING, seeds=count, **more)


CASES: dict[str, Callable[[], Coverage]] = {
    "crossover, 2 seeds": lambda: coverage.of_crossovers(seeds(2), draws=DRAWS),
    "crossover, 3 seeds": lambda: coverage.of_crossovers(seeds(3), draws=DRAWS),
    "crossover, 5 seeds": lambda: coverage.of_crossovers(seeds(5), draws=DRAWS),
    "crossover, 3 seeds, two lengths a factor of 2.5 apart": lambda: coverage.of_crossovers(
        seeds(3, budgets=(LENGTHS[-1] * 2 // 5, LENGTHS[-1])), draws=DRAWS
    ),
    "crossover, 6 seeds, two lengths a factor of 2.5 apart": lambda: coverage.of_crossovers(
        seeds(6, budgets=(LENGTHS[-1] * 2 // 5, LENGTHS[-1])), draws=DRAWS
    ),
    "paired difference, 2 seeds": lambda: coverage.of_differences(seeds(2, shared=2.0), draws=DRAWS),
    "paired difference, 3 seeds": lambda: coverage.of_differences(seeds(3, shared=2.0), draws=DRAWS),
    "law of one curve, at twice its longest run": lambda: coverage.of_predictions(CROSSING, factor=2, draws=DRAWS),
    "laws fitted together, at twice the longest run": lambda: coverage.of_families(FOUR, factor=2, draws=DRAWS // 2),
    "laws fitted together, at four times": lambda: coverage.of_families(FOUR, factor=4, draws=DRAWS // 2),
    "recommended score, two methods, twice the longest run": lambda: coverage.of_choices(
        CROSSING, budget=1.6e19, draws=DRAWS
    ),
    "recommended score, four methods, longest run": lambda: coverage.of_choices(FOUR, budget=8e18, draws=DRAWS),
    "recommended score, four methods, twice that": lambda: coverage.of_choices(FOUR, budget=1.6e19, draws=DRAWS),
    "recommended score, five equal methods": lambda: coverage.of_choices(EQUAL, budget=8e18, draws=DRAWS),
    "recommended score, between two lengths a factor of 2 apart": lambda: coverage.of_choices(
        dataclasses.replace(FOUR, budgets=LENGTHS[2:4]), budget=5.657e18, draws=DRAWS
    ),
    "recommended score, the same with 6 seeds": lambda: coverage.of_choices(
        dataclasses.replace(FOUR, budgets=LENGTHS[2:4], seeds=6), budget=5.657e18, draws=DRAWS
    ),
    "recommended score, 1 seed": lambda: coverage.of_choices(seeds(1), budget=8e18, draws=DRAWS),
    "where a recommendation flips": lambda: coverage.of_flips(CROSSING, draws=DRAWS),
}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| interval | holds the truth | of draws | without an interval | open |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results["cases"].items():
        share = row["held"] / row["asked"]
        lines.append(f"| {name} | {share:.1%} | {row['asked']} | {row['silent']} | {row['open']} |".replace("%", " %"))
    return "\n".join(lines)


def main() -> None:
    """Draws all cases, or renders what was drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the table again")
    if not parser.parse_args().render:
        cases = {name: dataclasses.asdict(case()) for name, case in CASES.items()}
        body = {"level": 0.9, "machine": harness.machine(), "cases": cases}
        FILE.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    harness.between(harness.DOCS / "answer.md", MARK, table(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
