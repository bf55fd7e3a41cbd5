"""One device against several: the same loss and gradient, each computed in a process with that many CPU devices."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from spendflops.testing.kit import CheckFailed, Skipped

ASKED = "SPENDFLOPS_KIT_DEVICES"
PLATFORM = {"JAX_PLATFORMS": "cpu"}
TOLERANCE = 1e-3


def compare(subject: Any) -> None:
    """Raises a CheckFailed where several devices give something else.

    Raises:
        Skipped: It is not asked for.
    """
    count = subject.devices or int(os.environ.get(ASKED, 0))
    if count < 2:
        raise Skipped(f"takes two processes; {ASKED}=8, devices=8 or `spendflops check --devices 8` asks for it")
    size = -(-subject.batch_size // count) * count
    given = {"options": subject.options, **subject.given, "batch_size": size}
    try:
        text = pickle.dumps((subject.cls, given))
    except Exception as error:
        raise Skipped(f"cannot be sent to another process ({error})") from error
    one, several = (_measured(text, n) for n in (1, count))
    if not np.isclose(one["loss"], several["loss"], rtol=TOLERANCE):
        raise CheckFailed(f"the loss is {one['loss']:.6g} on one device and {several['loss']:.6g} on {count}", fix=FIX)
    norms = [np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gs)) for gs in _both(one, several)]
    if norms[1] > TOLERANCE * norms[0]:
        raise CheckFailed(f"the gradient on {count} devices is off by {norms[1] / norms[0]:.2g} of its norm", fix=FIX)


FIX = "write the maths for the global batch; never ask for the number of devices or the place of a shard"


def _both(one: Any, several: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    a, b = one["gradient"], several["gradient"]
    return list(a.values()), [a[path] - b[path] for path in a]


def _measured(text: bytes, count: int) -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = {**os.environ, **PLATFORM, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("asked", "measured")]
        paths[0].write_bytes(text)
        command = [sys.executable, "-c", "import sys, spendflops.testing.devices as d; d.main(*sys.argv[1:])"]
        done = subprocess.run([*command, *map(str, paths)], env=environment, capture_output=True, text=True)
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise CheckFailed(f"fails on {count} devices", why=last)
        return pickle.loads(paths[1].read_bytes())


def main(asked: str, measured: str) -> None:
    """The process: reads a class and its options, writes its loss and gradient after one step."""
    from spendflops.testing.model import Subject

    cls, given = pickle.loads(Path(asked).read_bytes())
    subject = Subject(cls, **given)
    state, metrics = subject.step(subject.initial, subject.batches[0])
    result = {"loss": float(metrics["loss"]), "gradient": subject.gradient(state)}
    Path(measured).write_bytes(pickle.dumps(result))
