"""Labels of ImageNet's validation images that lie in one flat folder: from Kaggle's table or the development kit."""

from __future__ import annotations

import csv
import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from spendflops.contracts.errors import DataError

KAGGLE_TABLE = "LOC_val_solution.csv"
KIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def ground_truth(
    root: str, numbers: Int64[np.ndarray, " images"], classes: Sequence[str], *, partial: bool
) -> Int32[np.ndarray, " images"]:
    """Labels of validation images.

    From ``LOC_val_solution.csv`` where that is, else from ``ILSVRC2012_devkit_t12/`` or
    ``ILSVRC2012_devkit_t12.tar.gz``, whose ids 1..1000 are mapped to WordNet ids by its ``meta.mat``.

    Args:
        root: The folder in which they lie.
        numbers: Of the images, 1.. in the order of file names; at least one.
        classes: The 1000 WordNet ids, sorted.
        partial: There may be labels without images.

    Returns:
        Ranks of the WordNet ids.

    Raises:
        DataError: No labels, unreadable ones, or others than there are images.
    """
    table = os.path.join(root, KAGGLE_TABLE)
    if os.path.isfile(table):
        place, labels = table, _from_table(table, classes)
    else:
        place, labels = _from_kit(root, classes)
    # Labels without images are a part; images without labels are never right.
    if (len(labels) != len(numbers) and not partial) or numbers.max() > len(labels):
        raise DataError(
            f"{place} has labels of {len(labels):,} images, there are {len(numbers):,} images",
            why=f"the last image is number {numbers.max()}",
            fix="unpack all validation images; partial=True says that a part is meant",
        )
    found = labels[numbers - 1]
    if (found < 0).any():
        number = int(numbers[np.flatnonzero(found < 0)[0]])
        raise DataError(f"{place} has no label for validation image {number}", fix="fetch it again")
    return found


def _from_table(path: str, classes: Sequence[str]) -> Int32[np.ndarray, " labels"]:
    """By file number; rows are ``ILSVRC2012_val_00000001,n01751748 111 108 441 193 `` with five words a box."""
    ranks = {wnid: label for label, wnid in enumerate(classes)}
    rows: dict[int, int] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.reader(file), start=1):
                if line == 1:
                    continue
                name, _, number = row[0].rpartition("_") if len(row) == 2 else ("", "", "")
                place = int(number) if name == "ILSVRC2012_val" and number.isdecimal() and len(number) == 8 else 0
                wnids = set(row[-1].split()[::5]) if row else set()
                if place == 0 or place in rows or len(wnids) != 1 or not wnids <= ranks.keys():
                    raise DataError(
                        f"{path}, line {line} is not a validation image and its class, or one for the second time",
                        why=f"it is {','.join(row)[:80]!r}",
                        fix="take the table as Kaggle distributes it",
                    )
                rows[place] = ranks[wnids.pop()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix="fetch it again") from error
    labels = np.full(max(rows, default=0), -1, np.int32)
    for number, label in rows.items():
        labels[number - 1] = label
    return labels


def _from_kit(root: str, classes: Sequence[str]) -> tuple[str, Int32[np.ndarray, " labels"]]:
    folder, archive = os.path.join(root, KIT), os.path.join(root, KIT + ".tar.gz")
    try:
        if os.path.isdir(folder):
            place = os.path.join(folder, TRUTH)
            with open(os.path.join(folder, META), "rb") as meta, open(place, "rb") as truth:
                content = meta.read(), truth.read()
        elif os.path.isfile(archive):
            place = f"{archive}:{TRUTH}"
            with open(archive, "rb") as packed:
                # As a whole, before any of it is looked at: only then are its bytes compared with their checksum.
                unpacked = gzip.decompress(packed.read())
            with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
                content = _member(tar, META), _member(tar, TRUTH)
        else:
            raise DataError(
                f"{root} has no labels for the validation images",
                why="they lie in one flat folder, not in a folder a class",
                fix=f"put {KIT}.tar.gz, {KIT}/ or Kaggle's {KAGGLE_TABLE} there, or sort them into class folders",
            )
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        where = folder if os.path.isdir(folder) else archive
        raise DataError(f"development kit {where} cannot be read", why=str(error), fix="fetch it again") from error
    wnid_of = _wnids(content[0], place)
    ranks = {wnid: label for label, wnid in enumerate(classes)}
    if set(wnid_of) != set(range(1, len(classes) + 1)) or set(wnid_of.values()) != set(classes):
        raise DataError(
            f"{META} of {place} does not have the classes of ILSVRC 2012",
            why=f"{len(wnid_of)} classes without children; ids 1..{len(classes)} of the known WordNet ids are expected",
            fix="take the kit of 2012, tasks 1 and 2",
        )
    labels = []
    for line, text in enumerate(content[1].decode("utf-8", "replace").split("\n"), start=1):
        if not text.strip():
            continue
        if not text.strip().isdecimal() or int(text) not in wnid_of:
            raise DataError(
                f"{place}, line {line} is not a class", why=f"it is {text[:40]!r}", fix="fetch the kit again"
            )
        labels.append(ranks[wnid_of[int(text)]])
    return place, np.asarray(labels, np.int32)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(f"{KIT}/{name}")
    if member is None:
        raise KeyError(f"{KIT}/{name} is not a file")
    return member.read()


def _wnids(content: bytes, place: str) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID of the synsets without children."""
    import scipy.io  # Here: it takes 0.3 s, which most data sets need not wait for.

    try:
        synsets = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # whatever is wrong with the file: scipy raises many kinds
        raise DataError(f"{META} of {place} cannot be read", why=str(error), fix="fetch the kit again") from error
