"""What is derived from a file and kept: beside it, or, where that folder cannot be written, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def places(path: str, suffix: str) -> tuple[Path, Path]:
    """Where to look for it, and to write it, in this order."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spendflops" / "indices"
    name = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(path + suffix), cache / (name + suffix)


def store(place: Path, arrays: Mapping[str, Any], *, like: str) -> bool:
    """Writes arrays as ``.npz``, whole or not at all, and says whether it could.

    Args:
        place: The file.
        arrays: By name.
        like: Who may read this file or folder may read what is derived from it.
    """
    temporary = ""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, **arrays)
        # A temporary file is its owner's alone; data sets are often shared.
        os.chmod(temporary, stat.S_IMODE(os.stat(like).st_mode) & 0o666 | stat.S_IWUSR)
        os.replace(temporary, place)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True
