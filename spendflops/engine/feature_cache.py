"""What predictions gave, kept across runs: the same weights see the same images once.

The outputs of a pass (features, labels, counts: what its evaluators read) are kept a batch at a time, under a hash of
everything that determines them:

- the text of the program: layers, precision, devices, the steps of all evaluators of the pass;
- the values of all parameters and statistics;
- the entries of the batch, byte for byte, as they left the preprocessing, padding and mask among them;
- the versions of jax, the devices, and the processor where that one computes.

So what is found has the bits that running the program again would give, and no score can depend on whether it was. What
evaluators do on the host is no part of it: k of kNN, the penalty of a ridge, the draws of labelled images may change.

Data have no identity but their bytes: they are read and prepared again, since names, sizes and times of files do not
say what is in them. What is saved is the work of the model. A pass with another set of evaluators is another program:
the compiler may round the same feature in another way there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from spendflops.engine.program import Program
from spendflops.engine.state import Tree

LIMIT = 4 * 10**9
"""Bytes that a cache holds, unless it is told otherwise."""
LARGEST = 4
"""A pass whose outputs are more than one part in this many of the limit is not kept: it would drive out all others."""
_DIGEST = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Bytes by key in a folder that any number of processes may share.

    Attributes:
        folder: Made when it is needed.
        limit: Bytes. What was not used for longest is deleted; while passes run there may be more.
    """

    folder: Path
    limit: int = LIMIT

    def shelf(self, program: Program, params: Tree, stats: Tree, *, calls: int) -> Shelf | None:
        """Where a pass of ``calls`` batches looks for its outputs.

        Returns:
            None for a pass that is too large to be kept, and where several processes share the devices: each would
            have to know what all others find.
        """
        if jax.process_count() > 1 or calls * _bytes(program.outputs) > self.limit // LARGEST:
            return None
        return Shelf(self, program, params, stats)

    def read(self, key: str) -> bytes | None:
        """What was kept; None where there is nothing, or nothing that is whole."""
        path = self._path(key)
        try:
            kept = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):  # of another user, perhaps
            os.utime(path)  # what was used last is deleted last
        return kept[_DIGEST:] if kept[:_DIGEST] == _hash(kept[_DIGEST:]) else None

    def write(self, key: str, content: bytes) -> None:
        """Keeps bytes, whole or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(_hash(content) + content)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def trim(self) -> None:
        """Deletes what was not used for longest, down to the limit; what killed processes left behind is among it."""
        found = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # others trim, too
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in found) - self.limit
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key


class Shelf:
    """The outputs of one pass.

    Args:
        cache: Where they are kept.
        program: Of the pass: (params, stats, batch) -> outputs.
        params, stats: Its weights.

    Attributes:
        found: Batches whose outputs were there, so that the program did not run.
        fault: Why nothing more is kept; empty if nothing is wrong.
    """

    def __init__(self, cache: FeatureCache, program: Program, params: Tree, stats: Tree):
        self.found, self.fault = 0, ""
        self._cache, self._outputs = cache, program.outputs
        weights = (_content(x) for x in jax.tree.leaves((params, stats)))
        self._pass = _hash(where().encode(), program.digest.encode(), *weights)

    def told(self, calls: int) -> list[str]:
        """What a user should know after a pass of ``calls`` batches."""
        lines = [f"{self.found} of {calls} batches were computed before, and are not again"] if self.found else []
        return lines + ([f"nothing more is kept in {self.fault}"] if self.fault else [])

    def outputs(self, batch: Mapping[str, np.ndarray], run: Callable[[Mapping[str, np.ndarray]], Tree]) -> Tree:
        """The outputs of a batch on the host: those that were kept, or those of ``run(batch)``, which are kept."""
        key = _hash(self._pass, *(part for name in sorted(batch) for part in (name.encode(), _content(batch[name]))))
        kept = self._cache.read(key.hex())
        if kept is not None and len(kept) == _bytes(self._outputs):
            self.found += 1
            return _unpacked(kept, self._outputs)
        given = run(batch)
        if not self.fault:
            try:
                self._cache.write(key.hex(), b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(given)))
            except OSError as error:
                self.fault = f"{self._cache.folder}: {error.strerror or error}"
        return given


def _unpacked(content: bytes, outputs: Tree) -> Tree:
    shapes, tree = jax.tree.flatten(outputs)
    arrays, begin = [], 0
    for shape in shapes:
        arrays.append(np.frombuffer(content, shape.dtype, shape.size, begin).reshape(shape.shape))
        begin += arrays[-1].nbytes
    return jax.tree.unflatten(tree, arrays)


def _bytes(outputs: Tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(outputs))


@functools.cache
def where() -> str:
    """What decides the bits of a result beside the program and its arguments."""
    devices = jax.devices()
    known = [jax.__version__, jaxlib.__version__, devices[0].client.platform_version, os.environ.get("XLA_FLAGS", "")]
    known += [device.device_kind for device in devices]
    if jax.default_backend() == "cpu":
        # XLA compiles for the instructions of this processor, and divides work by the number of its cores.
        known += [*_processor(), str(os.cpu_count())]
    return "\n".join(known)


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return [platform.machine(), platform.processor(), *(x for x in lines if x.startswith(("model name", "flags")))]


def _content(array: Any) -> bytes:
    array = np.asarray(array)
    return _hash(f"{array.dtype.name} {array.shape}".encode(), array.tobytes())


def _hash(*parts: bytes) -> bytes:
    """Of the parts, not of what they are put together: each goes in with its length."""
    state = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
