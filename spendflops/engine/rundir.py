"""The run directory, the only storage: what was asked, what happened, what came out.

``config.gin operative.gin config.json status.json metrics.jsonl ledger.jsonl events/ checkpoints/ logs/
environment.json result.json``, and ``evaluations/`` where evaluators keep files beside their scores. The same command
again goes on; another configuration in an existing directory is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spendflops.accounts.ledger import sync
from spendflops.accounts.regions import WORLD
from spendflops.contracts import errors

PACKAGES = ("spendflops", "jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing; text as UTF-8.

    Raises:
        errors.DataError: Disk full, read-only, not a directory.
    """
    # Processes of two machines, and threads of one, may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(path, error) from error


def plain(name: str) -> bool:
    """Whether it names a file or a folder inside another, and nowhere else."""
    return Path(name).name == name and name not in ("", "..")


STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def storage_error(path: Path | str, error: OSError) -> errors.DataError:
    """The error of a disk that does not take what is written."""
    return errors.DataError(
        f"cannot write {path}",
        why=f"{os.strerror(error.errno) if error.errno else error}",
        fix="make room or choose another --workdir; the same command goes on from the last checkpoint",
    )


@dataclasses.dataclass
class RunDir:
    """An open run directory.

    Attributes:
        path: The folder.
        config: What was asked, as JSON.
        resolved: Steps and FLOPs a step by stage, and the factors of a budget of hours, kWh or kg, fixed when the
            directory was made.
        fresh: Whether it was made just now.
        region: Where the machine stands that made it.
        home: The folder that all hosts see: with checkpoints, and beside other runs. ``path``, but for hosts that are
            not the first.
    """

    path: Path
    home: Path
    config: dict[str, Any]
    resolved: dict[str, Any] | None
    fresh: bool
    region: str = WORLD

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, region: str = WORLD,
        home: str | os.PathLike[str] | None = None,
    ) -> RunDir:  # fmt: skip
        """Makes the directory, or opens it if it holds a run of the same configuration.

        Raises:
            errors.ConfigError: It holds another configuration; the difference is printed.
            errors.DataError: It cannot be written.
        """
        folder = Path(path)
        home = Path(path if home is None else home)
        try:
            for part in ("", "checkpoints", "events", "logs"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        existing = folder / "config.json"
        if not existing.exists():
            return cls(path=folder, home=home, config=dict(config), resolved=None, fresh=True, region=region)
        stored = json.loads(existing.read_text(encoding="utf-8"))
        given = json.loads(json.dumps(config))
        if stored["config"] != given:
            raise errors.ConfigError(
                f"{folder} holds a run of another configuration",
                why="the difference is\n" + _difference(stored["config"], given),
                fix="use another --workdir, or the configuration that it was made with",
            )
        return cls(path=folder, home=home, config=given, resolved=stored["resolved"], fresh=False)

    def settle(self, resolved: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Writes what the run is: resolved budget, configuration texts, environment. Once, when it is new."""
        if not self.fresh:
            return
        for name, text in texts.items():
            write_atomically(self.path / name, text)
        found = {**environment(), "region": self.region}
        write_atomically(self.path / "environment.json", json.dumps(found, indent=1, sort_keys=True))
        self.resolved = dict(resolved)
        body = {"config": self.config, "resolved": self.resolved}
        write_atomically(self.path / "config.json", json.dumps(body, indent=1, sort_keys=True))

    def status(self, **fields: Any) -> None:
        """Writes ``status.json``: state, heartbeat, exit code."""
        write_atomically(self.path / "status.json", json.dumps({"time": time.time(), **fields}, sort_keys=True))

    def where(self) -> dict[str, Any]:
        """``stage``, ``step`` and ``steps`` as ``status.json`` has them; empty before the first."""
        said = read_json(self.path / "status.json") or {}
        return {name: said[name] for name in ("stage", "step", "steps") if name in said}

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        return read_json(self.path / "result.json")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuses a second process on the same directory. The system drops the lock of a process that is gone.

    Raises:
        errors.InUseError: Another process works there.
        errors.DataError: The folder cannot be written.
    """
    try:
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise storage_error(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise errors.InUseError(
                f"{folder} is in use by process {file.read() or 'unknown'}",
                fix="wait for it, or choose another --workdir",
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise storage_error(folder, error) from error
            # A file system without locks, as some clusters have: two processes are then the user's to avoid.
        with contextlib.suppress(OSError):  # who it is only serves the message
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{socket.gethostname()}:{os.getpid()}".encode())
        yield


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file, None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _difference(old: Any, new: Any) -> str:
    before, after = (json.dumps(x, indent=1, sort_keys=True).splitlines() for x in (old, new))
    lines = [d for d in difflib.unified_diff(before, after, "stored", "given", lineterm="", n=1)]
    return "\n".join(lines[:40])


def environment() -> dict[str, Any]:
    """Versions and machine."""
    import jax

    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {p: importlib.metadata.version(p) for p in PACKAGES},
        "devices": [d.device_kind for d in jax.devices()],
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
    }


class Progress:
    """The step that was reached, written at every step: after ``kill -9`` it tells how many steps were lost.

    Beside it, the seconds since the last row of the ledger, so that no wall time is lost either.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR)

    def read(self) -> tuple[int, int, float]:
        """(attempt, step, seconds); zeros when there is nothing."""
        words = os.pread(self._descriptor, 64, 0).split()
        return (int(words[0]), int(words[1]), float(words[2])) if len(words) == 3 else (0, 0, 0.0)

    def write(self, attempt: int, step: int, seconds: float) -> None:
        """One small write: a few microseconds."""
        os.pwrite(self._descriptor, b"%10d %20d %20.3f\n" % (attempt, step, seconds), 0)

    def close(self) -> None:
        """Releases the file."""
        os.close(self._descriptor)
