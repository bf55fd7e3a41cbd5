"""What trunks and successive halving would have saved on recorded curves, and how often the answer stays the same.

The curves are those of gin/studies/lengths.gin (docs/studies/lengths.json): four methods at four lengths, two seeds,
each with a cosine of its own and with warm-up, constant rate and a cooldown of a fifth, read off one trunk. A replay
takes one of the seeds of each method, in every combination: 16 for each schedule, which are not independent. Saved is
the share of the FLOPs of pre-training of all runs; a margin is in points of accuracy. The front is the same if the same
runs are on it. Scores of a trunk are compared with those of cosines at the same length, means over the seeds, and the
answers of both together are compared with those of all cosine runs: the same methods at the same lengths on the front.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path

import harness

from spendflops.study.halving import Arm, Halving, Rule, halve
from spendflops.study.points import Report, Row

CURVES = Path(__file__).parents[1] / "docs" / "studies" / "lengths.json"
TRUNK, COOLDOWN = ", trunk", 0.2
RULES = {
    "halving": Rule(),
    "halving, margin of 5 points": Rule(margin=5.0),
    "halving, margin of 10 points": Rule(margin=10.0),
    "one in four goes on": Rule(reduction=4.0),
}


def curves(rows: list[Row]) -> dict[str, dict[int, dict[int, Row]]]:
    """Label -> seed -> budget -> row."""
    found: dict[str, dict[int, dict[int, Row]]] = {}
    for row in rows:
        if row.kind == "method" and row.budget is not None:
            found.setdefault(row.label, {}).setdefault(row.seed, {})[row.budget] = row
    return found


def replays(found: dict[str, dict[int, dict[int, Row]]]) -> list[list[Arm]]:
    """The arms of each replay, a method an arm."""
    return [
        [
            Arm(
                name=label.removesuffix(TRUNK),
                method=label.removesuffix(TRUNK),
                scores={float(budget): row.scores[0].value for budget, row in found[label][seed].items()},
            )
            for label, seed in zip(found, seeds, strict=True)
        ]
        for seeds in itertools.product(*(found[label] for label in found))
    ]


def front(result: Halving, arms: list[Arm]) -> set[tuple[str, float]]:
    """The best run of each length that is better than all shorter ones, among the runs that were made."""
    scores = {arm.name: arm.scores for arm in arms}
    best, on_front = float("-inf"), set()
    for length in sorted({length for _, length in result.runs}):
        score, name = max((scores[name][length], name) for name, made in result.runs if made == length)
        if score > best:
            best, on_front = score, on_front | {(name, length)}
    return on_front


def percent(name: str, values: list[float]) -> harness.Case:
    """Shares, as a case in percent."""
    return harness.Case(name=name, unit="%", samples=[100 * value for value in values])


def rate(name: str, values: list[bool]) -> harness.Case:
    """How often something holds, as a case of one sample."""
    return percent(name, [statistics.fmean(values)])


def measured() -> list[harness.Case]:
    """All cases."""
    report = Report.from_json(json.loads(CURVES.read_text(encoding="utf-8"))["report"])
    found = curves(list(report.rows))
    own = {label: seeds for label, seeds in found.items() if not label.endswith(TRUNK)}
    shared = {label: seeds for label, seeds in found.items() if label.endswith(TRUNK)}
    paid = [
        (sum(row.own("pretrain") for row in lengths.values()), sum(row.cost() or 0 for row in lengths.values()))
        for seeds in shared.values()
        for lengths in seeds.values()
    ]
    gaps = [
        statistics.fmean(shared[label + TRUNK][seed][budget].scores[0].value for seed in seeds)
        - statistics.fmean(seeds[seed][budget].scores[0].value for seed in seeds)
        for label, seeds in own.items()
        for budget in next(iter(seeds.values()))
    ]
    cases = [
        percent("trunks: FLOPs saved, by their ledgers, a method and seed", [1 - a / b for a, b in paid]),
        harness.Case(
            name="trunks: score less that of a cosine of its own, a method and length", unit="points", samples=gaps
        ),
    ]
    all_of_them = Rule(margin=math.inf)
    everything, trunks = ([halve(arms, all_of_them) for arms in replays(curve)] for curve in (own, shared))
    both = zip(everything, trunks, replays(own), replays(shared), strict=True)
    same = [front(a, alone) == front(b, arms) for a, b, alone, arms in both]
    cases.append(rate("trunks: replays with the front of all cosines", same))
    for name, rule in RULES.items():
        for kind, curve, cooldown in (("cosines", own, None), ("trunks", shared, COOLDOWN)):
            results = [halve(arms, rule, cooldown=cooldown) for arms in replays(curve)]
            cases += [
                percent(f"{name}, {kind}: FLOPs saved", [r.saved for r in results]),
                rate(f"{name}, {kind}: replays with the same front", [r.same_front for r in results]),
                rate(f"{name}, {kind}: replays with the same best run", [r.same_best for r in results]),
            ]
        pairs = list(zip(everything, results, replays(own), replays(shared), strict=True))
        cases += [
            percent(f"{name} and trunks: FLOPs saved of all cosines", [1 - r.spent / a.full for a, r, _, _ in pairs]),
            rate(
                f"{name} and trunks: replays with the front of all cosines",
                [front(a, alone) == front(r, arms) for a, r, alone, arms in pairs],
            ),
        ]
    return cases


def main() -> None:
    """Replays all."""
    quick, before = harness.options(__doc__ or "").quick, harness.machine()
    harness.finish("spend_less", measured(), quick=quick, before=before)


if __name__ == "__main__":
    main()
