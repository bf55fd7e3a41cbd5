"""ImageNet-1K in miniature, in every form in which it is distributed."""

import functools
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import scipy.io

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
from pictures import encode, smooth

from spendflops.parts.sources.imagenet import WNIDS

KIT = "ILSVRC2012_devkit_t12"


@functools.cache
def picture(seed, form="JPEG", mode="RGB"):
    return encode(smooth(16, 20, seed), form, mode)


# Not sorted on purpose: neither classes nor files; one CMYK image and one PNG that is called JPEG.
TRAIN = {
    f"{WNIDS[label]}/{WNIDS[label]}_{number}.JPEG": picture(seed, form, mode)
    for seed, (label, number, form, mode) in enumerate(
        [
            (999, 30, "JPEG", "RGB"),
            (999, 4, "JPEG", "CMYK"),
            (2, 7, "PNG", "RGB"),
            (500, 1, "JPEG", "L"),
            (500, 12, "JPEG", "RGB"),
            (2, 100, "JPEG", "RGB"),
        ]
    )
}
VAL_LABELS = {3: 500, 1: 999, 5: 2, 2: 500, 4: 7}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": picture(100 + number) for number in VAL_LABELS}


def label_of(file):
    """The label of a training file or a validation file."""
    if "/" in file:
        return WNIDS.index(file.partition("/")[0])
    return VAL_LABELS[int(file[15:23])]


def write(root, files):
    for name, content in files.items():
        (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / name).write_bytes(content)


def pack(files, mode="w"):
    """The bytes of a tar; None is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def class_tars(files):
    """``<wnid>.tar`` -> its bytes, in order of first appearance."""
    inner = {}
    for name, content in files.items():
        wnid, _, own = name.partition("/")
        inner.setdefault(wnid + ".tar", {})[own] = content
    return {name: pack(members) for name, members in inner.items()}


def kit_id(label):
    """The id of a class in the development kit: another order than the labels'."""
    return (label * 7 + 3) % 1000 + 1


@functools.cache
def meta(count=1000, shift=0, last=WNIDS[-1]):
    """``meta.mat``: leaves in the order of their ids, then classes with children.

    ``count``, ``shift`` (added to the ids) and ``last`` (in the place of the last wnid) make it another year's.
    """
    names = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    rows = np.zeros((count + 3, 1), [(name, object) for name in names])
    by_id = sorted((kit_id(label) + shift, wnid) for label, wnid in enumerate((*WNIDS[:-1], last)))[:count]
    for row, (number, wnid) in enumerate(by_id):
        rows[row, 0] = (np.uint16(number), wnid, "word", "gloss", np.uint8(0), np.zeros((1, 0)), np.uint8(0), 1300.0)
    for row in range(count, count + 3):
        children = np.asarray([[1, 2]], np.uint16)
        rows[row, 0] = (np.uint16(row + 1), f"n9999{row:04d}", "w", "g", np.uint8(2), children, np.uint8(1), 0.0)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": rows})
    return buffer.getvalue()


def kit(count=5):
    """Files of the development kit, with the labels of ``count`` validation images."""
    truth = "".join(f"{kit_id(VAL_LABELS[number])}\n" for number in range(1, count + 1))
    return {f"{KIT}/data/meta.mat": meta(), f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}


def table():
    """Kaggle's table; an image with two boxes names its class twice."""
    lines = ["ImageId,PredictionString"]
    for number, label in VAL_LABELS.items():
        box = f"{WNIDS[label]} 1 2 10 11 "
        lines.append(f"ILSVRC2012_val_{number:08d},{box * (1 + number % 2)}")
    return {"LOC_val_solution.csv": ("\n".join(lines) + "\n").encode()}


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


FORMS = {
    "extracted": lambda: (
        below("train", TRAIN) | {f"val/{WNIDS[label_of(name)]}/{name}": content for name, content in VAL.items()}
    ),
    "kaggle": lambda: below("ILSVRC/Data/CLS-LOC/train", TRAIN) | below("ILSVRC/Data/CLS-LOC/val", VAL) | table(),
    "archives": lambda: {
        "ILSVRC2012_img_train.tar": pack(class_tars(TRAIN)),
        "ILSVRC2012_img_val.tar": pack(VAL),
        f"{KIT}.tar.gz": pack(kit(), "w:gz"),
    },
    "flat": lambda: below("ILSVRC2012_img_train", class_tars(TRAIN)) | below("ILSVRC2012_img_val", VAL) | kit(),
}
