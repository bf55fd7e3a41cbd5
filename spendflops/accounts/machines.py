"""Machines by name: ``32xTPUv3@europe-west1``, ``8xH100``, ``1xH200@europe-west4:2022``, ``this``, ``this@DE``."""

from __future__ import annotations

import dataclasses
import re

from spendflops.accounts import hardware, regions
from spendflops.accounts.figures import Figure
from spendflops.accounts.hardware import Accelerator
from spendflops.accounts.regions import Region
from spendflops.contracts import errors

_FORM = re.compile(r"\s*(?:([0-9]+)\s*x\s*)?([A-Za-z][\w.-]*)\s*(?:@\s*([\w-]+)(?::([\d-]+))?)?\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """The machine that is asked on.

    Attributes:
        kind: ``device_kind`` of its JAX devices.
        devices: How many.
        cores: Of its processor.
        memory: Of its processor, in bytes; None where the system does not say.
    """

    kind: str
    devices: int
    cores: int
    memory: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Some accelerators in a place.

    Attributes:
        count: Chips or boards; 1 for a processor.
        accelerator: One of them.
        region: Where they are; ``world`` if nobody said.
        date: Of the carbon intensity; "" for the newest.
    """

    count: int
    accelerator: Accelerator
    region: Region
    date: str = ""

    @property
    def devices(self) -> int:
        """JAX devices."""
        return self.count * self.accelerator.devices

    def peak(self, dtype: str) -> Figure | None:
        """FLOP/s of all, for matrix products of ``dtype``."""
        one = self.accelerator.peak(dtype)
        return None if one is None else one.times(self.count)

    @property
    def watts(self) -> Figure | None:
        """Power of all."""
        one = self.accelerator.watts
        if one is None:
            return None
        many = f", x {self.count}" if self.count > 1 else ""
        return dataclasses.replace(one.times(self.count), source=f"{one.source}{many}")

    @property
    def memory(self) -> Figure | None:
        """Bytes of one JAX device."""
        one = self.accelerator.memory
        return None if one is None else one.times(1 / self.accelerator.devices)

    @property
    def intensity(self) -> Figure:
        """Grams of CO2e a kWh."""
        return self.region.intensity(self.date)

    def __str__(self) -> str:
        place = self.region.name + (f":{self.date}" if self.date else "")
        return f"{self.count}x{self.accelerator.name}@{place}"


def parse(text: str, *, here: Host | None = None) -> Machine:
    """Reads a machine.

    Args:
        text: ``[N x] HARDWARE [@REGION[:YEAR]]``; ``this`` is the machine that is asked on.
        here: What ``this`` means.

    Raises:
        errors.ConfigError: Not such a text, unknown hardware, unknown region, no figure of that year.
    """
    match = _FORM.fullmatch(text)
    if match is None or match[1] == "0":
        raise errors.ConfigError(
            f"{text!r} is not a machine",
            fix="COUNTxHARDWARE@REGION, as 32xTPUv3@europe-west1, 8xH100, 1xH200@DE, or `this`",
        )
    count, name, place, date = match.groups()
    region = regions.named(place or regions.WORLD)
    region.intensity(date or "")
    if name.lower() != "this":
        accelerator = hardware.named(name)
        return Machine(count=int(count or 1), accelerator=accelerator, region=region, date=date or "")
    if here is None or count:
        raise errors.ConfigError(
            f"{text!r} means no machine", why="`this` is one machine, with all its devices", fix="this, or this@REGION"
        )
    accelerator = hardware.of_kind(here.kind, cores=here.cores, memory=here.memory)
    number = 1 if accelerator.name == "cpu" else max(1, here.devices // accelerator.devices)
    return Machine(count=number, accelerator=accelerator, region=region, date=date or "")
