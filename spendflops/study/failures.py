"""Rows that failed: what broke stays in their folders, until somebody says that they may run again."""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spendflops.contracts import errors
from spendflops.engine.rundir import read_json, write_atomically

FILE = "failed.json"


def read(folder: Path) -> dict[str, Any] | None:
    """What broke in a run's folder: ``what``, ``message``, ``exit_code``, ``traceback``; None if nothing did."""
    return read_json(folder / FILE)


def keep(folder: Path, error: Exception) -> str:
    """Writes down what broke, and says it in a line.

    Raises:
        errors.DataError: The folder cannot be written.
    """
    what = error.what if isinstance(error, errors.SpendflopsError) else f"{type(error).__name__}: {error}"
    body = {
        "what": what,
        "message": str(error),
        "exit_code": getattr(error, "exit_code", 1),
        "traceback": "".join(traceback.format_exception(error)),
    }
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps(body, indent=1))
    return what


def clear(rows: Path, names: Collection[str] = (), *, reason: str) -> dict[str, str]:
    """Lets failed rows run again; what broke moves to ``logs/failed-<number>.json``, with the reason.

    Args:
        rows: The folder of the rows of a study.
        names: Run ids; none for all that failed.
        reason: Why they may run again.

    Returns:
        Run id -> what had broken.

    Raises:
        errors.ConfigError: A row that is not there, or has not failed.
    """
    failed = {path.parent.name: path for path in sorted(rows.glob(f"*/{FILE}"))}
    for name in names:
        if name not in failed:
            raise errors.ConfigError(
                f"{name!r} is no failed row{errors.suggest(name, list(failed))}",
                why=f"failed: {', '.join(failed) or 'none'}",
            )
    cleared = {}
    for name in names or failed:
        body = json.loads(failed[name].read_text(encoding="utf-8"))
        logs = failed[name].parent / "logs"
        number = len(list(logs.glob("failed-*.json"))) + 1
        write_atomically(logs / f"failed-{number}.json", json.dumps({**body, "cleared": reason}, indent=1))
        failed[name].unlink(missing_ok=True)
        cleared[name] = body["what"]
    return cleared
