"""ImageNet-21K: releases are told apart, labels are ranks of wnids, the superset of ImageNet-1K."""

import hashlib
import pickle
import tempfile

import numpy as np
import pytest
from imagenetlib import TRAIN, class_tars, pack, picture, write
from spendflops_plugins import imagenet21k
from spendflops_plugins.imagenet21k import ImageNet21K, releases

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources.imagenet import WNIDS

# Six classes are all of ImageNet-21K here, in all tests but that of the committed list and the kit's.
ALL = ("n00000001", "n00000002", "n00000003", "n00000004", "n01443537", "n01484850")
WINTER = ("n00000001", "n00000003", "n00000004", "n01443537")
FALL_P = ("n00000001", "n00000002", "n01443537")
WINTER_P = ("n00000001", "n01443537")

PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ImageNet21K, splits=("train",), path=PLACE.name, partial=True)
FILES = {  # unsorted on purpose
    f"{wnid}/{wnid}_{number}.JPEG": picture(200 + seed)
    for seed, (wnid, number) in enumerate((w, n) for n in (9, 10, 3) for w in reversed(ALL))
}


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, {"fall11_whole.tar": pack(class_tars(TRAIN))})


def digest(classes):
    return hashlib.sha256("".join(c + "\n" for c in sorted(classes)).encode()).hexdigest()


@pytest.fixture
def small(monkeypatch):
    """The table of the releases, in miniature."""

    def release(title, classes, hashed=True, **sizes):
        return releases.Release(
            title=title, classes=len(classes), sha256=digest(classes) if hashed else "", sizes=sizes
        )

    table = {
        "fall11": release("Fall 2011", ALL, train=18),
        "winter21": release("Winter 2021", WINTER, False, train=12),
        "fall11_p": release("Fall P", FALL_P, train=6, val=3),
        "winter21_p": release("Winter P", WINTER_P, train=4, val=2),
    }
    monkeypatch.setattr(releases, "FALL11", ALL)
    monkeypatch.setattr(releases, "RELEASES", table)


def of(classes, files=FILES, folder=""):
    return {folder + name: content for name, content in files.items() if name.partition("/")[0] in classes}


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, split="train", **options):
    return ImageNet21K(path=str(root), **options).source(split, features=("image", "label"))


def samples(source):
    return [(source[i]["image"].read(), source[i]["label"]) for i in range(len(source))]


def test_the_committed_list_is_that_of_fall_2011():
    assert len(releases.FALL11) == 21_841 and list(releases.FALL11) == sorted(set(releases.FALL11))
    assert digest(releases.FALL11) == releases.RELEASES["fall11"].sha256
    assert releases.identify(releases.FALL11) == "fall11"
    assert set(WNIDS) - set(releases.FALL11) == {"n04399382"}
    info = ImageNet21K().info
    assert info.classes == releases.FALL11 and info.sizes == {"train": 14_197_122}
    assert info.licence and info.citation and info.homepage


def test_the_superset_has_the_class_that_is_missing():
    info = ImageNet21K(superset=True).info
    assert len(info.classes) == 21_842 and list(info.classes) == sorted(info.classes)
    assert "n04399382" in info.classes and info.sizes == {"train": 15_478_289}
    assert ImageNet21K(superset=True, union=True).info.sizes == {}


def test_a_plan_without_a_disk():
    for release, classes, sizes in [
        ("winter21", 19_167, {"train": 13_153_500}),
        ("fall11_p", 11_221, {"train": 11_797_632, "val": 561_052}),
        ("winter21_p", 10_450, {"train": 11_060_223, "val": 522_500}),
    ]:
        info = ImageNet21K(release=release).info
        assert len(info.classes) == len(set(info.classes)) == classes and info.sizes == sizes
        assert info.classes[:2] == ("class 0", "class 1")
        assert ImageNet21K(release=release, path="/nowhere/at/all").info.classes == info.classes
        refuses(lambda release=release: ImageNet21K(release=release).source("train"), "no path")
    refuses(lambda: ImageNet21K(release="winter21").source("val"), "no split 'val'")


FORMS = {
    "folders": lambda classes, name: of(classes),
    "in a folder": lambda classes, name: of(classes, folder=name + "/"),
    "tars": lambda classes, name: class_tars(of(classes)),
    "archive": lambda classes, name: {name + ".tar": pack(class_tars(of(classes)))},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("release", "classes"), [("fall11", ALL), ("winter21", WINTER)])
def test_forms_and_releases(tmp_path, small, form, release, classes):
    write(tmp_path, FORMS[form](classes, f"{release}_whole"))
    data = ImageNet21K(path=str(tmp_path), release=release)
    assert data.info.classes == classes
    source = pickle.loads(pickle.dumps(data.source("train", features=("image", "label"))))
    order = sorted(of(classes))
    assert samples(source) == [(FILES[name], classes.index(name.partition("/")[0])) for name in order]
    other = {"fall11": "winter21", "winter21": "fall11"}[release]
    titles = {"fall11": "Fall 2011", "winter21": "Winter 2021"}
    said = f"holds {titles[release]}, not {titles[other]}", f"release={release!r}"
    refuses(lambda: opened(tmp_path, release=other), *said)
    # A part is no excuse for the whole of another release.
    refuses(lambda: opened(tmp_path, release=other, partial=True), *said)


def test_processed_releases(tmp_path, small):
    for release, classes in (("fall11_p", FALL_P), ("winter21_p", WINTER_P)):
        for resized in ("", "imagenet21k_resized/"):
            root = tmp_path / f"{release}{len(resized)}"
            files = of(classes)
            for name, content in files.items():
                split = "val" if name.endswith("_9.JPEG") else "train"
                write(root, {f"{resized}imagenet21k_{split}/{name}": content})
            data = ImageNet21K(path=str(root), release=release)
            assert data.info.classes == classes
            for split, counted in (("train", 2 * len(classes)), ("val", len(classes))):
                source = data.source(split, features=("image", "label"))
                assert len(source) == counted and set(source.labels.tolist()) == set(range(len(classes)))
        other = {"fall11_p": "winter21_p", "winter21_p": "fall11_p"}[release]
        refuses(lambda root=root, other=other: opened(root, release=other), f"release={release!r}")
    refuses(lambda: opened(root, release="fall11"), "no images of ImageNet-21K", "fall11_whole.tar")
    refuses(lambda: opened(tmp_path, release="fall11_p"), "no images of ImageNet-21K", "imagenet21k_train")


def test_parts(tmp_path, small):
    write(tmp_path, of(("n00000003", "n01484850")))
    refuses(lambda: opened(tmp_path), "does not have the classes of Fall 2011", "2 classes", "has 6")
    assert set(opened(tmp_path, partial=True).labels.tolist()) == {2, 5}
    # Without a list, a part has ranks of its own; with one, those of the release.
    one = tmp_path / "one"
    write(one, of(("n00000004",)))
    assert set(opened(one, release="winter21", partial=True).labels.tolist()) == {0}
    write(tmp_path, {"winter.txt": "\n".join(reversed(WINTER)).encode()})
    listed = {"release": "winter21", "classes_file": str(tmp_path / "winter.txt")}
    assert ImageNet21K(**listed).info.classes == WINTER
    assert set(opened(one, partial=True, **listed).labels.tolist()) == {2}


def test_class_files(tmp_path, small):
    write(tmp_path, {"fall.txt": " ".join(ALL).encode(), "twice.txt": b"n00000001 " * 4, "odd.txt": b"\xff"})
    write(
        tmp_path, {"strange.txt": b"n00000001 n1 n2 n3", "short.txt": b"n00000001", "p.txt": " ".join(FALL_P).encode()}
    )
    for name, *said in [
        ("fall.txt", "holds Fall 2011, not Winter 2021"),
        ("twice.txt", "twice"),
        ("odd.txt", "cannot be read"),
        ("absent.txt", "cannot be read"),
        ("strange.txt", "'n1'", "not a class of ImageNet-21K"),
        ("short.txt", "1 classes, Winter 2021 has 4"),
        ("p.txt", "holds Fall P"),
    ]:
        data = ImageNet21K(release="winter21", classes_file=str(tmp_path / name))
        refuses(lambda data=data: data.info, name, *said)
    same = ImageNet21K(release="winter21_p", classes_file=str(tmp_path / "strange.txt"))
    write(tmp_path, {"strange.txt": b"n00000002 n00000003"})
    refuses(lambda: same.info, "and these are others")


def test_counts_are_checked(tmp_path, small):
    write(tmp_path, of(ALL))
    assert len(opened(tmp_path)) == 18
    write(tmp_path, {"n00000001/n00000001_1.JPEG": b"x"})
    refuses(lambda: opened(tmp_path), "has 19 images, published are 18", str(tmp_path))
    assert len(opened(tmp_path, partial=True)) == 19


def test_wrong_folders(tmp_path, small):
    write(tmp_path / "a", {"winter21_whole.tar.gz": b"\x1f\x8b"})
    refuses(lambda: opened(tmp_path / "a", release="winter21"), "winter21_whole.tar.gz is compressed", "tar -xzf")
    write(tmp_path / "a", class_tars(of(WINTER)))  # unpacked beside it
    assert len(opened(tmp_path / "a", release="winter21")) == 12
    write(tmp_path / "b", {"cats/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "b"), "no images of ImageNet-21K", "it holds cats")
    write(tmp_path / "c", of(ALL) | {"n99999999/n99999999_1.JPEG": b"x"})
    refuses(lambda: opened(tmp_path / "c"), "'n99999999'", "not a class of ImageNet-21K")


THOUSAND = ("n01443537", "n04399382")
"""ImageNet-1K in miniature: one class that ImageNet-21K has, one that it lacks."""


@pytest.fixture
def thousand(tmp_path, monkeypatch, small):
    monkeypatch.setattr(imagenet21k, "WNIDS", THOUSAND)
    monkeypatch.setattr(imagenet21k, "SIZES", {"train": 4, "val": 1})
    write(tmp_path / "21k", of(ALL))
    names = ["n04399382_7.JPEG", "n01443537_3.jpg", "n01443537_5.JPEG", "n04399382_10.JPEG"]
    files = {f"train/{name[:9]}/{name}": picture(300 + seed) for seed, name in enumerate(names)}
    write(tmp_path / "1k", files)
    return {"path": str(tmp_path / "21k"), "superset": True, "imagenet1k_path": str(tmp_path / "1k")}, files


def test_superset(thousand):
    options, files = thousand
    data = ImageNet21K(**options)
    classes = (*ALL[:5], ALL[5], "n04399382")
    assert data.info.classes == classes and data.info.sizes == {"train": 22}
    source = pickle.loads(pickle.dumps(data.source("train", features=("image", "label"))))
    expected = [FILES[n] for n in sorted(FILES)] + [files[n] for n in sorted(files)]
    assert [image for image, _ in samples(source)] == expected
    assert source.labels.tolist() == [classes.index(n[:9]) for n in sorted(FILES)] + [4, 4, 6, 6]


def test_union(thousand):
    options, files = thousand
    data = ImageNet21K(union=True, **options)
    assert data.info.sizes == {}
    source = data.source("train", features=("image", "label"))
    # n01443537_3 is in both; that the endings differ does not matter.
    kept = [name for name in sorted(files) if "_3." not in name]
    assert [image for image, _ in samples(source)][18:] == [files[name] for name in kept]
    assert source.labels[18:].tolist() == [4, 6, 6]


@pytest.mark.parametrize("union", [False, True])
def test_both_halves_of_a_superset_are_counted(tmp_path, thousand, union):
    options = thousand[0] | {"union": union}
    write(tmp_path, {"1k/train/n04399382/more.JPEG": b"x"})
    refuses(lambda: ImageNet21K(**options).source("train"), "1k has 5 images, published are 4")
    (tmp_path / "1k/train/n04399382/more.JPEG").unlink()
    write(tmp_path, {"21k/n00000001/more.JPEG": b"x"})
    refuses(lambda: ImageNet21K(**options).source("train"), "21k has 19 images, published are 18")
    assert len(ImageNet21K(partial=True, **options).source("train")) == (22 if union else 23)


def test_superset_without_imagenet1k(tmp_path, thousand):
    options = thousand[0]
    refuses(lambda: ImageNet21K(**options | {"imagenet1k_path": None}).source("train"), "no imagenet1k_path")
    refuses(lambda: ImageNet21K(**options | {"imagenet1k_path": "/nowhere"}).source("train"), "/nowhere is not there")
    write(tmp_path, {"1k/train/n00000001/1.JPEG": b"x"})
    refuses(lambda: ImageNet21K(**options).source("train"), "unknown", "n00000001")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"release": "fall"}, "no release 'fall'"),
        ({"release": "winter21", "superset": True}, "not made from winter21"),
        ({"union": True}, "options of superset"),
        ({"imagenet1k_path": "/x"}, "options of superset"),
        ({"classes_file": "/x"}, "are known"),
    ],
)
def test_options_that_do_not_fit(options, said):
    refuses(lambda: ImageNet21K(**options), said, error=ConfigError)


def test_labels_are_int32(tmp_path, small):
    write(tmp_path, of(ALL))
    source = opened(tmp_path)
    assert source.labels.dtype == np.int32 and type(source[0]["label"]) is int
    assert str(tmp_path) in repr(source)
