"""How a file system behaves, tried out: what runs and studies rely on, and what they only like to have."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

THREADS, ROUNDS = 8, 20


def kind(folder: Path) -> str:
    """The type of the file system, as the system's table of mounts has it; "unknown" without one."""
    best, found = -1, "unknown"
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    path = str(folder.resolve())
    for line in lines:
        _, place, name = line.split()[:3]
        place = place.replace("\\040", " ")
        if (path == place or path.startswith(place.rstrip("/") + "/")) and len(place) > best:
            best, found = len(place), name
    return found


def free(folder: Path) -> int:
    """Bytes that may be written."""
    return shutil.disk_usage(folder).free


def exclusive(folder: Path) -> bool:
    """Whether of many threads exactly one makes a file with O_EXCL: claims on the rows of a study rely on it."""
    with tempfile.TemporaryDirectory(prefix=".spendflops-", dir=folder) as place:
        return all(_winners(Path(place) / str(number)) == 1 for number in range(ROUNDS))


def _winners(path: Path) -> int:
    gate, won = threading.Barrier(THREADS), []

    def make() -> None:
        gate.wait()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            won.append(True)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=make) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


def whole(folder: Path) -> bool:
    """Whether a reader of a file that is replaced by a rename always finds all of the old or all of the new."""
    contents = [bytes([65 + number]) * 4096 for number in range(2)]
    with tempfile.TemporaryDirectory(prefix=".spendflops-", dir=folder) as place:
        path, seen, stop = Path(place) / "file", set(), threading.Event()
        path.write_bytes(contents[0])

        def read() -> None:
            while not stop.is_set():
                try:
                    seen.add(path.read_bytes())
                except FileNotFoundError:
                    seen.add(b"")

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(10 * ROUNDS):
            temporary = path.with_name("temporary")
            temporary.write_bytes(contents[number % 2])
            os.replace(temporary, path)
        stop.set()
        reader.join()
        return seen <= set(contents)


def fsync_seconds(folder: Path) -> float:
    """Median seconds until 4 KB are on the disk."""
    times = []
    with tempfile.NamedTemporaryFile(prefix=".spendflops-", dir=folder) as file:
        for _ in range(9):
            file.write(b"0" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def locks(folder: Path) -> bool:
    """Whether ``flock`` keeps a second process out: without it, claims still do, but not two `train` in one folder."""
    with tempfile.NamedTemporaryFile(prefix=".spendflops-", dir=folder) as file, open(file.name, "rb") as other:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
        return False
