"""FLOPs to time at a part of the peak: the utilisation is a number that is always printed, with where it is from."""

from __future__ import annotations

from collections.abc import Mapping

from spendflops.accounts.figures import Figure
from spendflops.accounts.machines import Machine
from spendflops.contracts import errors

ASSUMED = Figure(value=0.4, source="a guess: what large steps reach", tag="assumed")


def at_peak(dtypes: Mapping[str, int], machine: Machine, utilisation: Figure) -> tuple[float | None, str]:
    """Seconds of FLOPs at a part of the peak of their dtypes.

    Args:
        dtypes: FLOPs by dtype of the operands.
        machine: Where.
        utilisation: Model FLOPs over what the peak would do in the time.

    Returns:
        The seconds, or None and the reason.

    Raises:
        errors.ConfigError: A utilisation that is none.
    """
    check(utilisation.value)
    seconds = 0.0
    for dtype, flops in dtypes.items():
        peak = machine.peak(dtype)
        if peak is None:
            return None, f"no peak of {machine.accelerator.name} for {dtype} is known here"
        seconds += flops / (peak.value * utilisation.value)
    return seconds, ""


def check(value: float) -> None:
    """Raises a ConfigError for what is no part of a peak."""
    if not 0 < value <= 1:
        raise errors.ConfigError(
            f"a utilisation of {value:g}",
            why="it is model FLOPs over the FLOPs of the peak, and no machine is faster than that",
            fix="a number above 0 and up to 1, as 0.4",
        )
