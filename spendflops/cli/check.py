"""spendflops check objectives.simclr [datasets.folder:photos ...] [--option k=v] [--only loss,views] [--json]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from spendflops.cli import options
from spendflops.contracts import errors, registry


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    options.define(known)
    flags.DEFINE_list(
        "only", [], "Names of checks, which bring those that they need; by default all.", flag_values=known
    )
    flags.DEFINE_integer("devices", None, "Compare one device with this many virtual CPU devices.", flag_values=known)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Runs the conformance kit on plugins; the exit code is 2 if a check failed."""
    if not rest:
        raise errors.ConfigError("no plugin given", fix="spendflops check objectives.simclr")
    plugins = [_split(name) for name in rest]
    rows = [row for plugin, group, name, path in plugins for row in _checked(known, plugin, group, name, path)]
    if known.json:
        print(json.dumps(rows, indent=1))
    statuses = [row["status"] for row in rows]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    if not known.json:
        print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 2 if "FAILED" in counts else 0


def _split(plugin: str) -> tuple[str, str, str, str]:
    """(as given, group, name, path) of ``objectives.simclr``, ``objectives.mod:Class``, ``datasets.folder:photos``."""
    group, dot, name = plugin.partition(".")
    if not dot or group not in registry.GROUPS:
        near = errors.suggest(group, registry.GROUPS)
        known = [e.selector for e in registry.entries() if e.name == plugin]
        fix = f"write {known[0]}" if known else f"GROUP.NAME, the group one of {', '.join(registry.GROUPS)}"
        raise errors.ConfigError(f"{plugin!r} names no plugin{near}", fix=fix)
    head, _, path = name.partition(":")
    if group == "datasets" and path and "." not in head:
        return plugin, group, head, path
    return plugin, group, name, ""


def _checked(known: flags.FlagValues, plugin: str, group: str, name: str, path: str) -> list[dict[str, Any]]:
    from spendflops.testing.kit import checks

    chosen = options.parse(known.option) | ({"path": path} if path else {})
    given = {"devices": known.devices} if group == "objectives" else {}
    found = list(checks(group, name, given=given, options=chosen))
    names = [check.name for check in found]
    for wanted in known.only:
        if wanted not in names:
            raise errors.ConfigError(f"no check {wanted!r}{errors.suggest(wanted, names)}", why=f"{', '.join(names)}")
    needed = {c.name for check in found if check.name in known.only for c in (check, *check.required)}
    rows = []
    for check in (c for c in found if not known.only or c.name in needed):
        outcome = check()
        rows.append({"plugin": plugin, "check": check.name, "status": outcome.status, "reason": outcome.reason})
        if not known.json:
            lines = (outcome.reason or check.about).splitlines()
            print(f"{outcome.status:8} {plugin} {check.name:16} {lines[0]}", *lines[1:], sep="\n  ", flush=True)
    return rows
