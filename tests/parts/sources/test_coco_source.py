"""Samples of images beside COCO's JSON, against a slow reading of the same objects, and the stored index."""

import os
import pickle
import sys
import tempfile

import numpy as np
import PIL.Image
import pytest
from cocolib import BOXES, IMAGES, SIZES, SPOKEN, box, pictures, write

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources import coco
from spendflops.parts.sources.coco import FEATURES, CocoSource, index_folder, open_index
from spendflops.parts.sources.coco_index import Categories


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_samples_are_what_the_file_says(tmp_path):
    pytest.importorskip("pycocotools")
    both = open_index(write(tmp_path, BOXES + SPOKEN), masks=True)
    source = CocoSource(pictures(tmp_path), both, features=tuple(FEATURES))
    assert len(source) == 3 and both.overhanging == 2 and source.left_out == {} and source.missing() == ()
    ranks = {3: 0, 7: 1, 90: 2}
    for index, key in enumerate(sorted(SIZES)):
        sample, rows = source[index], [row for row in BOXES if row["image_id"] == key]
        assert tuple(sample) == tuple(FEATURES)
        assert sample["image_id"] == key and sample["image"].decode().shape[:2] == SIZES[key]
        assert sample["captions"] == tuple(row["caption"] for row in SPOKEN if row["image_id"] == key)
        edges = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        expected = {
            "boxes": np.array(edges, np.float32).reshape(-1, 4),
            "box_labels": np.array([ranks[row["category_id"]] for row in rows], np.int32),
            "area": np.array([row["area"] for row in rows], np.float32),
            "crowd": np.array([row["iscrowd"] for row in rows], bool),
            "box_ids": np.array([row["id"] for row in rows], np.int64),
            "labels": np.array(sorted({ranks[row["category_id"]] for row in rows}), np.int32),
        }
        for name, value in expected.items():
            assert sample[name].dtype == value.dtype, name
            np.testing.assert_array_equal(sample[name], value, name)
        masks = np.zeros((len(rows), *SIZES[key]), bool)
        for mask, row in zip(masks, rows, strict=True):
            if row["iscrowd"]:
                mask.T.flat[5:15] = True
            else:
                mask[3:9, 2:10] = True
        assert sample["instance_masks"].dtype == bool
        np.testing.assert_array_equal(sample["instance_masks"], masks)
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1]["instance_masks"], source[1]["instance_masks"])
    assert "a.json" in repr(source) and copy[0]["captions"] == source[0]["captions"]


def test_captions_in_a_file_of_their_own(tmp_path):
    boxes, spoken = open_index(write(tmp_path)), open_index(write(tmp_path, SPOKEN, categories=[], name="c.json"))
    source = CocoSource("", boxes, features=("captions", "box_ids"), captions=spoken)
    assert source[0]["captions"] == ("one\ntwo  three ", "") and source[2]["captions"] == ()
    alone = CocoSource("", spoken, features=("captions", "boxes", "labels"))
    assert alone[0]["boxes"].shape == (0, 4) and alone[0]["labels"].shape == (0,)
    fewer = open_index(write(tmp_path, SPOKEN[:1], images=IMAGES[1:], name="d.json"))
    refuses(lambda: CocoSource("", boxes, features=("captions",), captions=fewer), "d.json lacks 1 images", "image 42")


def test_categories_and_back(tmp_path):
    categories = open_index(write(tmp_path)).categories
    assert categories.names == ("cat", "kite", "tooth brush")
    np.testing.assert_array_equal(categories.from_id([90, 3, 7, 3]), [2, 0, 1, 0])
    np.testing.assert_array_equal(categories.to_id([2, 0, 1, 0]), [90, 3, 7, 3])
    assert categories.from_id([]).shape == categories.to_id([]).shape == (0,)
    for wrong in ([4], [91], [2]):
        refuses(lambda wrong=wrong: categories.from_id(wrong), str(wrong[0]), error=ValueError)
    for wrong in ([3], [-1]):
        refuses(lambda wrong=wrong: categories.to_id(wrong), str(wrong[0]), error=ValueError)
    # Labels that are given count, in a file that has fewer categories, too.
    given = Categories(ids=(1, *categories.ids), names=("other", *categories.names))
    source = CocoSource("", open_index(write(tmp_path)), features=("box_labels",), categories=given)
    assert source[0]["box_labels"].tolist() == [1]
    fewer = Categories(ids=(3, 90), names=("cat", "tooth brush"))
    index = open_index(write(tmp_path))
    refuses(lambda: CocoSource("", index, features=(), categories=fewer), "category 7 'kite'", "another data set")


def test_only_annotated_images(tmp_path):
    source = CocoSource("", open_index(write(tmp_path)), features=("image_id", "boxes"), annotated_only=True)
    assert [source[i]["image_id"] for i in range(len(source))] == [5, 42]
    assert all(len(source[i]["boxes"]) for i in range(len(source)))


def test_images_are_looked_for_when_they_are_read(tmp_path):
    root, index = pictures(tmp_path), open_index(write(tmp_path))
    (tmp_path / "000000000042.png").unlink()
    plain, boxed = (CocoSource(root, index, features=names) for names in (("image",), ("image", "boxes")))
    assert plain.missing() == ("000000000042.png",)
    refuses(lambda: plain[1]["image"].decode(), "000000000042.png", "No such file")
    refuses(lambda: boxed[1], "000000000042.png")
    PIL.Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "000000000042.png")
    plain[1]["image"].decode()
    refuses(lambda: boxed[1], "000000000042.png is 20 x 30", "says 30 x 20", "wrong places")


@pytest.mark.parametrize("segmentation", [[], None, [[1, 2, 3, 4]], {"counts": "0"}])
def test_segmentations_count_where_masks_are_wanted(tmp_path, segmentation):
    path = write(tmp_path, [*BOXES, box(77, 5, segmentation=segmentation)])
    assert len(open_index(path).rows) == 5
    refuses(lambda: open_index(path, masks=True), "a.json: annotation 77 has a segmentation that is none")
    index = open_index(path, masks=True, invalid="drop")
    assert index.dropped == {"a segmentation that is none": 1} and index.rows["id"].tolist() == [4, 11, 9, 10]
    assert index.boxes_of(1)["id"].tolist() == [11, 9, 10] and not len(index.boxes_of(2))


@pytest.mark.parametrize(
    ("runs", "said"),
    [({"size": [16, 24], "counts": [5, 6]}, "sum to 11"), ({"size": [24, 16], "counts": [384]}, "size [24, 16]")],
)
def test_a_mask_that_is_wrong_names_its_annotation(tmp_path, runs, said):
    pytest.importorskip("pycocotools")
    index = open_index(write(tmp_path, [*BOXES, box(77, 5, segmentation=runs)]), masks=True)
    source = CocoSource("", index, features=("instance_masks",))
    refuses(lambda: source[0], "a.json: annotation 77 has no mask", said)
    assert source[1]["instance_masks"].shape == (3, 20, 30)


def test_masks_need_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    index = open_index(write(tmp_path), masks=True)
    CocoSource("", index, features=("boxes",))
    wanted = ("instance_masks",)
    refuses(lambda: CocoSource("", index, features=wanted), "'spendflops[detection]'", error=ConfigError)


def test_annotation_id_0_cannot_be_scored(tmp_path):
    index = open_index(write(tmp_path, [*BOXES, box(0, 5)]))
    assert len(CocoSource("", index, features=("boxes",))[0]["boxes"]) == 2
    refuses(lambda: CocoSource("", index, features=("boxes", "box_ids")), "a.json", "id 0", "number the annotations")


def test_the_index_is_stored_and_used(tmp_path, monkeypatch):
    path = write(tmp_path, BOXES + SPOKEN)
    first = open_index(path)
    assert (tmp_path / "a.json.index.npz").exists()
    monkeypatch.setattr(coco, "make_index", None)
    again = open_index(path)
    for name in ("image_ids", "sizes", "rows", "starts", "caption_starts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.categories == first.categories and again.overhanging == first.overhanging == 2
    assert [again.files[i] for i in range(3)] == [first.files[i] for i in range(3)]
    assert again.captions_of(1) == first.captions_of(1)


def test_an_index_that_is_broken_or_of_another_file_is_made_again(tmp_path):
    path = write(tmp_path)
    open_index(path)
    (tmp_path / "a.json.index.npz").write_bytes(b"PK nothing")
    assert len(open_index(path).rows) == 4
    write(tmp_path, BOXES[:2])
    assert len(open_index(path).rows) == 2


def test_a_folder_without_write_permission_uses_the_cache(tmp_path, monkeypatch):
    path, real = write(tmp_path), tempfile.NamedTemporaryFile

    def refused(*, dir, **options):
        if dir == tmp_path:
            raise PermissionError
        return real(dir=dir, **options)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refused)
    open_index(path)
    assert not (tmp_path / "a.json.index.npz").exists()
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    monkeypatch.setattr(coco, "make_index", None)
    assert len(open_index(path).rows) == 4


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    path = write(tmp_path)
    source = CocoSource("", open_index(path, masks=True), features=("instance_masks",))
    source[0]
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refuses(lambda: source[0], "a.json has changed")
    (tmp_path / "a.json").unlink()
    refuses(lambda: source[0], "a.json cannot be read")
    assert source[2]["instance_masks"].shape == (0, 18, 18)


def test_a_folder_without_json(tmp_path):
    pictures(tmp_path)
    index = index_folder(str(tmp_path))
    assert index.image_ids.tolist() == [5, 42, 700]
    source = CocoSource(str(tmp_path), index, features=("image", "image_id"))
    assert source[1]["image_id"] == 42 and source[1]["image"].size == (20, 30)
    (tmp_path / "42.png").write_bytes(b"")
    refuses(lambda: index_folder(str(tmp_path)), "two images with the id 42")
    (tmp_path / "42.png").rename(tmp_path / "cat.png")
    refuses(lambda: index_folder(str(tmp_path)), "cat.png", "no id")
