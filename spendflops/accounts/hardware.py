"""What is known of accelerators: peaks, memory, power. Every number has a source, in ``data/hardware.csv``."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

from spendflops.accounts.figures import Figure, spread, table
from spendflops.contracts import errors

CPU_CORE_WATTS = 10.0

# Power of a chip as it runs, the best first: with its share of the machine, measured, else what it may draw at most.
_POWER = ("watts_system", "watts_mean", "watts_limit")
_PEAKS = {
    # A TPU multiplies float32 in one bfloat16 pass unless told otherwise; a GPU with TF32 uses that.
    "float32": ("peak_tf32", "peak_float32"),
    "bfloat16": ("peak_bfloat16",),
    "float16": ("peak_float16",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One chip or board.

    Attributes:
        name: Of the variant that is meant.
        aliases: Other names.
        kind: Regular expression of ``device_kind``, as JAX prints it.
        devices: JAX devices in one.
        figures: By quantity: ``peak_bfloat16`` in FLOP/s, ``memory_bytes``, ``watts_limit`` and so on.
    """

    name: str
    aliases: tuple[str, ...] = ()
    kind: str = ""
    devices: int = 1
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)

    def peak(self, dtype: str) -> Figure | None:
        """Dense FLOP/s for matrix products of ``dtype``; None where no figure is known."""
        names = _PEAKS.get(dtype, ())
        if self.name.startswith("TPU") and dtype in _PEAKS:
            names = ("peak_bfloat16",)
        return next((self.figures[name] for name in names if name in self.figures), None)

    @property
    def watts(self) -> Figure | None:
        """Power while training, between the least and the largest figure that is published; None for none."""
        known = [figure for name, figure in self.figures.items() if name.startswith("watts_")]
        main = next((self.figures[name] for name in _POWER if name in self.figures), None)
        if main is None:
            return None
        if len(known) == 1:
            return dataclasses.replace(main, source=f"at full load, without its host: {main.source}")
        return spread(known, main)

    @property
    def memory(self) -> Figure | None:
        """Bytes."""
        return self.figures.get("memory_bytes")


@functools.cache
def accelerators() -> tuple[Accelerator, ...]:
    """All that are known."""
    figures: dict[str, dict[str, Figure]] = {}
    for row in table("hardware"):
        figure = Figure(value=float(row["value"]), source=row["source"], date=row["date"], tag=row["tag"])
        figures.setdefault(row["accelerator"], {})[row["quantity"]] = figure
    return tuple(
        Accelerator(
            name=row["accelerator"],
            aliases=tuple(row["aliases"].split(";")),
            kind=row["jax_kind"],
            devices=int(row["jax_devices"]),
            figures=figures[row["accelerator"]],
        )
        for row in table("accelerators")
    )


def named(name: str) -> Accelerator:
    """The accelerator of a name; case does not matter.

    Raises:
        errors.ConfigError: Unknown.
    """
    known = {alias.lower(): item for item in accelerators() for alias in (item.name, *item.aliases)}
    if name.lower() in known:
        return known[name.lower()]
    raise errors.ConfigError(
        f"unknown hardware {name!r}{errors.suggest(name.lower(), list(known))}",
        why="no figures of it are known here, and guessed ones would look like known ones",
        fix=f"one of {', '.join(item.name for item in accelerators())}, or `this`",
    )


def of_kind(kind: str, *, cores: int = 1, memory: int | None = None) -> Accelerator:
    """The accelerator that JAX calls ``kind``, the processor itself for ``"cpu"``; without figures if unknown.

    Args:
        kind: ``device_kind``, e.g. ``"NVIDIA H200"``, ``"TPU v3"``.
        cores, memory: Of the machine (bytes); read only for a CPU.
    """
    name = kind.strip().lower()
    if name == "cpu":
        watts = Figure(
            value=CPU_CORE_WATTS * cores, source=f"{CPU_CORE_WATTS:g} W a CPU core x {cores}, a guess", tag="assumed"
        )
        found = {"watts_limit": watts}
        if memory is not None:
            found["memory_bytes"] = Figure(value=memory, source="of this machine", tag="measured")
        return Accelerator(name="cpu", figures=found)
    # Other variants of a name (PCIe, NVL, GB200) have other limits: an unknown power is better than a wrong one.
    return next((item for item in accelerators() if re.search(item.kind, name)), Accelerator(name=kind))
