"""ImageNet-V2: folders are numbers, and the variants are told apart."""

import dataclasses
import tempfile

import pytest
from imagenetlib import below, picture, write
from spendflops_plugins import imagenet_v2
from spendflops_plugins.imagenet_v2 import FOLDERS, ImageNetV2

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources.imagenet import WNIDS

# Created in an order that is neither that of numbers nor that of text.
FILES = {f"{label}/{seed:x}f3.jpeg": picture(400 + seed) for seed, label in enumerate([10, 2, 999, 0, 100, 1, 2, 10])}
PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ImageNetV2, splits=("test",), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, below(FOLDERS["matched-frequency"], FILES))


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, **options):
    return ImageNetV2(path=str(root), **{"partial": True, **options}).source("test", features=("image", "label"))


def test_information_without_a_disk():
    info = ImageNetV2().info
    assert info.classes == WNIDS and info.sizes == {"test": 10_000} and info.class_names[0] == "tench"
    assert info.licence and info.citation and info.homepage
    refuses(lambda: ImageNetV2().source("test"), "no path")
    refuses(lambda: ImageNetV2().source("val"), "no split 'val'")


def test_folders_are_numbers():
    source = opened(PLACE.name)
    order = sorted(FILES, key=lambda name: (int(name.partition("/")[0]), name))
    assert source.labels.tolist() == [0, 1, 2, 2, 10, 10, 100, 999]
    assert [source[i]["image"].read() for i in range(len(source))] == [FILES[name] for name in order]


@pytest.mark.parametrize("variant", FOLDERS)
def test_variants(tmp_path, variant):
    write(tmp_path, {f"{folder}/0/a.jpeg": folder.encode() for folder in FOLDERS.values()})
    expected = FOLDERS[variant].encode()
    # The folder that holds them, and each itself.
    for root in (tmp_path, tmp_path / FOLDERS[variant]):
        assert opened(root, variant=variant)[0]["image"].read() == expected
    other = next(name for name in FOLDERS if name != variant)
    refuses(lambda: opened(tmp_path / FOLDERS[other], variant=variant), f"variant={other!r}", FOLDERS[variant])


def test_wrong_folders(tmp_path):
    write(tmp_path / "a", below(FOLDERS["top-images"], FILES))
    refuses(lambda: opened(tmp_path / "a"), "does not have the variant 'matched-frequency'", "variant='top-images'")
    write(tmp_path / "b", {"cats/1.jpeg": b"x"})
    refuses(lambda: opened(tmp_path / "b"), FOLDERS["matched-frequency"], "unpack")
    write(tmp_path / "c", {"0/1.jpeg": b"x", "1000/1.jpeg": b"x"})
    refuses(lambda: opened(tmp_path / "c"), "unknown", "'1000'")
    write(tmp_path / "d", {"0/1.jpeg": b"x"})
    assert opened(tmp_path / "d").labels.tolist() == [0]
    refuses(lambda: ImageNetV2(variant="matched"), "did you mean 'matched-frequency'", error=ConfigError)


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    refuses(lambda: opened(tmp_path, partial=False), "994 class(es) missing")
    monkeypatch.setattr(imagenet_v2, "_INDICES", ("0", "1", "2", "10", "100", "999"))
    monkeypatch.setattr(imagenet_v2, "INFO", dataclasses.replace(imagenet_v2.INFO, sizes={"test": 8}))
    assert len(opened(tmp_path, partial=False)) == 8
    write(tmp_path, {"0/more.jpeg": b"x"})
    refuses(lambda: opened(tmp_path, partial=False), "9 samples, published are 8")
