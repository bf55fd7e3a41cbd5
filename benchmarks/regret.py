"""What following a recommendation costs, on simulated studies: writes docs/answer_regret.json and its table.

Regret is the true score of the best method at a budget less that of the method that was chosen for it, both run with
the whole budget. Every study is drawn anew: four methods whose curves are close and cross often, four lengths a factor
of two apart, two seeds. Beside the recommendation, three rules that are in use. Nothing is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import harness
import numpy as np

from spendflops.study import frontier
from spendflops.study.frontier.curves import Point
from spendflops.study.points import axes
from spendflops.study.recommend.offers import field
from spendflops.testing.coverage import LENGTHS
from spendflops.testing.simulated import UNIT, Curve, Simulated, Step

FILE = harness.DOCS / "answer_regret.json"
MARK = "<!-- written by benchmarks/regret.py -->"
METHODS = ("a", "b", "c", "d")
STUDIES = 300
BUDGETS = {"between lengths": 2.8e18, "longest run": 8e18, "twice the longest run": 1.6e19}

Truth = Callable[[float], float]


def law(rng: np.random.Generator) -> Truth:
    """A saturating power law through 38 ± 1 points at the third length, rising there by 1 to 4 points an e-fold."""
    rate = math.exp(rng.normal(math.log(0.35), 0.4))
    left = rng.uniform(1, 4) / rate  # to the limit
    return Curve(limit=rng.normal(38, 1) + left, drop=left * (LENGTHS[2] / UNIT) ** rate, rate=rate)


def step(rng: np.random.Generator) -> Truth:
    """No power law: a rise of 8 to 20 points around some FLOPs, through 38 ± 1 points at the third length."""
    shape = Step(low=0, rise=rng.uniform(8, 20), place=UNIT * rng.uniform(0.5, 8), width=1.0)
    return dataclasses.replace(shape, low=rng.normal(38, 1) - shape(LENGTHS[2]))


def recommended(points: Sequence[Point], budget: float) -> str:
    """What ``spendflops recommend`` says."""
    return field(points).offers(budget)[0][0].name


def best_run(points: Sequence[Point], budget: float) -> str:
    """The method of the best run that cost no more than the budget."""
    return max((p for p in points if p.flops <= budget), key=lambda p: p.estimate.value).name


def longest_runs(points: Sequence[Point], budget: float) -> str:
    """The method that is best at the longest runs, whatever the budget."""
    return max((p for p in points if p.flops == max(LENGTHS)), key=lambda p: p.estimate.value).name


def same(points: Sequence[Point], budget: float) -> str:
    """Always the same method."""
    return METHODS[0]


RULES = {
    "recommend": recommended,
    "best run below the budget": best_run,
    "best of the longest runs": longest_runs,
    "always the same method": same,
}


def regrets(
    shape: Callable[[np.random.Generator], Truth], *, studies: int = STUDIES
) -> dict[str, dict[str, list[float]]]:
    """Budget -> rule -> the regret in every study."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {name: {rule: [] for rule in RULES} for name in BUDGETS}
    for _ in range(studies):
        curves = {name: shape(rng) for name in METHODS}
        rows = Simulated(curves=curves, budgets=LENGTHS, seeds=2, sd=0.5).draw(rng)
        (axis,) = axes(rows)
        points = frontier.points(frontier.select(rows, axis))
        for name, budget in BUDGETS.items():
            best = max(curve(budget) for curve in curves.values())
            for rule, choose in RULES.items():
                found[name][rule].append(best - curves[choose(points, budget)](budget))
    return found


def summary(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Mean regret, its standard error, and how often the best method was chosen."""
    return {
        budget: {
            rule: {
                "mean": statistics.fmean(values),
                "se": statistics.stdev(values) / math.sqrt(len(values)),
                "right": sum(value == 0 for value in values) / len(values),
            }
            for rule, values in rules.items()
        }
        for budget, rules in found.items()
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| truth | budget | rule | mean regret | best method chosen |", "| --- | --- | --- | ---: | ---: |"]
    for shape, budgets in results["shapes"].items():
        for budget, rules in budgets.items():
            for rule, row in rules.items():
                cells = f"{row['mean']:.2f} ± {row['se']:.2f} | {row['right']:.0%}".replace("%", " %")
                lines.append(f"| {shape} | {budget} | {rule} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Draws all studies, or renders what was drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the table again")
    if not parser.parse_args().render:
        shapes = {"power laws": summary(regrets(law)), "other curves": summary(regrets(step))}
        body = {"studies": STUDIES, "machine": harness.machine(), "shapes": shapes}
        FILE.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    harness.between(harness.DOCS / "answer.md", MARK, table(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
