"""Errors that a user reads, and the exit code of each.

A message has three short parts: what happened, why, how to fix it. A library traceback is shown only with
``--traceback``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class SpendflopsError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: One sentence, what happened.
        why: One sentence, the reason, with the file and the line where there is one.
        fix: One sentence, what to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = ""):
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.why, self.fix)


def _rebuild(cls: type[SpendflopsError], what: str, why: str, fix: str) -> SpendflopsError:
    return cls(what, why=why, fix=fix)


class ConfigError(SpendflopsError):
    """Wrong usage: a flag, a gin binding, a plugin name, parts that do not fit together."""

    exit_code = 2


class InUseError(ConfigError):
    """Another process works on the same folder."""


class PluginError(ConfigError):
    """A plugin is unknown, offered twice, fails to import or breaks its contract."""


class DataError(SpendflopsError):
    """A data set that is missing, unreadable or not what it says it is."""

    exit_code = 3


class OutOfMemoryError(SpendflopsError):
    """A program does not fit on the device."""

    exit_code = 4


class DivergedError(SpendflopsError):
    """A loss or a gradient became non-finite.

    Attributes:
        where: ``stage`` and ``step``, where it is a step that diverged.
    """

    exit_code = 5
    where: Mapping[str, object] = MappingProxyType({})


class Preempted(SpendflopsError):
    """Asked to stop (SIGTERM): the state is saved, the same command goes on."""

    exit_code = 75


class HostLost(SpendflopsError):
    """Another process of a job of several hosts is gone: the same command goes on from the last checkpoint."""

    exit_code = 75


class Interrupted(SpendflopsError):
    """Stopped by the keyboard: the state is saved, the same command goes on."""

    exit_code = 130


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """``" (did you mean 'simclr'?)"`` for a near miss, else an empty string."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
