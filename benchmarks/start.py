"""Seconds from the command to the end of the first training step: ViT-Ti/16 on `shapes`, 16 images, a process a sample.

The first start compiles; the second, in another run directory, finds the programs in the compilation cache, as does a
run that goes on after it was killed. What is measured is `spendflops train`, from its call until the first row is in
`metrics.jsonl`; the process is killed there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

SPENDFLOPS = str(Path(sys.executable).with_name("spendflops"))
METHODS = ("supervised", "mae")
WAIT = 600
"""Seconds after which a start has failed."""


def first_row(method: str, workdir: Path, cache: Path) -> float:
    """Seconds until the run in ``workdir`` has written its next row."""
    command = [SPENDFLOPS, "train", "--objective", method, "--backbone", "vit_ti16", "--dataset", "shapes", "--quiet"]
    command += ["--budget", "1000 steps", "--workdir", str(workdir), "--gin", f"{method}/Stage.batch_size = 16"]
    command += ["--gin", "Recipe.log_every = 1"]
    rows = workdir / "metrics.jsonl"
    before = rows.stat().st_size if rows.exists() else 0
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, "SPENDFLOPS_CACHE": str(cache)}
        )
        try:
            while not rows.exists() or rows.stat().st_size <= before:
                if process.poll() is not None or time.perf_counter() - started > WAIT:
                    said.seek(0)
                    raise RuntimeError(f"{' '.join(command)}:\n{said.read()[-2000:]}")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def measured(method: str, *, rounds: int) -> list[harness.Case]:
    """First and second start, each from nothing."""
    names = ("first start", "second start, another run", "going on after a kill")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, "cache")
            for name, run in zip(names, ("one", "two", "two"), strict=True):
                samples[name].append(first_row(method, Path(folder, run), cache))
    return [harness.Case(name=f"{method}: {name}", unit="s", samples=s) for name, s in samples.items()]


def main() -> None:
    """All methods."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    cases = [c for method in METHODS[: 1 if quick else None] for c in measured(method, rounds=1 if quick else 3)]
    harness.finish("start", cases, quick=quick, before=before)


if __name__ == "__main__":
    main()
