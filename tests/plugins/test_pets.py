"""Oxford-IIIT Pets as distributed, in miniature: lists, odd files, trimaps."""

import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.pets import Pets

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import decode_mask

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
from pictures import encode, smooth

LISTS = {
    "trainval": ("Abyssinian_100 1 1 1", "beagle_116 5 2 4", "Egyptian_Mau_14 12 1 6", "yorkshire_terrier_9 37 2 25"),
    "test": ("Abyssinian_5 1 1 1", "saint_bernard_1 29 2 19"),
}
# Called .jpg, all of them.
FORMS = {"beagle_116": ("PNG", "RGBA"), "Egyptian_Mau_14": ("GIF", "P"), "Abyssinian_5": ("PNG", "L")}
HEAD = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n\n"


def build(root):
    root = Path(root)
    (root / "images").mkdir(parents=True)
    (root / "annotations/trimaps").mkdir(parents=True)
    for listed, lines in LISTS.items():
        (root / f"annotations/{listed}.txt").write_text(HEAD + "\n".join(lines) + "\n")
        for line in lines:
            name = line.split()[0]
            form, mode = FORMS.get(name, ("JPEG", "RGB"))
            picture = smooth(12, 15, len(name))
            (root / f"images/{name}.jpg").write_bytes(encode(picture, form, mode))
            PIL.Image.fromarray(trimap(name)).save(root / f"annotations/trimaps/{name}.png")
            (root / f"annotations/trimaps/._{name}.png").write_bytes(b"Mac OS X")
    (root / "annotations/list.txt").write_text(HEAD)
    (root / "images/Abyssinian_100.mat").write_bytes(b"MATLAB")
    (root / "images/Abyssinian_104.jpg").write_bytes(encode(smooth(12, 15)))  # in no list
    return root


def trimap(name):
    return (np.arange(180, dtype=np.uint8).reshape(12, 15) + len(name)) % 3 + 1


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(Pets, splits=("train", "test"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    build(PLACE.name)


def opened(root, split="train", features=("image", "label", "species", "mask"), **options):
    return Pets(path=str(root), **{"partial": True, **options}).source(split, features=features)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_what_is_known_without_a_disk():
    info = Pets().info
    assert info.sizes == {"train": 3_680, "test": 3_669}
    assert len(info.classes) == 37 and list(info.classes) == sorted(info.classes, key=str.lower)
    assert sum(name[0].isupper() for name in info.classes) == 12  # cats
    assert info.class_names[2] == "american pit bull terrier" and info.classes[36] == "yorkshire_terrier"
    assert info.mask_classes == ("pet", "background", "border")
    assert Pets(border="ignore").info.mask_classes == ("pet", "background")
    assert info.licence and info.citation and info.homepage
    refuses(lambda: Pets(border="ignored"), "did you mean 'ignore'", error=ConfigError)


def test_the_lists_say_what_belongs():
    train, test = (pickle.loads(pickle.dumps(opened(PLACE.name, split))) for split in ("train", "test"))
    assert [train[i]["label"] for i in range(len(train))] == [0, 4, 11, 36]
    assert [train[i]["species"] for i in range(len(train))] == [0, 1, 0, 1]
    assert [test[i]["label"] for i in range(len(test))] == [0, 28]
    names = [Path(train[i]["image"].name).name for i in range(4)]
    assert names == [line.split()[0] + ".jpg" for line in LISTS["trainval"]]
    for split in ("trainval", "val"):
        refuses(lambda split=split: opened(PLACE.name, split), f"no split '{split}'")


def test_odd_files_are_decoded_by_what_they_hold():
    for split in ("train", "test"):
        source = opened(PLACE.name, split)
        for index in range(len(source)):
            image = source[index]["image"]
            form, mode = FORMS.get(Path(image.name).stem, ("JPEG", "RGB"))
            pixels, original = image.decode().astype(int), smooth(12, 15, len(Path(image.name).stem)).astype(int)
            if mode == "L":
                assert (pixels == pixels[..., :1]).all()
            else:
                assert np.abs(pixels - original).mean() < (0.5 if form == "PNG" else 20)  # a GIF has few colours


@pytest.mark.parametrize("border", ["class", "ignore"])
def test_trimaps(border):
    values = {1: 0, 2: 1, 3: 2 if border == "class" else 255}
    source = opened(PLACE.name, features=("mask",), border=border)
    for index, line in enumerate(LISTS["trainval"]):
        expected = [[values[value] for value in row] for row in trimap(line.split()[0]).tolist()]
        np.testing.assert_array_equal(decode_mask(source[index]["mask"]), expected)


def test_trimaps_that_are_wrong(tmp_path):
    root = build(tmp_path)
    PIL.Image.fromarray(np.zeros((12, 15), np.uint8)).save(root / "annotations/trimaps/beagle_116.png")
    PIL.Image.fromarray(np.ones((15, 12), np.uint8)).save(root / "annotations/trimaps/Abyssinian_100.png")
    source = opened(root)
    refuses(source[1]["mask"].decode_mask, "beagle_116.png has the value 0", "1..3")
    refuses(source[0]["mask"].decode_mask, "Abyssinian_100.png is 12 x 15 pixels, its image 15 x 12")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Abyssinian_101 1 1", "a name, a class"),
        ("Abyssinian_101 1 one 1", "a name, a class"),
        ("Abyssinian_101 0 1 1", "class 0 is not in 1..37"),
        ("Abyssinian_101 38 1 1", "class 38 is not in 1..37"),
        ("Abyssinian_101 2 1 1", "class 2 is american_bulldog, the name says 'Abyssinian'"),
        ("Abyssinian_101 1 2 1", "species 2"),
        ("beagle_3 5 1 4", "species 1"),
        ("Abyssinian_100 1 1 1", "there twice"),
        ("../Abyssinian_1 1 1 1", "the name says"),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, said):
    root = build(tmp_path)
    with (root / "annotations/trainval.txt").open("a") as file:
        file.write(line)
    refuses(lambda: opened(root), "trainval.txt, line 8", said)


def test_files_that_are_missing(tmp_path):
    root = build(tmp_path)
    (root / "annotations/trimaps/beagle_116.png").unlink()
    refuses(lambda: opened(root), "1 of 4", "trainval.txt", "beagle_116.png")
    assert len(opened(root, features=("image", "label"))) == 4  # trimaps are not looked at
    (root / "images/Egyptian_Mau_14.jpg").unlink()
    refuses(lambda: opened(root, features=("label",)), "1 of 4", "Egyptian_Mau_14.jpg")
    (root / "annotations/test.txt").unlink()
    refuses(lambda: opened(root, "test"), "test.txt cannot be read", "annotations.tar.gz")
    (root / "annotations/test.txt").write_bytes(b"\xff\xfe#")
    refuses(lambda: opened(root, "test"), "test.txt cannot be read")
    refuses(lambda: opened(PLACE.name, partial=False), "4 samples, published are 3,680")
