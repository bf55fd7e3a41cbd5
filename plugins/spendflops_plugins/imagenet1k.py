"""ImageNet-1K (ILSVRC 2012), Russakovsky et al., arXiv:1409.0575: 1,281,167 training and 50,000 validation images."""

from __future__ import annotations

from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource
from spendflops.parts.sources.imagenet import (
    CITATION,
    LICENCE,
    SIZES,
    WNIDS,
    WORDS,
    file_numbers,
    ground_truth,
    open_train,
    open_val,
)
from spendflops.parts.sources.published import PublishedDataset

INFO = DatasetInfo(
    name="imagenet1k",
    features={"image": "uint8 H W C", "label": "int32"},
    classes=WNIDS,
    class_names=WORDS,
    sizes=SIZES,
    licence=LICENCE,
    citation=CITATION,
    homepage="https://www.image-net.org/challenges/LSVRC/2012/",
)


class ImageNet1K(PublishedDataset):
    """The splits ``train`` and ``val``; the test images have no public labels.

    What lies in the folder decides how it is read:

    - extracted: ``train/<wnid>/*.JPEG``, ``val/<wnid>/*.JPEG``
    - Kaggle's: ``ILSVRC/Data/CLS-LOC/{train,val}`` and ``LOC_val_solution.csv``
    - as distributed: ``ILSVRC2012_img_train.tar``, ``ILSVRC2012_img_val.tar`` and ``ILSVRC2012_devkit_t12.tar.gz``
    - a flat ``val/`` beside the development kit, packed or not, or beside Kaggle's table

    Training images come in the order of the classes, validation images in the order of their file names, in each form.
    22 of the images are CMYK and one is a PNG that is called JPEG: the bytes decide, as everywhere.

    Args:
        path: The folder; None where nothing is read.
        partial: The copy is a part: images and classes may be missing.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(INFO, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of ``split``; ``label`` comes with each."""
        if split == "train":
            return open_train(root, WNIDS, partial=self.partial)
        images, labels = open_val(root, WNIDS, partial=self.partial)
        if labels is None:
            labels = ground_truth(root, file_numbers(images), WNIDS, partial=self.partial)
        return ClassSource(images, labels)
