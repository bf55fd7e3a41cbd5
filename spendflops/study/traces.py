"""What a run said of itself while it trained, thinned: learning curves over FLOPs. Without jax."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILE, LOSS, PROBE = "metrics.jsonl", "loss", "probe/"
MOST = 40
"""Points of a curve that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """A scalar while a run trained.

    Attributes:
        name: ``"loss"``, or ``"probe/<evaluation>/<metric>"``.
        stage: Of the run.
        flops: Model FLOPs of the run so far, ascending.
        values: Finite; each the mean of what was logged on its stretch of FLOPs.
    """

    name: str
    stage: str
    flops: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self):
        for name in ("flops", "values"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


def read(folder: Path) -> tuple[Trace, ...]:
    """The loss of each stage and the scores of its probes, of a run directory; none where nothing was logged."""
    path = folder / FILE
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in _rows(path.read_bytes()) if path.exists() else ():
        for name, value in row.items():
            known = name == LOSS or name.startswith(PROBE)
            if known and isinstance(value, int | float) and math.isfinite(value) and row["flops"] > 0:
                found.setdefault((name, row["stage"]), []).append((row["flops"], value))
    return tuple(_trace(name, stage, thinned(pairs)) for (name, stage), pairs in found.items())


def _rows(raw: bytes) -> Iterable[dict[str, Any]]:
    """The rows of the file; a half-written last line, of a killed process, is none."""
    return map(json.loads, raw[: raw.rfind(b"\n") + 1].splitlines())


def _trace(name: str, stage: str, pairs: Sequence[tuple[int, float]]) -> Trace:
    flops, values = zip(*pairs, strict=True)
    return Trace(name=name, stage=stage, flops=flops, values=values)


def thinned(pairs: Sequence[tuple[int, float]], *, most: int = MOST) -> list[tuple[int, float]]:
    """At most ``most`` points: the means over stretches of equal length in log FLOPs, each at its last FLOPs."""
    pairs = sorted(pairs)
    if len(pairs) <= most:
        return pairs
    first, last = math.log(pairs[0][0]), math.log(pairs[-1][0])
    stretches: dict[int, list[tuple[int, float]]] = {}
    for flops, value in pairs:
        place = (math.log(flops) - first) / ((last - first) or 1.0)
        stretches.setdefault(min(int(place * most), most - 1), []).append((flops, value))
    return [(part[-1][0], float(f"{statistics.fmean(v for _, v in part):.6g}")) for part in stretches.values()]
