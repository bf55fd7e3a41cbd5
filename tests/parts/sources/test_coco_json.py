"""COCO's JSON: any way to write it, and what it can have wrong."""

import os

import pytest
from cocolib import BOXES, CATEGORIES, SPOKEN, box, image, says, write

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources import coco_json
from spendflops.parts.sources.coco import open_index


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2, "ensure_ascii": False}])
def test_any_way_to_write_json(tmp_path, options):
    named = [{"id": 3, "name": "café"}, *(row for row in CATEGORIES if row["id"] != 3)]
    places = [image(5, file_name="bücher/5.png"), image(42), image(700)]
    path = write(tmp_path, BOXES + SPOKEN, images=places, categories=named, **options)
    if options.get("indent"):
        content = (tmp_path / "a.json").read_bytes()
        (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n\t"))
    index = open_index(path)
    assert index.categories.names == ("café", "kite", "tooth brush")
    assert index.files[0] == "bücher/5.png" and index.captions_of(1)[0] == "ü 猫 \U0001f600"
    # Places are bytes, also behind letters of more than one.
    assert index.segmentations_of(1)[1] == {"size": [20, 30], "counts": [5, 10, 585]}


def test_an_annotation_without_iscrowd_marks_no_crowd(tmp_path):
    plain = {key: value for key, value in box(77, 5).items() if key != "iscrowd"}
    index = open_index(write(tmp_path, [*BOXES, plain]))
    assert index.rows["crowd"].tolist() == [False, False, False, True, False]
    assert index.rows["id"].tolist() == [4, 77, 11, 9, 10]


def test_a_box_without_area_is_left_out_and_counted(tmp_path):
    # The two of train2017, image 200365 and 550395, look like the first.
    flat = [box(918, 5, bbox=[9.65, 8.33, 1.03, 0.0], area=0.0), box(919, 5, bbox=[3, 3, 0, 9]), box(920, 5)]
    flat.append(box(921, 5, bbox=[20.000001, 3, 1e-9, 9]))  # flat in float32
    index = open_index(write(tmp_path, flat))
    assert index.dropped == {"a box without area": 3} and index.rows["id"].tolist() == [920]
    assert open_index(write(tmp_path, flat)).dropped == index.dropped  # as stored


BAD = {
    "an image_id that is not in the file": box(77, 6),
    "a category_id that is not in the file": box(77, 5, 4),
    "the id of another": box(11, 5),
    "no number": box(77, 5, bbox=[1, 1, float("nan"), 3]),
    "or an area that is no number": box(77, 5, area=float("inf")),
    "a negative width": box(77, 5, bbox=[9, 9, -3, 4]),
    "a negative width, height or area": box(77, 5, area=-1),
    "neither 0 nor 1": box(77, 5, iscrowd=2),
    "a box outside its image": box(77, 5, bbox=[24, 3, 4, 4]),
    "outside its image": box(77, 5, bbox=[3, -4, 4, 4]),
}
FIELDS = {
    "there is no 'bbox' (its id is 77)": {k: v for k, v in box(77, 5).items() if k != "bbox"},
    "there is no 'id'": {k: v for k, v in box(77, 5).items() if k != "id"},
    "'area' is 'None'": box(77, 5, area=None),
    "'category_id' is '3.0'": box(77, 5, category=3.0),
    "'image_id' is '5'": box(77, "5"),
    "not four numbers": box(77, 5, bbox=[1, 2, 3]),
    "is not four numbers, or": box(77, 5, bbox=[1, 2, 3, "4"]),
    "'bbox' is '7'": box(77, 5, bbox=7),
    "number out of range": box(2**70, 5),
    "or a number out of range": box(77, 5, area=10**400),
    "'iscrowd' is 'no'": box(77, 5, iscrowd="no"),
    "it is '12'": 12,
    "it is '[1]'": [1],
}


@pytest.mark.parametrize("said", [*BAD, *FIELDS])
def test_annotations_that_cannot_be_meant(tmp_path, said):
    row = (BAD | FIELDS)[said]
    which = "(entry 4)" if said in FIELDS else str(row["id"])
    path = write(tmp_path, [*BOXES, row])
    refuses(lambda: open_index(path), f"a.json: annotation {which} has", said, "invalid='drop'")
    index = open_index(path, invalid="drop")
    assert index.rows["id"].tolist() == [4, 11, 9, 10] and list(index.dropped.values()) == [1]
    refuses(lambda: open_index(path), said)  # what was dropped is not stored


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (says(1, 6, "x"), "annotation 1 has an image_id"),
        (says(2, 5, "x"), "annotation 2 has the id of another"),
        ({"id": 1, "caption": "x"}, "no 'image_id'"),
        (says(1, 5, None), "'caption' is 'None'"),
        (says(1, 5, "half \ud83d"), "half a character"),
        (says(1.5, 5, "x"), "'id' is '1.5'"),
    ],
)
def test_captions_that_cannot_be_meant(tmp_path, row, said):
    path = write(tmp_path, [says(2, 42, "fine"), row])
    refuses(lambda: open_index(path), "a.json", said)
    index = open_index(path, invalid="drop")
    assert len(index.captions) == 1 and list(index.dropped.values()) == [1]


def test_all_that_is_dropped_is_counted(tmp_path):
    rows = [*BAD.values(), *FIELDS.values()]
    for number, row in enumerate(rows):
        if isinstance(row, dict) and row.get("id") == 77:
            rows[number] = {**row, "id": 1000 + number}
    index = open_index(write(tmp_path, [*BOXES, *rows]), invalid="drop")
    assert sum(index.dropped.values()) == len(rows) and len(index.rows) == len(BOXES)
    assert index.dropped["a box outside its image"] == 2
    assert index.dropped["a missing or wrong field"] == len(FIELDS)
    refuses(lambda: open_index(write(tmp_path), invalid="keep"), "unknown invalid 'keep'", error=ConfigError)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([image(1), image(2), image(1)], "the image id 1 twice"),
        ([], "has no images"),
        ([image(1, file_name=None)], "'file_name' is 'None'"),
        ([image(1, file_name="../../etc/passwd")], "no path below"),
        ([image(1, file_name="/etc/passwd")], "no path below"),
        ([image(1, width=0)], "0 x 8"),
        ([image(1, height="8")], "'height' is '8'"),
        ([image(2**64)], "out of range"),
        ([image(1, width=2**31)], "out of range"),
        ([image(1, file_name="half \ud83d.png")], "out of range"),
        ([image(1, file_name="a\0.png")], "no path below"),
        ([image(1, file_name="")], "no path below"),
        ([{"id": 5}], "there is no 'file_name' (its id is 5)"),
        (["1.jpg"], "it is '1.jpg'"),
    ],
)
def test_images_that_cannot_be_meant(tmp_path, images, said):
    path = write(tmp_path, [], images=images)
    for invalid in ("fail", "drop"):
        refuses(lambda invalid=invalid: open_index(path, invalid=invalid), "a.json", said)


@pytest.mark.parametrize(
    "row", [{"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 5}, {"id": "5", "name": "x"}]
)
def test_categories_that_cannot_be_meant(tmp_path, row):
    refuses(lambda: open_index(write(tmp_path, categories=[*CATEGORIES, row])), "a.json: category (entry 3)")


def test_json_that_is_cut(tmp_path):
    path = write(tmp_path, BOXES + SPOKEN[:2])
    content = (tmp_path / "a.json").read_bytes()
    for end in [0, 1, *range(7, len(content) - 1, 13), len(content) - 1]:
        (tmp_path / "a.json").write_bytes(content[:end])
        refuses(lambda: open_index(path), "a.json is not a whole JSON file", " byte ")
    (tmp_path / "a.json").write_bytes(content[: content.index(b'"iscrowd": 1')])
    refuses(lambda: open_index(path), "entry 2 of 'annotations'")


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'"images"',
        b"{} {}",
        b'{"images": {}}',
        b'{"images": [], "images": []}',
        b'{"categories": [{"id": 1, "name": "a"},]}',
        b'{"images" 1}',
        b'{"a": 1 "b": 2}',
        b"{1: 2}",
        b'{"a": ' + b"[" * 100_000,
        b'{"images": [{"file_name": "\xff"}]}',
        b"\xff\xfe{\0}\0",
    ],
)
def test_json_that_is_none(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    refuses(lambda: open_index(tmp_path / "a.json"), "a.json is not a whole JSON file", " byte ")


def test_a_file_that_is_missing_or_a_folder(tmp_path):
    refuses(lambda: open_index(tmp_path / "no.json"), "no.json cannot be read")
    refuses(lambda: open_index(tmp_path), "cannot be read")


def test_a_file_that_changes_while_it_is_indexed(tmp_path, monkeypatch):
    path, real = write(tmp_path), coco_json.elements

    def slowly(*arguments):
        yield from real(*arguments)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(coco_json, "elements", slowly)
    refuses(lambda: open_index(path), "a.json has changed")
