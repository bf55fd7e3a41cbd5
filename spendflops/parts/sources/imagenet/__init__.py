"""ImageNet-1K (ILSVRC 2012) on disk: its classes, the forms of its training and validation images, their labels.

Shared by every data set that has these 1000 classes or these images. A label is the rank of the WordNet id among the
sorted 1000: n01440764 is 0, n15075141 is 999. The ids of the development kit are another order and never a label.
"""

from __future__ import annotations

from importlib import resources

from spendflops.parts.sources.imagenet.layout import file_numbers, open_train, open_val
from spendflops.parts.sources.imagenet.truth import ground_truth

__all__ = ["CITATION", "LICENCE", "SIZES", "WNIDS", "WORDS", "file_numbers", "ground_truth", "open_train", "open_val"]

_LINES = [
    line.split("\t")
    for line in resources.files(__package__).joinpath("words.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]

WNIDS: tuple[str, ...] = tuple(wnid for wnid, _ in _LINES)
"""WordNet ids in label order."""

WORDS: tuple[str, ...] = tuple(words.split(", ")[0] for _, words in _LINES)
"""The most usual word for each; "crane" (bird, machine) and "maillot" (one piece or not) stand for two classes."""

SIZES = {"train": 1_281_167, "val": 50_000}
"""Images with public labels, from the description of the challenge."""

LICENCE = "ImageNet terms of access: non-commercial research and education, after registration"

CITATION = "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, arXiv:1409.0575"
