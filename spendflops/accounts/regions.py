"""Where a machine stands: grams of CO2e a kWh of its grid, by date, and the PUE of its building."""

from __future__ import annotations

import dataclasses
import functools

from spendflops.accounts.figures import Figure, spread, table
from spendflops.contracts import errors

WORLD = "world"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """A place with a grid.

    Attributes:
        name: As its provider calls it; ``"world"`` where nobody said.
        provider: ``"gcp"``, ``"aws"``, ``"azure"``, or ``"country"``.
        location: In words.
        intensities: Grams of CO2e a kWh, location based, the oldest first, each with its kind: ``"lifecycle"``,
            ``"operational"`` or ``"unstated"``.
    """

    name: str
    provider: str
    location: str
    intensities: tuple[tuple[str, Figure], ...]

    def intensity(self, date: str = "") -> Figure:
        """That of a year; without one the newest, between the least and the largest of its kind.

        Raises:
            errors.ConfigError: No figure of that date.
        """
        if date:
            found = {figure.date: figure for _, figure in self.intensities}
            if date not in found:
                raise errors.ConfigError(
                    f"no carbon intensity of {self.name} for {date} is known", fix=f"one of {', '.join(found)}"
                )
            return found[date]
        kind, newest = self.intensities[-1]
        # Life-cycle and operational figures are not two values of one quantity.
        return spread([figure for other, figure in self.intensities if other == kind], newest)

    @property
    def pue(self) -> Figure:
        """Of the building, else of the provider; where neither is published 1, up to a survey's average."""
        rows = {row["place"]: row for row in table("pue")}
        row = rows.get(self.name) or rows.get(self.provider)
        if row is not None:
            return Figure(value=float(row["pue"]), source=row["source"], date=row["date"], tag=row["tag"])
        survey = rows["survey"]
        source = f"the machine alone, no cooling or losses; at most that of {survey['source']}"
        return Figure(value=1.0, high=float(survey["pue"]), source=source, date=survey["date"], tag="assumed")


@functools.cache
def regions() -> dict[str, Region]:
    """All that are known, by name."""
    found: dict[str, Region] = {}
    for row in table("regions"):
        kind = row["basis"]
        source = row["source"] if kind == "unstated" else f"{row['source']}; {kind}"
        figure = Figure(value=float(row["g_per_kwh"]), source=source, date=row["date"], tag=row["tag"])
        before = found.get(row["region"])
        found[row["region"]] = Region(
            name=row["region"],
            provider=row["provider"],
            location=row["location"],
            intensities=(*(before.intensities if before else ()), (kind, figure)),
        )
    return found


def named(name: str) -> Region:
    """The region of a name; case does not matter.

    Raises:
        errors.ConfigError: Unknown.
    """
    known = {region.lower(): region for region in regions()}
    if name.lower() not in known:
        raise errors.ConfigError(
            f"unknown region {name!r}{errors.suggest(name, list(regions()))}",
            why="no carbon intensity of it is known here",
            fix=f"one of {', '.join(regions())}",
        )
    return regions()[known[name.lower()]]
