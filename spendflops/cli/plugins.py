"""spendflops plugins [--check] [--json]"""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags

from spendflops.contracts import errors, registry


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    flags.DEFINE_bool("check", False, "Import each plugin and check its contract.", flag_values=known)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Lists the plugins; with --check the exit code is 2 if one is broken."""
    if rest:
        raise errors.ConfigError(f"plugins takes flags only, not {rest[0]!r}")
    rows = listing(check=known.check)
    if known.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{row['group']:11} {row['name']:22} {row['distribution']} {row['version']}  {row['status']}")
        if known.check:
            for where in sorted({f"{r['distribution']} {r['version']}: {r['location']}" for r in rows}):
                print(f"from {where}")
    return 2 if any(row["status"].startswith("BROKEN") for row in rows) else 0


def listing(*, check: bool) -> list[dict[str, str]]:
    """One row a plugin. Without ``check`` nothing is imported."""
    entries = registry.entries((*registry.GROUPS, "launchers", "layouts"))
    rows = []
    for entry in entries:
        rivals = [e for e in entries if e.selector == entry.selector and e is not entry]
        status = "installed"
        if rivals:
            status = f"AMBIGUOUS (also in {rivals[0].distribution}): choose {entry.name}@{entry.distribution}"
        if check:
            status = _status(entry, status)
        rows.append(
            {
                "group": entry.group,
                "name": entry.name,
                "distribution": entry.distribution,
                "version": entry.version,
                "status": status,
                "location": entry.location,
            }
        )
    return rows


def _status(entry: registry.Entry, ambiguous: str) -> str:
    try:
        registry.load(entry.group, f"{entry.name}@{entry.distribution}")
    except errors.PluginError as error:
        return f"BROKEN ({error.why or error.what})"
    return ambiguous if ambiguous != "installed" else "ok"
