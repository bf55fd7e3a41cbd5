"""Plugins by entry points: listed from metadata alone, imported one at a time, never silently replaced.

A plugin is an entry point in one of the groups below. Nothing is imported to list plugins; ``load`` imports exactly the
one that is named. Two distributions that offer one name are an error at use, resolved with ``name@distribution``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata

from spendflops.contracts import errors

GROUPS = ("backbones", "objectives", "datasets", "evaluators")
"""The four interfaces. The entry-point group is ``"spendflops." + name``."""

OTHER_GROUPS = ("gin", "launchers", "layouts")
API_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry point, as its distribution's metadata states it."""

    group: str
    name: str
    value: str
    distribution: str
    version: str
    location: str

    @property
    def selector(self) -> str:
        """The name in gin and on the command line, e.g. ``objectives.mae``."""
        return f"{self.group}.{self.name}"


def entries(groups: tuple[str, ...] = GROUPS) -> list[Entry]:
    """All entry points of the groups, sorted by group, name, distribution. Imports no plugin."""
    found: dict[tuple[str, str, str], Entry] = {}
    # One scan for all groups, and metadata parsed once a distribution: runs describe themselves a dozen times.
    points = importlib.metadata.entry_points()
    about = functools.cache(_about)
    for group in groups:
        for point in points.select(group=f"spendflops.{group}"):
            name, version, location = about(point.dist)
            # A stale egg-info beside a wheel lists the same distribution twice; that is one offer, not a conflict.
            key = (group, point.name, name.lower().replace("_", "-"))
            found.setdefault(
                key,
                Entry(
                    group=group,
                    name=point.name,
                    value=point.value,
                    distribution=name,
                    version=version,
                    location=location,
                ),
            )
    return sorted(found.values(), key=lambda e: (e.group, e.name, e.distribution))


def _about(dist: importlib.metadata.Distribution | None) -> tuple[str, str, str]:
    """Name, version and place of a distribution; ``"?"`` for what its metadata, half written perhaps, do not say."""
    if dist is None:
        return "?", "?", "?"
    said = dist.metadata
    return said["Name"] or "?", said["Version"] or "?", str(dist.locate_file(""))


def find(group: str, name: str) -> Entry:
    """The entry point called ``name`` or ``name@distribution``.

    Raises:
        errors.PluginError: Unknown, or offered by two distributions without a choice.
    """
    bare, _, wanted = name.partition("@")
    known = entries((group,))
    matches = [e for e in known if e.name == bare and (not wanted or e.distribution == wanted)]
    kind = group.rstrip("s")
    if not matches:
        names = sorted({e.name for e in known})
        raise errors.PluginError(
            f"unknown {kind} {name!r}{errors.suggest(bare, names)}",
            why=f"installed {group}: {', '.join(names) or 'none'}",
            fix="check the name with `spendflops plugins`; a plugin that was just added needs `pip install -e .` again",
        )
    if len(matches) > 1:
        offers = ", ".join(f"{e.distribution} {e.version} ({e.value})" for e in matches)
        raise errors.PluginError(
            f"{kind} {bare!r} is offered by {len(matches)} distributions",
            why=offers,
            fix=f"choose one: {bare}@{matches[0].distribution} or {bare}@{matches[1].distribution}",
        )
    return matches[0]


def load(group: str, name: str) -> type:
    """Imports and returns the class behind ``name``, ``name@distribution`` or ``'package.module:Class'``.

    Raises:
        errors.PluginError: Unknown, ambiguous, not importable, or of another interface version.
    """
    if ":" in name:
        return _check(group, name, _import(group, name, name, "the given path"))
    entry = find(group, name)
    return _check(group, name, _import(group, name, entry.value, f"{entry.distribution} {entry.version}"))


def _import(group: str, name: str, value: str, origin: str) -> type:
    module, _, attribute = value.partition(":")
    try:
        target = importlib.import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and not module.startswith(error.name)
        raise errors.PluginError(
            f"{group.rstrip('s')} {name!r} is installed but failed to import",
            why=f"{origin}, {value}: {type(error).__name__}: {error}",
            fix=f"install what it needs: pip install {error.name}" if missing else "repair or reinstall that package",
        ) from error
    return target


def _check(group: str, name: str, cls: type) -> type:
    version = getattr(cls, "api_version", API_VERSION)
    if version != API_VERSION:
        raise errors.PluginError(
            f"{group.rstrip('s')} {name!r} was written for plugin API {version}",
            why=f"this spendflops has plugin API {API_VERSION}",
            fix="install a version of the plugin made for it",
        )
    from spendflops.contracts import conformity

    conformity.check_signature(group, name, cls)
    return cls
