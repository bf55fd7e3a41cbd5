"""Image-text pairs as img2dataset writes them: what they are called, how many were found, and the filters."""

import json
import pickle
import sys
import tempfile
from pathlib import Path

import pytest
from spendflops_plugins.align import ALIGN, COPIES, FILTERS, PairFilter

import spendflops.testing
from spendflops.contracts.errors import ConfigError
from spendflops.engine.describe import describe
from spendflops.parts.sources import shard_tables
from tests.parts.pictures import encode, smooth
from tests.parts.shardlib import pack, pair, refuses

PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ALIGN, path=f"{PLACE.name}/tars", copy="cc3m", filters="align")

TEXTS = ("a dog", "a dog on the grass", "一只猫在窗台上", "", " ".join("word" for _ in range(21)), "three short words")
SIZES = ((640, 480), (200, 900), (201, 602), (201, 603), (5000, 201), (256, 256))
SCORES = (0.31, 0.2999, None, 0.3, float("nan"), 0.9)


def row(shard, number):
    """What img2dataset writes about a pair: in the JSON and, failed or not, in the table beside the shard."""
    key = f"{shard:05d}{number:04d}"
    k = shard * 7 + number
    return {
        "clip_similarity_vitb32": SCORES[(k // 2) % 6],
        "caption": TEXTS[k % 6],
        "url": f"http://host.example/{key}",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 256,
        "height": 256,
        "original_width": SIZES[(k // 3) % 6][0],
        "original_height": SIZES[(k // 3) % 6][1],
        "exif": json.dumps({"Image Orientation": "1"}),
        "sha256": "0" * 64,
    }


ROWS = [[row(shard, number) for number in (5, 0, 3, 12, 9, 1, 22, 14)] for shard in range(3)]


def members(rows):
    return [m for r in rows for m in pair(r["key"], text=r["caption"], meta=r, image=picture(r["key"]))]


def picture(key):
    return encode(smooth(16, 16, int(key) % 97))


def tables(root, every=ROWS):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for shard, rows in enumerate(every):
        failed = [
            {**r, "key": f"{shard:05d}9999", "status": "failed_to_download", "original_width": None} for r in rows[:1]
        ]
        parquet.write_table(pyarrow.Table.from_pylist(failed + rows[::-1]), root / f"{shard:05d}.parquet")


def fill(root):
    """The same pairs in tars, and in folders of files."""
    for shard, rows in enumerate(ROWS):
        pack(root / f"tars/{shard:05d}.tar", members(rows))
        (root / f"files/{shard:05d}").mkdir(parents=True)
        for name, content in members(rows):
            (root / f"files/{shard:05d}/{name}").write_bytes(content)
        for form in ("tars", "files"):
            (root / form / f"{shard:05d}_stats.json").write_text('{"count": 10000, "successes": 8}')
    return root


@pytest.fixture(scope="module", autouse=True)
def fixture():
    fill(Path(PLACE.name))


@pytest.fixture
def tars(tmp_path):
    return fill(tmp_path) / "tars"


def opened(path, *features, **options):
    return ALIGN(path=str(path), **{"copy": "coyo700m", **options}).source("train", features=features or ("caption",))


def test_a_plan_needs_no_disk_and_nothing_is_called_align_that_is_not():
    data = ALIGN()
    assert data.info.name == "align" and data.info.sizes == {"train": 1_800_000_000} and "private" in data.info.licence
    for copy, about in COPIES.items():
        info = ALIGN(copy=copy).info
        assert info.sizes == {"train": about.pairs} and info.licence and info.citation and info.homepage
        assert info.name == ("align" if copy == "align" else f"{copy} (for align)")
    assert ALIGN(copy="cc3m", partial=True).info.sizes == {}
    describe(data)
    refuses(lambda: data.source("train"), "align has no path")
    refuses(lambda: ALIGN(path="/x"), "not told what is there", "coyo700m", error=ConfigError)
    refuses(lambda: ALIGN(copy="coyo"), "did you mean 'coyo700m'", error=ConfigError)


def test_a_copy_is_never_complete_and_says_so(tars):
    data = ALIGN(path=str(tars), copy="coyo700m")
    assert data.info.sizes == {} and data.info.name == "coyo700m (for align)"
    source = data.source("train", features=("image", "caption"))
    assert (source.found, source.published, len(source)) == (24, 746_972_269, 24)
    assert "'coyo700m (for align)', 24 samples: 24 of 746,972,269 samples found in 3 shards" in repr(source)
    assert opened(tars, copy="align").published == 1_800_000_000
    for split in ("validation", "all"):
        refuses(lambda s=split: data.source(s), "no split", "train")
    refuses(lambda: data.source("train", features=("label",)), "no feature 'label'", error=ConfigError)
    refuses(lambda: opened(tars / "nothing"), "nothing is not there")


def test_tars_and_files_hold_the_same_pairs(tars):
    both = [opened(tars.parent / form, "image", "caption") for form in ("tars", "files")]
    written = [r for rows in ROWS for r in rows]
    assert [both[0][i]["caption"] for i in range(24)] == [r["caption"] for r in written]
    assert both[0][5]["image"].read() == picture(ROWS[0][5]["key"])
    assert both[0][5]["image"].name.startswith(f"{tars}/00000.tar:000000001 (image at offset")
    # Tars keep the order of the downloads; files have none but that of their names.
    order = sorted(range(24), key=lambda i: written[i]["key"])
    for place, i in enumerate(order):
        one, other = both[0][i], both[1][place]
        assert one["caption"] == other["caption"] and one["image"].digest() == other["image"].digest()
    assert both[1][0]["image"].name == f"{tars.parent}/files/00000/000000000.jpg"


def test_captions_from_the_metadata(tars):
    source = opened(tars, caption="json:url")
    assert source[0]["caption"] == "http://host.example/000000005"
    refuses(lambda: opened(tars, caption="json:text")[0], "no field 'text'", "00000.tar:000000005 (json at offset")
    refuses(lambda: opened(tars, caption="text"), "unknown caption", error=ConfigError)


def test_shards_by_pattern(tars):
    assert len(opened(tars, shards="{00000..00001}.tar")) == 16 and len(opened(tars, shards=["00002.tar"])) == 8
    refuses(lambda: opened(tars, shards="{00000..00331}.tar"), "329 of 332 shards are missing", "00003.tar")
    (tars / "00000").mkdir()
    refuses(lambda: opened(tars), "tars beside the folder 00000", "shards=")
    refuses(lambda: opened(tars.parent), "no tar shards")


def slow_filter(about, *, text, min_side=0, max_aspect=1e9, min_words=0, max_words=10**9, min_similarity=None):
    """The reason for which a pair is left out, from the rules as the documentation states them; None if it is kept."""
    short, long = sorted([about["original_width"], about["original_height"]])
    words = len([w for w in text.split(" ") if w])
    score = about["clip_similarity_vitb32"]
    checks = {
        "min_side": short >= min_side,
        "max_aspect": long / short < max_aspect,
        "min_words": words >= min_words,
        "max_words": words <= max_words,
        "min_similarity": min_similarity is None or (score is not None and score >= min_similarity),
    }
    return next((name for name, good in checks.items() if not good), None)


CHOICES = [
    {"min_side": 201},
    {"min_side": 202, "max_aspect": 2},
    {"max_aspect": 3.0},
    {"min_words": 3},
    {"max_words": 4},
    {"min_words": 1, "max_words": 20},
    {"min_similarity": 0.3},
    {"min_side": 201, "max_aspect": 3.0, "min_words": 3, "max_words": 20, "min_similarity": 0.25},
]


@pytest.mark.parametrize("form", ["tars", "files"])
@pytest.mark.parametrize("metadata", ["json", "parquet"])
@pytest.mark.parametrize("choice", CHOICES)
def test_filters_agree_with_a_slow_one(tars, form, metadata, choice):
    root = tars.parent / form
    if metadata == "parquet":
        tables(root)
    similarity = "clip_similarity_vitb32" if "min_similarity" in choice else None
    source = opened(root, **choice, similarity=similarity, metadata=metadata)
    written = [r for rows in ROWS for r in (rows if form == "tars" else sorted(rows, key=lambda r: r["key"]))]
    reasons = [slow_filter(r, text=r["caption"], **choice) for r in written]
    assert [source[i]["caption"] for i in range(len(source))] == [
        r["caption"] for r, reason in zip(written, reasons, strict=True) if reason is None
    ]
    assert source.filtered == {name: reasons.count(name) for name in PairFilter.reasons}
    assert len(source) + sum(source.filtered.values()) == source.found == 24
    assert sum(source.filtered.values()) and len(source), "a choice that does nothing tests nothing"


def test_the_preset_is_the_paper_s(tars):
    preset = FILTERS["align"]
    assert preset == {"min_side": 201, "max_aspect": 3.0, "min_words": 3, "max_words": 20}
    source, written = opened(tars, filters="align"), opened(tars, **preset)
    assert source.filtered == written.filtered and len(source) == len(written) < 24
    assert f"{source.filtered['min_words']} left out by min_words" in repr(source)
    # An option that is given goes before the preset's.
    assert opened(tars, filters="align", min_words=0).filtered["min_words"] == 0
    assert opened(tars, filters="none").filtered == {}


def test_words_of_the_caption_that_is_read(tars):
    assert opened(tars, caption="json:url", max_words=1).filtered["max_words"] == 0
    refuses(lambda: opened(tars, caption="json:url", min_words=2), "no samples", "24 left out by min_words")


def test_a_choice_is_stored_and_made_again_when_its_table_changes(tars, monkeypatch):
    tables(tars)
    first = opened(tars, min_words=3, metadata="parquet")
    assert len(list(tars.glob("*.kept.npz"))) == 3
    made = []
    real = PairFilter.__call__
    monkeypatch.setattr(PairFilter, "__call__", lambda self, table, rows: made.append(1) or real(self, table, rows))
    assert len(pickle.loads(pickle.dumps(opened(tars, min_words=3, metadata="parquet")))) == len(first) and not made
    assert len(opened(tars, min_words=4, metadata="parquet")) < len(first) and len(made) == 3
    made.clear()
    longer = ROWS[0][1] | {"caption": "now it has many words"}
    tables(tars, [[ROWS[0][0], longer, *ROWS[0][2:]], *ROWS[1:]])
    again = opened(tars, min_words=3, metadata="parquet")
    assert len(made) == 3 and len(again) == len(first) + 1


def test_filters_decode_no_image(tars):
    broken = [(name, b"no image" if name.endswith("jpg") else content) for name, content in members(ROWS[0])]
    pack(tars / "00000.tar", broken)
    assert opened(tars, filters="align").found == 24


def test_incomplete_pairs(tars):
    lacking = [m for m in members(ROWS[0]) if m[0] not in ("000000000.txt", "000000003.json", "000000012.jpg")]
    pack(tars / "00000.tar", lacking)
    source = opened(tars)
    assert len(source) == 24
    refuses(lambda: source[1], "00000.tar:000000000 (offset", "no caption")
    assert opened(tars, incomplete="drop").dropped == 2
    refuses(lambda: opened(tars, max_aspect=9), "1 sample(s) of", "needs json", "00000.tar:000000003", "'drop'")
    kept = opened(tars, max_aspect=9, incomplete="drop")
    assert (kept.found, kept.dropped) == (24, 3)
    assert len(kept) == 24 - 3 - sum(kept.filtered.values())


@pytest.mark.parametrize(
    ("about", "options", "said"),
    [
        ({"original_width": None}, {"min_side": 1}, "'original_width' of"),
        ({"original_height": "480"}, {"max_aspect": 2}, "is '480'"),
        ({"clip_similarity_vitb32": True}, {"min_similarity": 0, "similarity": "clip_similarity_vitb32"}, "is True"),
        ({}, {"min_similarity": 0, "similarity": "clip_similarity_vitb23"}, "did you mean 'clip_similarity_vitb32'"),
    ],
)
def test_a_pair_that_cannot_be_judged_is_an_error(tars, about, options, said):
    pack(tars / "00001.tar", members([ROWS[1][0], ROWS[1][1] | about]))
    refuses(lambda: opened(tars, **options), said, "00000.tar:000000005" if not about else "00001.tar:000010000")


def test_metadata_without_sizes(tars):
    pack(tars / "00000.tar", pair("x", meta={"width": 9, "height": 9}))
    refuses(lambda: opened(tars, min_side=1), "00000.tar:x (offset", "no 'original_width'", "width, height")


def test_tables_that_do_not_fit(tars, monkeypatch):
    refuses(lambda: opened(tars, min_side=1, metadata="parquet"), "00000.parquet cannot be read", "No such file")
    tables(tars)
    wrong = {"min_similarity": 0, "similarity": "similarity", "metadata": "parquet"}
    refuses(lambda: opened(tars, **wrong), "00000.parquet has no column 'similarity'", "clip_similarity_vitb32")
    pack(tars / "00002.tar", members([ROWS[2][0], ROWS[0][0]]))
    refuses(lambda: opened(tars, min_side=1, metadata="parquet"), "00002.parquet has no row for '000000005'")
    (tars / "00001.parquet").write_bytes(b"PAR1 not")
    refuses(lambda: opened(tars, min_side=1, metadata="parquet"), "00001.parquet cannot be read")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = {"max_aspect": 2, "metadata": "parquet"}
    refuses(lambda: opened(tars, **missing), "pip install 'spendflops[parquet]'", error=ConfigError)
    assert len(opened(tars, max_words=99)), "the tables are not looked at, nor is pyarrow"


def test_a_table_that_changes_during_a_run(tars):
    tables(tars)
    source = opened(tars, min_words=3, metadata="parquet")
    tables(tars)
    for stored in tars.glob("*.kept.npz"):
        stored.unlink()
    shard_tables.MEMORY._kept.clear()
    refuses(lambda: source[0], "00000.tar has changed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filters": "curated"}, "no filters 'curated'"),
        ({"metadata": "jsonl"}, "did you mean 'json'"),
        ({"incomplete": "dorp"}, "did you mean 'drop'"),
        ({"min_similarity": 0.3}, "without a field"),
        ({"similarity": "s"}, "without min_similarity"),
        ({"min_side": 0}, "min_side=0"),
        ({"min_words": -1}, "min_words=-1"),
        ({"min_words": 4, "max_words": 3}, "min_words=4 above max_words=3"),
        ({"filters": "align", "min_words": 21}, "min_words=21 above max_words=20"),
        ({"max_aspect": 1.0}, "max_aspect=1.0"),
    ],
)
def test_wrong_options(options, said):
    refuses(lambda: ALIGN(copy="cc12m", **options), said, error=ConfigError)
