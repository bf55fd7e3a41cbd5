"""Images a second of a PyTorch DataLoader with Pillow and torchvision's operators, called by images.py.

python benchmarks/torch_images.py FOLDER CASE BATCHES BATCH, by a Python that has torch and torchvision.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import library

if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
    # A torchvision that was built for another torch cannot register its operators; nothing here calls them.
    LIBRARY = library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        LIBRARY.define(f"{_name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from torchvision import transforms as T

BICUBIC = T.InterpolationMode.BICUBIC


def crop(size: int, scale: tuple[float, float]) -> list:
    """Random part and flip."""
    return [T.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC), T.RandomHorizontalFlip()]


def colours(brightness: float, contrast: float, saturation: float, hue: float) -> list:
    """Jitter and grey."""
    jitter = T.ColorJitter(brightness, contrast, saturation, hue)
    return [T.RandomApply([jitter], p=0.8), T.RandomGrayscale(p=0.2)]


def blur(probability: float, kernel: int) -> list:
    """Gaussian blur."""
    return [T.RandomApply([T.GaussianBlur(kernel, (0.1, 2.0))], p=probability)]


def view(*steps: list) -> T.Compose:
    """uint8 [3 size size], as ours gives uint8."""
    return T.Compose([step for group in steps for step in group] + [T.PILToTensor()])


SIMCLR = view(crop(224, (0.08, 1.0)), colours(0.8, 0.8, 0.8, 0.2), blur(0.5, 23))
BYOL = [
    view(crop(224, (0.08, 1.0)), colours(0.4, 0.4, 0.2, 0.1), blur(1.0, 23)),
    view(crop(224, (0.08, 1.0)), colours(0.4, 0.4, 0.2, 0.1), blur(0.1, 23), [T.RandomSolarize(128, p=0.2)]),
]
DINO = [
    view(crop(224, (0.4, 1.0)), colours(0.4, 0.4, 0.2, 0.1), blur(1.0, 9)),
    view(crop(224, (0.4, 1.0)), colours(0.4, 0.4, 0.2, 0.1), blur(0.1, 9), [T.RandomSolarize(128, p=0.2)]),
    *[view(crop(96, (0.05, 0.4)), colours(0.4, 0.4, 0.2, 0.1), blur(0.5, 9))] * 10,
]
CASES = {
    "random resized crop and flip": [view(crop(224, (0.08, 1.0)))],
    "SimCLR, 2 views": [SIMCLR, SIMCLR],
    "BYOL, 2 views": BYOL,
    "DINO, 2 + 10 views": DINO,
}


class Images(torch.utils.data.Dataset):
    """One decode an image, then its views."""

    def __init__(self, paths: list[Path], views: list):
        self.paths, self.views = paths, views

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(self.paths[index % len(self.paths)]) as image:
            whole = image.convert("RGB")
        return [view(whole) for view in self.views]


def main() -> None:
    """Prints the rate."""
    folder, case, batches, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.manual_seed(0)
    images = Images(sorted(folder.rglob("*.jpg")), CASES[case])
    loader = torch.utils.data.DataLoader(images, batch_size=size, num_workers=os.cpu_count() or 1)
    reader = iter(loader)
    for _ in range(2):
        np.asarray(next(reader)[0])
    started = time.perf_counter()
    for _ in range(batches):
        next(reader)
    rate = batches * size / (time.perf_counter() - started)
    print(json.dumps({"rate": rate, "version": f"torch {torch.__version__}"}), flush=True)
    os._exit(0)  # workers that read ahead are not waited for


if __name__ == "__main__":
    main()
