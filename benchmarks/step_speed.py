"""Seconds of a whole training step beside PyTorch: ViT-Ti/16, 16 images of 224 pixels, AdamW, both on all cores.

Processes alternate, ours and theirs, so that a machine that slows down slows both. PyTorch runs eagerly, as these
implementations are used; its side is benchmarks/torch_step.py. Neither side reads data. Ours computes in the dtype of
the case, with float32 sums; PyTorch's bfloat16 is autocast. It needs a Python with torch, timm, transformers and
lightly: the environment variable PARITY_PYTHON, or .venv/parity/bin/python; without one only ours is measured, and
nothing is written. Where ours is behind: in bfloat16 XLA's CPU backend gains little on products as small as these,
while PyTorch's kernels nearly halve their time.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import harness

HERE = Path(__file__).parent
METHODS = ("supervised", "mae", "clip", "dino")
BATCH, WARM = 16, 1
VIT = {"dim": 192, "depth": 12, "heads": 3}


def ours(method: str, dtype: str, steps: int) -> list[float]:
    """Seconds of each step, compiled before."""
    from stages import Nothing, timed

    from spendflops.cli import recipe_flags
    from spendflops.contracts import registry
    from spendflops.engine.optim import adamw
    from spendflops.engine.recipe import Stage

    recipe_flags.use_cache()
    vit = functools.partial(registry.load("backbones", "vit"), compute_dtype=dtype, **VIT)
    options = {
        "supervised": {},
        "mae": {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16, "compute_dtype": dtype},
        "clip": {"embedding_dim": 768, "compute_dtype": dtype},
        "dino": {"norm_last_layer": True, "compute_dtype": dtype},
    }[method]
    stage = Stage(
        objective=functools.partial(registry.load("objectives", method), **options),
        backbone=vit,
        dataset=Nothing(),
        optimizer=adamw(lr=1e-4, weight_decay=0.05),
        batch_size=BATCH,
    )
    return timed(stage, steps, warm=WARM)[1]


def _child(command: list[str]) -> dict:
    # Huge pages, as `spendflops train` sets them for itself; glibc gives them to torch as well.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{found.stderr[-2000:]}")
    return json.loads(found.stdout.splitlines()[-1])


def measured(method: str, dtype: str, python: str | None, *, steps: int, rounds: int) -> tuple[list[harness.Case], str]:
    """Both sides in turn, and the version of PyTorch."""
    samples: dict[str, list[float]] = {"ours": [], "PyTorch": []}
    version = ""
    for _ in range(rounds):
        samples["ours"] += _child([sys.executable, __file__, "--ours", method, dtype, str(steps)])["seconds"]
        if python:
            found = _child([python, str(HERE / "torch_step.py"), method, dtype, str(steps)])
            samples["PyTorch"] += found["seconds"]
            version = f"torch {found['version']}, {found['threads']} threads"
    return [harness.Case(name=f"{method} {dtype}: {w}", unit="s", samples=s) for w, s in samples.items() if s], version


def _kept(chosen: list[str]) -> list[harness.Case]:
    """The samples of methods that are not measured again."""
    path = harness.RESULTS / "step_speed.json"
    if not chosen or not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [harness.Case(**case) for case in stored if case["name"].split()[0] not in chosen]


def main() -> None:
    """Measures both sides of each method, or of those that are named; what is done is kept."""
    if sys.argv[1:2] == ["--ours"]:
        method, dtype, steps = sys.argv[2:5]
        print(json.dumps({"seconds": ours(method, dtype, int(steps))}))
        return
    chosen = [name for name in METHODS if name in sys.argv]
    sys.argv = [word for word in sys.argv if word not in METHODS]
    quick = harness.options(__doc__ or "").quick
    path = os.environ.get("PARITY_PYTHON", str(HERE.parent / ".venv" / "parity" / "bin" / "python"))
    python = path if Path(path).exists() else None
    before, cases = harness.machine(), _kept(chosen)
    for method in METHODS[:1] if quick else chosen or METHODS:
        for dtype in ("float32", "bfloat16"):
            steps, rounds = (1, 1) if quick else (3, 3)
            found, version = measured(method, dtype, python, steps=steps, rounds=rounds)
            cases += found
            harness.finish("step_speed", cases, quick=quick or not python, before=before, about=version)


if __name__ == "__main__":
    main()
