"""Intel Image Classification, landscapes of six kinds, as it is distributed at Kaggle."""

from __future__ import annotations

import os

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource, Files, open_folders
from spendflops.parts.sources.folder import has_images, list_images, subfolders
from spendflops.parts.sources.published import PublishedDataset

INFO = DatasetInfo(
    name="intel",
    features={"image": "uint8 H W C", "label": "int32"},
    classes=("buildings", "forest", "glacier", "mountain", "sea", "street"),
    sizes={"train": 14_034, "test": 3_000, "pred": 7_301},
    licence="not stated",
    citation="Bansal, Intel Image Classification, Kaggle 2019; images by Intel for a challenge of Analytics Vidhya",
    homepage="https://www.kaggle.com/datasets/puneet6060/intel-image-classification",
)


class Intel(PublishedDataset):
    """The splits ``train``, ``test``, and ``pred``, whose images have no labels: -1.

    ``seg_train/<class>/*.jpg``, or ``seg_train/seg_train/<class>/*.jpg`` as the archive has it; the same for
    ``seg_test``; ``seg_pred`` without class folders. Most images have 150 x 150 pixels, some have not.

    Args:
        path: The folder; None where nothing is read.
        partial: The copy is a part: images and classes may be missing.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(INFO, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of ``split``; ``label`` comes with each."""
        folder = _folder(root, f"seg_{split}")
        if split != "pred":
            return open_folders(folder, self.info.classes, name=self.info.name, partial=self.partial)
        if not has_images(folder):
            raise DataError(f"intel: {folder} has no images", fix="unpack the archive again")
        files = list_images(folder, labels="none").files
        return ClassSource(Files(folder, files), np.full(len(files), -1, np.int32))


def _folder(root: str, name: str) -> str:
    folder = os.path.join(root, name)
    if not os.path.isdir(folder):
        raise DataError(
            f"{root} has no folder {name}",
            why=f"it holds {', '.join(sorted(os.listdir(root))[:5]) or 'nothing'}",
            fix="give the folder in which seg_train, seg_test and seg_pred lie",
        )
    inside = os.path.join(folder, name)
    if not os.path.isdir(inside):
        return folder
    others = [other for other in subfolders(folder) if other != name]
    if others or has_images(folder):
        raise DataError(
            f"{folder} has {others[0] if others else 'images'!r} beside its folder {name}",
            why="one of them would not be read",
            fix="leave one copy of the images there",
        )
    return inside
