"""ImageNet-V2, Recht et al., arXiv:1902.10811: three new test sets for the classes of ImageNet-1K."""

from __future__ import annotations

import os

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource, open_folders
from spendflops.parts.sources.folder import subfolders
from spendflops.parts.sources.imagenet import WNIDS, WORDS
from spendflops.parts.sources.published import PublishedDataset

FOLDERS = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}
"""Variant -> the folder in its archive. Accuracies fall in this order of difficulty: hardest first."""

INFO = DatasetInfo(
    name="imagenet_v2",
    features={"image": "uint8 H W C", "label": "int32"},
    classes=WNIDS,
    class_names=WORDS,
    sizes={"test": 10_000},
    licence="MIT (code); the images under the terms of their owners at Flickr",
    citation="Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019, arXiv:1902.10811",
    homepage="https://github.com/modestyachts/ImageNetV2",
)

# Sorted as text, "10" would come before "2", and nearly every label would be wrong.
_INDICES = tuple(str(label) for label in range(len(WNIDS)))


class ImageNetV2(PublishedDataset):
    """The split ``test``, ten images a class; class folders are the labels, "0" to "999".

    Args:
        path: The folder with the unpacked folder of the variant, or that folder; None where nothing is read.
        partial: The copy is a part: images and classes may be missing.
        variant: ``matched-frequency``, the set that papers mean unless they say otherwise, ``threshold-0.7`` or
            ``top-images``.

    Raises:
        ConfigError: Unknown variant.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False, variant: str = "matched-frequency"):
        if variant not in FOLDERS:
            known = list(FOLDERS)
            raise ConfigError(
                f"imagenet_v2 has no variant {variant!r}{suggest(variant, known)}", fix=f"use one of {known}"
            )
        super().__init__(INFO, path=path, partial=partial)
        self.variant = variant

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of the variant; ``label`` comes with each."""
        return open_folders(self._folder(root), _INDICES, name=self.info.name, partial=self.partial)

    def _folder(self, root: str) -> str:
        wanted, own = FOLDERS[self.variant], os.path.basename(root)
        inside = os.path.join(root, wanted)
        if os.path.isdir(inside):
            return inside
        others = {folder: variant for variant, folder in FOLDERS.items() if variant != self.variant}
        here = [folder for folder in others if folder == own or os.path.isdir(os.path.join(root, folder))]
        if not here and set(subfolders(root)) & set(_INDICES):
            return root
        raise DataError(
            f"{root} does not have the variant {self.variant!r} of ImageNet-V2",
            why=f"it holds variant={others[here[0]]!r}" if here else f"the folder {wanted} is not there",
            fix=f"unpack the archive of the variant there, so that {wanted}/0, {wanted}/1, ... are in it",
        )
