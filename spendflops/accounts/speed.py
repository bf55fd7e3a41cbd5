"""FLOPs to time by a power law through steps that were timed.

Koppula et al. 2022 (arXiv 2209.15589, A.5) fit a power law between FLOPs a step and steps a second to short runs of
all methods, and give neither its coefficients nor their number. This fits the same law, ``ln(steps/s) = a +
b ln(F / 1e12)`` by least squares, to runs of one's own, and says how far it may be off.

Points of one method are not independent: the interval is too narrow for a method that was not timed. That is what
leaving out one method at a time shows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from spendflops.contracts import errors

UNIT = 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Steps of one program that were timed.

    Attributes:
        method: What it trains.
        flops: Model FLOPs of one step, all devices.
        seconds: Of one step.
    """

    method: str
    flops: int
    seconds: float

    def __post_init__(self) -> None:
        if not (self.flops > 0 and self.seconds > 0 and math.isfinite(self.seconds)):
            raise errors.ConfigError(
                f"a step of {self.method} with {self.flops} FLOPs and {self.seconds} seconds",
                why="the law is between their logarithms",
                fix="leave the row out, or give positive numbers",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Steps a second, with the interval for one new program; ``extrapolated`` is how far outside the fit it lies.

    ``extrapolated`` is the factor between its FLOPs and the nearest that were timed, 1 inside their range.
    """

    steps_per_second: float
    low: float
    high: float
    extrapolated: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Steps a second over FLOPs a step.

    Attributes:
        slope: -1 is a constant utilisation; above it, small steps waste the machine.
        intercept: ``ln(steps/s)`` at 1e12 FLOPs.
        slope_se: Standard error.
        r2: In log space, where a wide range of FLOPs flatters it.
        sd: Of the residuals in log space, n - 2 degrees of freedom: 0.1 is about 10 %.
        points: How many.
        methods: Which.
        low, high: The FLOPs that were timed.
        center, squares: Mean and sum of squared deviations of ``ln(F / 1e12)``.
        left_out: Method -> predicted over measured steps a second (geometric mean) by the law of the other methods;
            only where those are enough.
    """

    slope: float
    intercept: float
    slope_se: float
    r2: float
    sd: float
    points: int
    methods: tuple[str, ...]
    low: int
    high: int
    center: float
    squares: float
    left_out: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def at(self, flops: int, *, level: float = 0.9) -> Prediction:
        """What a step of ``flops`` FLOPs takes; the median, and a prediction interval of Student's t."""
        x = math.log(flops / UNIT)
        middle = self.intercept + self.slope * x
        spread = self.sd * math.sqrt(1 + 1 / self.points + (x - self.center) ** 2 / self.squares)
        half = float(stats.t.ppf((1 + level) / 2, self.points - 2)) * spread
        return Prediction(
            steps_per_second=math.exp(middle),
            low=math.exp(middle - half),
            high=math.exp(middle + half),
            extrapolated=max(1.0, self.low / flops, flops / self.high),
        )

    @property
    def worst_left_out(self) -> tuple[str, float] | None:
        """The method that the others predict worst."""
        return max(self.left_out.items(), key=lambda pair: abs(math.log(pair[1])), default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A law, or the reason why there is none: too few points are a normal answer."""

    law: PowerLaw | None
    reason: str = ""


def fit(speeds: Iterable[Speed]) -> Fit:
    """The power law through what was timed, on one machine."""
    items = list(speeds)
    law, reason = _law(items)
    if law is None:
        return Fit(law=None, reason=reason)
    left_out = {}
    for method in law.methods:
        mine = [s for s in items if s.method == method]
        others, _ = _law([s for s in items if s.method != method])
        if others is not None:
            errors_ = [math.log(others.at(s.flops).steps_per_second * s.seconds) for s in mine]
            left_out[method] = math.exp(sum(errors_) / len(errors_))
    return Fit(law=dataclasses.replace(law, left_out=left_out))


def _law(items: Sequence[Speed]) -> tuple[PowerLaw | None, str]:
    flops = sorted({s.flops for s in items})
    if len(flops) < 3:
        return None, f"{len(items)} timed programs with {len(flops)} different costs: not enough for a law, 3 are"
    x = np.log(np.array([s.flops for s in items], dtype=np.float64) / UNIT)
    y = -np.log(np.array([s.seconds for s in items], dtype=np.float64))
    found = stats.linregress(x, y)
    residuals = y - found.intercept - found.slope * x
    return PowerLaw(
        slope=float(found.slope),
        intercept=float(found.intercept),
        slope_se=float(found.stderr),
        r2=float(found.rvalue**2),
        sd=math.sqrt(float(residuals @ residuals) / (len(items) - 2)),
        points=len(items),
        methods=tuple(dict.fromkeys(s.method for s in items)),
        low=flops[0],
        high=flops[-1],
        center=float(x.mean()),
        squares=float(((x - x.mean()) ** 2).sum()),
    ), ""
