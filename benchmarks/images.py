"""Images a second from JPEGs of 500 x 375 pixels to batches of 224, beside a bare loop and beside PyTorch.

Bare is a thread a core that decodes with OpenCV, cuts a random part and resizes it, with Pillow's antialiased bicubic
filter or with OpenCV's mean of an area, and does nothing else. Ours are the batches of a run, with the official
operators of each method, and with their near-equivalents (interpolation = 'area', for DINO also operators = 'opencv').
PyTorch is a DataLoader with a process a core, Pillow, and torchvision's operators; its side is
benchmarks/torch_images.py. Stretches of all cases alternate, so that a machine that slows down slows all. It needs a
Python with torch and torchvision: PARITY_PYTHON, or .venv/parity/bin/python; without one nothing is written. The last
case is the memory that waiting batches hold: the pipeline is read by a model that does not come back.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import harness
import numpy as np
import PIL.Image

from spendflops.contracts import registry
from spendflops.contracts.types import InputSpec
from spendflops.engine import data
from spendflops.parts.crops import CROP_SAMPLERS
from spendflops.parts.images import resize

HERE = Path(__file__).parent
BATCH = 32
SPEC = InputSpec(size=(224, 224), stride=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
METHODS = {
    "random resized crop and flip": ("supervised", {}, {}),
    "SimCLR, 2 views": ("simclr", {}, {}),
    "BYOL, 2 views": ("byol", {}, {}),
    "DINO, 2 + 10 views": ("dino", {"local_views": 10}, {"operators": "opencv"}),
}


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs with the spectrum of photographs: noise whose amplitude falls with its frequency."""
    rng = np.random.default_rng(0)
    paths = []
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None]) + 1 / 500
    for index in range(count):
        layers = []
        for _ in range(3):
            spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency
            layer = np.fft.irfft2(spectrum, s=(375, 500))
            layers.append(layer / layer.std() * 45 + 120)
        path = folder / f"class{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.clip(np.stack(layers, -1), 0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def bare(paths: list[Path], shrink: Callable, count: int) -> float:
    """Images a second of a thread a core."""
    content = [path.read_bytes() for path in paths]

    def one(index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        pixels = cv2.imdecode(np.frombuffer(content[index % len(content)], np.uint8), cv2.IMREAD_COLOR)
        top, left, height, width = CROP_SAMPLERS["torchvision"](
            rng, pixels.shape[:2], scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
        )
        out = shrink(cv2.cvtColor(pixels[top : top + height, left : left + width], cv2.COLOR_BGR2RGB))
        return out[:, ::-1] if rng.random() < 0.5 else out

    with ThreadPoolExecutor(data.readers().threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(one, range(count)):
            pass
        return count / (time.perf_counter() - started)


def with_pillow(pixels: np.ndarray) -> np.ndarray:
    """Antialiased bicubic, as training recipes have it."""
    return np.asarray(PIL.Image.fromarray(pixels).resize((224, 224), PIL.Image.Resampling.BICUBIC))


def with_opencv(pixels: np.ndarray) -> np.ndarray:
    """The mean of what a pixel covers."""
    return resize(pixels, (224, 224), "area")


def ours(folder: Path, method: str, options: dict, batches: int) -> float:
    """Images a second of a run's batches, the start of the readers left out."""
    views = registry.load("objectives", method).views(**options)
    source = registry.load("datasets", "folder")(path=str(folder)).source("all", features=views.features)
    stream = data.Batches(source, views, spec=SPEC, batch_size=BATCH, seed=0)
    with stream.read(0, batches + 2) as reader:
        next(reader)
        next(reader)
        # What was read ahead by then is not counted twice: as many batches wait at the end as waited here.
        started = time.perf_counter()
        for _ in range(batches):
            next(reader)
        return batches * BATCH / (time.perf_counter() - started)


def theirs(python: str, folder: Path, case: str, batches: int) -> tuple[float, str]:
    """The same of PyTorch."""
    command = [python, str(HERE / "torch_images.py"), str(folder), case, str(batches), str(BATCH)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    body = json.loads(found.stdout.splitlines()[-1])
    return body["rate"], body["version"]


def held(folder: str) -> None:
    """Prints MB that the process grew by while batches of 256 waited."""
    views = registry.load("objectives", "supervised").views()
    source = registry.load("datasets", "folder")(path=folder).source("all", features=views.features)
    stream = data.Batches(source, views, spec=SPEC, batch_size=256, seed=0)
    before = _resident()
    with stream.read(0, 1000) as reader:
        kept, peak = next(reader), 0.0
        for _ in range(40):
            time.sleep(0.25)
            peak = max(peak, _resident() - before)
    print(json.dumps({"held": peak, "batch": sum(x.nbytes for x in kept.values()) / 1e6}))


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Measures all cases in turn."""
    if sys.argv[1:2] == ["--held"]:
        held(sys.argv[2])
        return
    quick = harness.options(__doc__ or "").quick
    python = os.environ.get("PARITY_PYTHON", str(HERE.parent / ".venv" / "parity" / "bin" / "python"))
    there = Path(python).exists() and not quick
    before, samples, version = harness.machine(), {}, ""
    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = photographs(folder, 16 if quick else 128)
        for _ in range(rounds):
            taken = {
                "bare, Pillow's resize": bare(paths, with_pillow, 64 if quick else 1500),
                "bare, OpenCV's area": bare(paths, with_opencv, 64 if quick else 1500),
            }
            for case, (method, options, near) in METHODS.items():
                batches = 2 if quick else {"supervised": 40, "dino": 5}.get(method, 10)
                taken[f"{case}: ours"] = ours(folder, method, options, batches)
                near = {**options, **near, "interpolation": "area"}
                taken[f"{case}: ours, near-equivalent"] = ours(folder, method, near, batches)
                if there:
                    taken[f"{case}: PyTorch"], version = theirs(python, folder, case, batches)
            for case, rate in taken.items():
                samples.setdefault(case, []).append(rate)
        cases = [harness.Case(name=n, unit="images a second", samples=s) for n, s in samples.items()]
        command = [sys.executable, __file__, "--held", name]
        found = [
            json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(min(rounds, 3))
        ]
        limit = f"at most {data.AHEAD + 2} batches, {(data.AHEAD + 2) * found[0]['batch']:.0f} MB"
        cases.append(
            harness.Case(name="waiting batches of 256", unit="MB", samples=[f["held"] for f in found], goal=limit)
        )
    harness.finish("images", cases, quick=quick or not there, before=before, about=f"batches of {BATCH}; {version}")


if __name__ == "__main__":
    main()
