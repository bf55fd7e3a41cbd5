"""ImageNet-1K: every form gives the same samples, labels are ranks of wnids, and what it refuses."""

import dataclasses
import gzip
import hashlib
import os
import pickle
import tempfile
from pathlib import Path

import imagenetlib
import numpy as np
import pytest
from imagenetlib import FORMS, KIT, TRAIN, VAL, label_of, meta, pack, write
from spendflops_plugins import imagenet1k
from spendflops_plugins.imagenet1k import ImageNet1K

import spendflops.testing
from spendflops.contracts.errors import DataError
from spendflops.parts.sources.imagenet import WNIDS, WORDS, truth

PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ImageNet1K, splits=("train", "val"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, FORMS["archives"]())


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, split, features=("image", "label"), **options):
    return ImageNet1K(path=str(root), **{"partial": True, **options}).source(split, features=features)


def test_the_class_list_is_the_one_of_2012():
    text = "".join(wnid + "\n" for wnid in WNIDS)
    # Of the sorted ids, one a line, as every published copy of the list has them.
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
    )
    info = ImageNet1K().info
    assert info.classes == WNIDS == tuple(sorted(WNIDS)) and info.classes[0] == "n01440764"
    assert info.class_names[0] == "tench" and info.class_names[999] == "toilet tissue"
    assert len(WORDS) == 1000 and all(WORDS) and info.class_names == WORDS
    assert info.sizes == {"train": 1_281_167, "val": 50_000}
    assert info.licence and info.citation and info.homepage


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(tmp_path, form):
    write(tmp_path, FORMS[form]())
    # In the order of classes, then of names: "_100" before "_7".
    for split, files in (("train", TRAIN), ("val", VAL)):
        order = sorted(files)
        source = pickle.loads(pickle.dumps(opened(tmp_path, split)))
        samples = [source[i] for i in range(len(source))]
        assert [s["label"] for s in samples] == [label_of(file) for file in order]
        assert [s["image"].read() for s in samples] == [files[file] for file in order]
        assert all(s["image"].decode().shape == (16, 20, 3) for s in samples)
        assert all(file.rpartition("/")[2] in s["image"].name for file, s in zip(order, samples, strict=True))
        for index in (-1, len(files)):
            with pytest.raises(IndexError):
                source[index]
        assert "ClassSource(" in repr(source) and str(tmp_path) in repr(source)
    if form == "archives":
        assert "(offset " in samples[0]["image"].name


def test_labels_come_from_either_kit_or_table(tmp_path):
    write(tmp_path, {f"val/{name}": content for name, content in VAL.items()})
    refuses(lambda: opened(tmp_path, "val"), "no labels for the validation images", KIT)
    expected = [label_of(name) for name in sorted(VAL)]
    for number, files in enumerate([imagenetlib.kit(), {f"{KIT}.tar.gz": pack(imagenetlib.kit(), "w:gz")}]):
        root = tmp_path / str(number)
        write(root, files | {f"val/{name}": content for name, content in VAL.items()})
        assert opened(root, "val").labels.tolist() == expected
        # Never the ids of the kit.
        ids = (root / KIT / "data/ILSVRC2012_validation_ground_truth.txt") if not number else None
        assert ids is None or ids.read_text().split() != [str(label + 1) for label in expected]


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, FORMS["extracted"]())
    sizes = {"train": len(TRAIN), "val": len(VAL)}
    monkeypatch.setattr(imagenet1k, "INFO", dataclasses.replace(imagenet1k.INFO, sizes=sizes))
    for split, files in (("train", TRAIN), ("val", VAL)):
        classes = sorted({WNIDS[label_of(file)] for file in files})
        monkeypatch.setattr(imagenet1k, "WNIDS", tuple(classes))
        assert len(opened(tmp_path, split, partial=False)) == sizes[split]
        write(tmp_path, {f"{split}/{classes[0]}/ILSVRC2012_val_00000009.JPEG": b"x"})
        refuses(
            lambda split=split: opened(tmp_path, split, partial=False), f"published are {sizes[split]}", "partial=True"
        )


@pytest.mark.parametrize("form", ["extracted", "archives", "flat"])
def test_a_part_is_refused_unless_it_is_meant(tmp_path, form):
    write(tmp_path, FORMS[form]())
    refuses(lambda: opened(tmp_path, "train", partial=False), "997 class(es) missing", "n01440764", "partial=True")


def test_images_and_ground_truth_must_match(tmp_path):
    write(tmp_path, FORMS["flat"]())
    (tmp_path / "ILSVRC2012_img_val/ILSVRC2012_val_00000004.JPEG").unlink()
    # A part has labels without images, and each keeps its own.
    assert opened(tmp_path, "val").labels.tolist() == [999, 500, 500, 2]
    refuses(lambda: opened(tmp_path, "val", partial=False), "labels of 5 images, there are 4", "ground_truth.txt")
    write(tmp_path, {"ILSVRC2012_img_val/ILSVRC2012_val_00000006.JPEG": b"x"})
    refuses(lambda: opened(tmp_path, "val"), "labels of 5 images", "number 6")


def test_a_table_without_an_image(tmp_path):
    write(tmp_path, FORMS["kaggle"]())
    table = tmp_path / "LOC_val_solution.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "00000002" not in line))
    refuses(lambda: opened(tmp_path, "val"), "no label for validation image 2", str(table))


@pytest.mark.parametrize(
    "line",
    [
        "ILSVRC2012_val_00000009,n00000000 1 2 3 4 ",
        "ILSVRC2012_val_00000009,n01440764 1 2 3 4 n01443537 1 2 3 4 ",
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4 ",
        "ILSVRC2012_val_00000000,n01440764 1 2 3 4 ",
        "ILSVRC2012_val_999999999,n01440764 1 2 3 4 ",
        "ILSVRC2012_test_00000009,n01440764 1 2 3 4 ",
        "ILSVRC2012_val_00000009",
        "ILSVRC2012_val_00000009,",
    ],
)
def test_lines_of_the_table_that_cannot_be(tmp_path, line):
    write(tmp_path, FORMS["kaggle"]())
    with open(tmp_path / "LOC_val_solution.csv", "a") as file:
        file.write(line + "\n")
    refuses(lambda: opened(tmp_path, "val"), "LOC_val_solution.csv, line 7", line[:20])


def test_a_table_that_cannot_be_read(tmp_path, monkeypatch):
    for content in (b"ImageId\n\xff\xfe\x00", b"ImageId\n" + b"x" * 200_000):
        write(tmp_path, FORMS["kaggle"]() | {"LOC_val_solution.csv": content})
        refuses(lambda: opened(tmp_path, "val"), "LOC_val_solution.csv cannot be read")

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(truth, "open", refused, raising=False)
    refuses(lambda: opened(tmp_path, "val"), "LOC_val_solution.csv cannot be read", "Permission denied")


@pytest.mark.parametrize(("text", "said"), [("1001", "line 3"), ("0", "line 3"), ("-4", "line 3"), ("dog", "'dog'")])
def test_ids_that_are_no_class(tmp_path, text, said):
    write(
        tmp_path, FORMS["flat"]() | {f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": f"1\n2\n{text}\n".encode()}
    )
    refuses(lambda: opened(tmp_path, "val"), said, "ground_truth.txt", "not a class")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MATLAB 5.0 nothing", "meta.mat"),
        (meta(900), "does not have the classes of ILSVRC 2012"),
        (meta(shift=1), "does not have the classes of ILSVRC 2012"),
        (meta(last="n99999999"), "does not have the classes of ILSVRC 2012"),
    ],
)
def test_kits_of_another_year(tmp_path, content, said):
    kit = imagenetlib.kit() | {f"{KIT}/data/meta.mat": content}
    write(tmp_path, FORMS["archives"]() | {f"{KIT}.tar.gz": pack(kit, "w:gz")})
    refuses(lambda: opened(tmp_path, "val"), said)


def test_kits_that_are_damaged(tmp_path):
    files = FORMS["archives"]()
    whole = files[f"{KIT}.tar.gz"]
    damaged = [b"", b"oops", whole[:200], whole[:-1000], pack({"a": b"b"}, "w:gz"), gzip.compress(b"no tar")]
    # Zeros anywhere: much of it can still be unpacked, but the checksum tells.
    damaged += [whole[:at] + bytes(40) + whole[at + 40 :] for at in range(50, len(whole) - 60, 300)]
    # A folder in the place of the file.
    damaged.append(pack({f"{KIT}/data/meta.mat/x": b"x"} | {f"{KIT}/data/meta.mat": None}, "w:gz"))
    write(tmp_path, files)
    for content in damaged:
        write(tmp_path, {f"{KIT}.tar.gz": content})
        refuses(lambda: opened(tmp_path, "val"), f"development kit {tmp_path / KIT}.tar.gz cannot be read")
    folder = tmp_path / "folder"
    write(folder, FORMS["flat"]())
    (folder / KIT / "data/meta.mat").unlink()
    refuses(lambda: opened(folder, "val"), "development kit", "meta.mat")


def test_names_of_flat_validation_images(tmp_path):
    write(tmp_path, FORMS["flat"]() | {"ILSVRC2012_img_val/cat.JPEG": b"x"})
    refuses(lambda: opened(tmp_path, "val"), "cat.JPEG is not named", "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "ILSVRC2012_img_val/cat.JPEG").rename(tmp_path / "ILSVRC2012_img_val/ILSVRC2012_val_00000000.JPEG")
    refuses(lambda: opened(tmp_path, "val"), "is not named")
    write(tmp_path / "b", FORMS["flat"]() | {"ILSVRC2012_img_val/again/ILSVRC2012_val_00000003.JPEG": b"x"})
    refuses(lambda: opened(tmp_path / "b", "val"), "image 3 of ImageNet is there twice")


def test_wrong_layouts(tmp_path):
    write(tmp_path / "a", {"pictures/cat.jpg": b"x", "README": b"x"})
    refuses(
        lambda: opened(tmp_path / "a", "train"), "no training images", "README, pictures", "ILSVRC2012_img_train.tar"
    )
    refuses(lambda: opened(tmp_path / "a", "val"), "no validation images", "ILSVRC2012_img_val.tar")
    write(tmp_path / "b", {"train/cat/1.JPEG": b"x"})
    refuses(lambda: opened(tmp_path / "b", "train"), "unknown", "'cat'")
    write(tmp_path / "c", FORMS["extracted"]() | {"train/1.JPEG": b"x"})
    refuses(lambda: opened(tmp_path / "c", "train"), "beside its class folders")
    write(tmp_path / "d", {"ILSVRC2012_img_train.tar": pack(VAL)})
    refuses(lambda: opened(tmp_path / "d", "train"), "beside the tars of the classes")
    write(tmp_path / "e", {"ILSVRC2012_img_val.tar": pack({"README": b"r"})})
    refuses(lambda: opened(tmp_path / "e", "val"), "ILSVRC2012_img_val.tar has no images")
    refuses(lambda: ImageNet1K().source("train"), "no path")
    refuses(lambda: opened(tmp_path / "d", "test"), "no split 'test'")


@pytest.mark.skipif("SPENDFLOPS_TEST_DATA" not in os.environ, reason="SPENDFLOPS_TEST_DATA is not set")
def test_real_images(tmp_path):
    sample = Path(os.environ["SPENDFLOPS_TEST_DATA"]) / "imagenet_sample"
    if not sample.is_dir():
        pytest.skip(f"{sample} is not there")
    files = sorted(sample.glob("*.JPEG"))
    write(tmp_path, {f"train/{file.name[:9]}/{file.name}": file.read_bytes() for file in files})
    source = opened(tmp_path, "train")
    assert len(source) == len(files)
    for file, sample in zip(files, (source[i] for i in range(len(source))), strict=True):
        assert WNIDS[sample["label"]] == file.name[:9]
        # The files are named by the class's word.
        assert WORDS[sample["label"]].lower() == file.stem[10:].replace("_", " ").lower()
        assert sample["image"].decode().dtype == np.uint8
