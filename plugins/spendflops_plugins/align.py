"""ALIGN's image-text pairs, and the public sets that stand in for them.

Jia et al., "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision" (ICML 2021):
1.8 billion pairs of an image and its alt-text, never released. What can be had are lists of links, whose images
img2dataset fetches: tar shards ``00000.tar`` with ``KEY.jpg``, ``KEY.json`` and ``KEY.txt``, or folders ``00000`` with
such files, beside ``00000.parquet`` (a row a link, failed ones too). Links die, so that no copy is complete.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.folder import subfolders
from spendflops.parts.sources.published import PublishedDataset
from spendflops.parts.sources.shard_paths import find_shards
from spendflops.parts.sources.shard_tables import Stamp, Table, stamp_of
from spendflops.parts.sources.shards import INCOMPLETE, ShardSource, member, read_json, read_text, text_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy:
    """A set of image-text pairs.

    Attributes:
        pairs: As published; rounded where only a rounded number is.
        licence: Of the list of links; the images belong to others.
        citation, homepage: As in :class:`~spendflops.contracts.types.DatasetInfo`.
    """

    pairs: int
    licence: str
    citation: str
    homepage: str


COPIES = {
    # "1.8B image-text pairs", section 3 of Jia et al. The epochs of Koppula et al. (2022) count 1.6 billion.
    "align": Copy(
        pairs=1_800_000_000,
        licence="private to Google",
        citation="Jia et al., Scaling Up Visual and Vision-Language Representation Learning, ICML 2021",
        homepage="https://arxiv.org/abs/2102.05918",
    ),
    # Rows of its table; 656,114,783 links are different ones.
    "coyo700m": Copy(
        pairs=746_972_269,
        licence="CC-BY-4.0",
        citation="Byeon et al., COYO-700M: Image-Text Pair Dataset, 2022",
        homepage="https://github.com/kakaobrain/coyo-dataset",
    ),
    # Of August 2024, in place of LAION-5B, which was withdrawn in December 2023.
    "relaion5b": Copy(
        pairs=5_526_641_167,
        licence="CC-BY-4.0",
        citation="LAION, Releasing Re-LAION-5B, 2024; Schuhmann et al., LAION-5B, NeurIPS 2022",
        homepage="https://laion.ai/blog/relaion-5b",
    ),
    # Rows of its tables; the paper rounds to 1.4 billion.
    "datacomp1b": Copy(
        pairs=1_387_173_656,
        licence="CC-BY-4.0",
        citation="Gadre et al., DataComp: In search of the next generation of multimodal datasets, NeurIPS 2023",
        homepage="https://www.datacomp.ai",
    ),
    # Rounded, as in its name.
    "laion400m": Copy(
        pairs=400_000_000,
        licence="CC-BY-4.0; withdrawn by its authors",
        citation="Schuhmann et al., LAION-400M: Open Dataset of CLIP-Filtered 400 Million Image-Text Pairs, 2021",
        homepage="https://arxiv.org/abs/2111.02114",
    ),
    "cc12m": Copy(
        pairs=12_423_374,
        licence="free for any use, with attribution of Google LLC",
        citation="Changpinyo et al., Conceptual 12M, CVPR 2021",
        homepage="https://github.com/google-research-datasets/conceptual-12m",
    ),
    # Of the training table.
    "cc3m": Copy(
        pairs=3_318_333,
        licence="free for any use, with attribution of Google LLC",
        citation="Sharma et al., Conceptual Captions, ACL 2018",
        homepage="https://github.com/google-research-datasets/conceptual-captions",
    ),
    # Rounded.
    "sbu": Copy(
        pairs=860_000,
        licence="unknown",
        citation="Ordonez et al., Im2Text: Describing Images Using 1 Million Captioned Photographs, NeurIPS 2011",
        homepage="https://www.cs.rice.edu/~vo9/sbucaptions",
    ),
}

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    # Section 3 of Jia et al.: "larger than 200 pixels", "smaller than 3", 3 to 20 unigrams.
    "align": {"min_side": 201, "max_aspect": 3.0, "min_words": 3, "max_words": 20},
}
METADATA = ("json", "parquet")


class ALIGN(PublishedDataset):
    """Image-text pairs with the split ``train``: a copy that says what it is, or the numbers of ALIGN for a plan.

    ``info.name`` is ``coyo700m (for align)`` and the like. Without ``path``, ``info.sizes`` is what was published;
    with one it is empty, as only opening tells how many images were there to be fetched:
    ``source.found`` of ``source.published``, also in ``repr``. That number is never an error.

    Filters read what is written about a pair and never decode an image. A pair is left out for the first of
    ``min_side``, ``max_aspect``, ``min_words``, ``max_words`` and ``min_similarity`` that it fails;
    ``source.filtered`` counts them. The choice is stored beside each shard.

    Deviation: of ALIGN's filters, those that need the whole crawl are missing: no pornography, at most 1,000 alt-texts
    an image and 10 images an alt-text, no rare words, no copies of test images. Words are what white space separates.

    Args:
        path: The folder with what img2dataset wrote; ``~`` is the home directory.
        partial: Leaves ``info.sizes`` empty without a path, too.
        copy: A name in :data:`COPIES`: what the pairs are. Required with a path.
        shards: Pattern or list below ``path`` (``{00000..00331}.tar``); by default every tar, or every folder with a
            number for a name, right in it.
        caption: ``txt``, or ``json:FIELD`` for another caption in the metadata.
        filters: A name in :data:`FILTERS` that sets the options below; one that is given goes before.
        min_side: Pixels of the shorter side, at least, of the image as it was published (``original_width``,
            ``original_height``), before img2dataset resized it.
        max_aspect: The longer side is shorter than this many times the shorter one.
        min_words, max_words: Words of the caption.
        min_similarity: The least value of the field ``similarity``; a pair without a number is left out.
        similarity: Field with the similarity of image and text, as ``clip_similarity_vitb32`` in COYO-700M.
        metadata: Where filters read: ``json`` in the shards, or ``parquet`` beside them, which is faster.
        incomplete: ``fail`` when a pair without image or caption is read, or ``drop`` it, counted in
            ``source.dropped``.

    Raises:
        ConfigError: An unknown name, a path without ``copy``, bounds that contradict each other, or ``parquet``
            without pyarrow.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        partial: bool = False,
        copy: str | None = None,
        shards: str | Sequence[str] | None = None,
        caption: str = "txt",
        filters: str = "none",
        min_side: int | None = None,
        max_aspect: float | None = None,
        min_words: int | None = None,
        max_words: int | None = None,
        min_similarity: float | None = None,
        similarity: str | None = None,
        metadata: str = "json",
        incomplete: str = "fail",
    ):
        _known(copy or "align", "copy", COPIES)
        _known(filters, "filters", FILTERS)
        _known(metadata, "metadata", METADATA)
        _known(incomplete, "incomplete", INCOMPLETE)
        if path is not None and copy is None:
            raise ConfigError(
                f"align has the path {path} but is not told what is there",
                why="ALIGN itself was never released: a run has to say what it saw",
                fix=f"name it with copy: one of {list(COPIES)}",
            )
        bounds = {"min_side": min_side, "max_aspect": max_aspect, "min_words": min_words, "max_words": max_words}
        bounds["min_similarity"] = min_similarity
        given = FILTERS[filters] | {name: bound for name, bound in bounds.items() if bound is not None}
        member(caption, "caption", "txt")
        self._filter = PairFilter(**given, similarity=similarity, caption=caption, metadata=metadata) if given else None
        if similarity is not None and min_similarity is None:
            raise ConfigError("align has similarity without min_similarity", fix="give both")
        self._copy = copy or "align"
        self._shards, self._caption, self._incomplete = shards, caption, incomplete
        about = COPIES[self._copy]
        info = DatasetInfo(
            name="align" if self._copy == "align" else f"{self._copy} (for align)",
            features={"image": "uint8 H W C", "caption": "str"},
            sizes={"train": about.pairs},
            licence=about.licence,
            citation=about.citation,
            homepage=about.homepage,
        )
        # A copy is a part, always: its number of pairs is shown and never an error.
        super().__init__(info, path=path, partial=partial or path is not None)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ShardSource:
        """The pairs below ``root``.

        Raises:
            DataError: No shards, tars beside folders of files, an unreadable shard, a pair that the filter cannot
                judge, no pairs.
            ConfigError: ``metadata="parquet"`` without pyarrow.
        """
        return ShardSource(
            self._find(root),
            features=features,
            caption=self._caption,
            incomplete=self._incomplete,
            filter=self._filter,
            published=COPIES[self._copy].pairs,
            name=self.info.name,
        )

    def _find(self, root: str) -> tuple[str, ...]:
        if self._shards is not None:
            below = [self._shards] if isinstance(self._shards, str) else self._shards
            return find_shards([os.path.join(root, one) for one in below])
        folders = sorted(name for name in subfolders(root) if name.isdecimal())
        tars = any(name.endswith(".tar") and not name.startswith(".") for name in os.listdir(root))
        if folders and tars:
            raise DataError(
                f"{root} has tars beside the folder {folders[0]}",
                why="the same pairs may be in both",
                fix="name the tars with shards='*.tar', or move one of the two",
            )
        return tuple(os.path.join(root, name) for name in folders) if folders else find_shards(root)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairFilter:
    """Which pairs are kept, by size, words and similarity; the options are those of :class:`ALIGN`."""

    min_side: int | None = None
    max_aspect: float | None = None
    min_words: int | None = None
    max_words: int | None = None
    min_similarity: float | None = None
    similarity: str | None = None
    caption: str = "txt"
    metadata: str = "json"

    reasons = ("min_side", "max_aspect", "min_words", "max_words", "min_similarity")

    def __post_init__(self) -> None:
        if self.min_similarity is not None and self.similarity is None:
            raise ConfigError(
                f"align has min_similarity={self.min_similarity} without a field",
                why="sets name it differently",
                fix="name the field of the metadata with similarity='...'",
            )
        low, high = self.min_words, self.max_words
        for name, bound, least in (("min_side", self.min_side, 1), ("min_words", low, 0), ("max_words", high, 0)):
            if bound is not None and bound < least:
                raise ConfigError(f"align has {name}={bound}", fix=f"{least} is the least")
        if low is not None and high is not None and low > high:
            raise ConfigError(f"align has min_words={low} above max_words={high}", fix="exchange them")
        if self.max_aspect is not None and not self.max_aspect > 1:
            raise ConfigError(f"align has max_aspect={self.max_aspect}", why="a square has 1", fix="give more than 1")

    @property
    def key(self) -> str:
        """The rules, by their version, and all options."""
        return f"1 {self!r}"

    @property
    def fields(self) -> tuple[str, ...]:
        """What it reads of the metadata."""
        sizes = ("original_width", "original_height") if self.min_side or self.max_aspect else ()
        other = self.caption.partition(":")[2] if self.counts_words else ""
        in_table = ("caption",) if self.counts_words and not other and self.metadata == "parquet" else ()
        return (*sizes, *([other] if other else in_table), *([self.similarity] if self.similarity else ()))

    @property
    def counts_words(self) -> bool:
        """Whether it looks at the caption."""
        return self.min_words is not None or self.max_words is not None

    @property
    def needs(self) -> tuple[str, ...]:
        """Members of a sample that it reads."""
        text = ("caption",) if self.counts_words and self.caption == "txt" and self.metadata == "json" else ()
        return (*text, *(("json",) if self.fields and self.metadata == "json" else ()))

    def stamp(self, path: str) -> Stamp:
        """That of the parquet file of a shard, where it is read."""
        return stamp_of(_parquet(path)) if self.fields and self.metadata == "parquet" else ()

    def __call__(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """As :class:`~spendflops.parts.sources.shards.Filter` says."""
        known: Mapping[str, dict[str, Any]] = {}
        if self.fields and self.metadata == "parquet":
            known = _read_parquet(_parquet(table.path), self.fields)
        return np.asarray([self._reason(table, int(row), known) for row in rows], np.int8)

    def _reason(self, table: Table, row: int, known: Mapping[str, dict[str, Any]]) -> int:
        place = table.where(row)
        if self.metadata == "json":
            about = read_json(table, row) if self.fields else {}
        else:
            key = table.key(row).rpartition("/")[2]
            if self.fields and key not in known:
                raise DataError(
                    f"{_parquet(table.path)} has no row for {key!r}",
                    why=f"the pair is {place}",
                    fix="take the table that was written with the shard, or metadata='json'",
                )
            about = known.get(key, {})
        if self.min_side or self.max_aspect:
            width, height = (_number(about, name, place) for name in ("original_width", "original_height"))
            if self.min_side and min(width, height) < self.min_side:
                return 0
            if self.max_aspect and not max(width, height) < self.max_aspect * min(width, height):
                return 1
        if self.counts_words:
            words = len(self._text(table, row, about).split())
            if self.min_words is not None and words < self.min_words:
                return 2
            if self.max_words is not None and words > self.max_words:
                return 3
        if self.similarity and self.min_similarity is not None:
            value = _number(about, self.similarity, place, optional=True)
            return -1 if value >= self.min_similarity else 4  # nan is not
        return -1

    def _text(self, table: Table, row: int, about: dict[str, Any]) -> str:
        if self.caption == "txt" and self.metadata == "json":
            return read_text(table, row)
        return text_field(about, self.caption.partition(":")[2] or "caption", table, row)


def _number(about: Mapping[str, Any], name: str, place: str, *, optional: bool = False) -> float:
    if name not in about:
        raise DataError(
            f"{place} has no {name!r} in its metadata{suggest(name, list(about))}",
            why=f"it has {', '.join(list(about)[:12]) or 'none'}",
            fix="correct the name, or do not filter by it",
        )
    value = about[name]
    if optional and value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{name!r} of {place} is no number", why=f"it is {value!r}", fix="do not filter by it")
    return value


def _parquet(path: str) -> str:
    return path.removesuffix(".tar") + ".parquet"


def _read_parquet(path: str, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Key -> fields, of the rows of img2dataset's table."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "metadata='parquet' needs pyarrow",
            why=str(error),
            fix="pip install 'spendflops[parquet]', or metadata='json'",
        ) from error
    wanted = ["key", *fields]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            absent = [name for name in wanted if name not in names]
            rows = [] if absent else file.read(columns=wanted).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"table {path} cannot be read", why=str(error), fix="fetch it again, or metadata='json'"
        ) from error
    if absent:
        raise DataError(
            f"table {path} has no column {absent[0]!r}{suggest(absent[0], names)}",
            why=f"it has {', '.join(names[:12])}",
            fix="correct the name, or do not filter by it",
        )
    return {row.pop("key"): row for row in rows}


def _known(value: str, option: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        near = suggest(value, list(known))
        raise ConfigError(f"align has no {option} {value!r}{near}", fix=f"use one of {list(known)}")
