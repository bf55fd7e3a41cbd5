"""Tar shards for tests, as webdataset and img2dataset write them."""

import io
import json
import os
import tarfile

import numpy as np
import pytest

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.shard_paths import find_shards
from spendflops.parts.sources.shards import ShardSource


def pack(path, members):
    """A shard in PAX format, where the fraction of a second makes a block of its own before each member."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1690000000.7654321
            archive.addfile(info, io.BytesIO(content))
    return path


def pair(key, *, text=None, meta=None, image=None, label=None):
    """The members of a sample in img2dataset's order, that of the extensions."""
    text = f"caption of {key}" if text is None else text
    meta = {"caption": text, "key": key} if meta is None else meta
    return [
        *([(f"{key}.cls", str(label).encode())] if label is not None else []),
        (f"{key}.jpg", key.encode() if image is None else image),
        (f"{key}.json", json.dumps(meta, indent=4).encode()),
        (f"{key}.txt", text.encode()),
    ]


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def fill(root):
    """Three shards of three samples, and what img2dataset writes beside them."""
    for shard in range(3):
        order = [f"{shard:05d}{i:04d}" for i in (3, 0, 2)]  # in the order in which downloads ended
        pack(root / f"{shard:05d}.tar", [m for key in order for m in pair(key, label=int(key[-1]))])
        (root / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (root / f"{shard:05d}_stats.json").write_text("{}")
    return root


def source(path, *features, **options):
    return ShardSource(find_shards(path), features=features or ("image",), **options)


def keys(data):
    return [table.key(row) for table, row in map(data.locate, range(len(data)))]


def without(members, *ends):
    return [(name, content) for name, content in members if not name.endswith(ends)]


class Short:
    """Keeps captions of at most ``most`` letters."""

    reasons, needs = ("empty", "long"), ("caption",)

    def __init__(self, most):
        self.most, self.key, self.calls, self.beside = most, f"short {most}", [], (0,)

    def stamp(self, path):
        return self.beside

    def __call__(self, table, rows):
        self.calls.append(os.path.basename(table.path))
        sizes = [len(table.read(row, 1)) for row in rows]
        return np.array([0 if not n else 1 if n > self.most else -1 for n in sizes], np.int8)
