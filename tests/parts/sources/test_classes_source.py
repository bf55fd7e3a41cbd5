"""Images with classes that are known before: order, compact names, and what does not belong."""

import io
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.classes import (
    ClassSource,
    Files,
    Joined,
    Members,
    Names,
    Picked,
    check_files,
    class_names,
    is_image,
    open_archive,
    open_folders,
)
from spendflops.parts.sources.tar import open_index

CLASSES = ("ant", "bee", "cat", "dog")
# Created in this order: neither classes nor names are sorted, and "10" sorts before "2".
FILES = {"dog/2.png": b"d2", "ant/9.jpg": b"a9", "dog/10.PNG": b"d10", "ant/x.jpeg": b"ax", "cat/1.gif": b"c1"}
ORDER = ["ant/9.jpg", "ant/x.jpeg", "cat/1.gif", "dog/10.PNG", "dog/2.png"]
STRAY = {"dog/notes.txt": b"n", "dog/._2.png": b"resource fork"}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def inner(files):
    found = {}
    for name, content in files.items():
        cls, _, own = name.partition("/")
        found.setdefault(cls, {})[own] = content
    return found


def as_folders(root, files, **options):
    return open_folders(write(root / "folders", files), CLASSES, name="zoo", **options)


def as_tars(root, files, **options):
    for cls, members in inner(files).items():
        pack(root / "tars" / f"{cls}.tar", members)
    return open_folders(str(root / "tars"), CLASSES, name="zoo", **options)


def as_archive(root, files, prefix="", **options):
    tars = {}
    for cls, members in inner(files).items():
        path = pack(root / "tmp.tar", members)
        tars[f"{prefix}{cls}.tar"] = Path(path).read_bytes()
    return open_archive(pack(root / "all.tar", tars | {"README": b"r"}), CLASSES, name="zoo", **options)


FORMS = [as_folders, as_tars, as_archive]


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_order(tmp_path, form):
    source = form(tmp_path, FILES | STRAY, partial=True)
    source = pickle.loads(pickle.dumps(source))
    assert [source[i]["image"].read() for i in range(len(source))] == [FILES[name] for name in ORDER]
    assert [source[i]["label"] for i in range(len(source))] == [0, 0, 2, 3, 3]
    assert source.labels.dtype == np.int32 and type(source[0]["label"]) is int
    assert [source.images.name(i) for i in range(len(source))] == [name.partition("/")[2] for name in ORDER]
    assert str(tmp_path) in repr(source)
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source[index]


def test_an_archive_may_have_a_folder_around_its_tars(tmp_path):
    source = as_archive(tmp_path, FILES, prefix="./whole/", partial=True)
    assert source.labels.tolist() == [0, 0, 2, 3, 3]


@pytest.mark.parametrize("form", FORMS)
def test_classes_that_are_missing_or_unknown(tmp_path, form):
    refuses(lambda: form(tmp_path, FILES, partial=False), "zoo", "1 class(es) missing", "'bee'", "partial=True")
    refuses(lambda: form(tmp_path / "b", FILES | {"eel/1.jpg": b"e"}, partial=True), "unknown", "'eel'")
    refuses(lambda: form(tmp_path / "c", FILES | {"bee/notes.txt": b"n"}, partial=False), "bee")


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    refuses(
        lambda: open_folders(str(tmp_path / "empty"), CLASSES, name="zoo", partial=True), "no class folders", "'ant'"
    )
    path = pack(tmp_path / "a.tar", {"README": b"r"})
    refuses(lambda: open_archive(path, CLASSES, name="zoo", partial=True), "no images", "a.tar")
    pack(tmp_path / "tars/bee.tar", {"notes.txt": b"n"})
    refuses(lambda: open_folders(str(tmp_path / "tars"), CLASSES, name="zoo", partial=True), "bee.tar has no images")
    (tmp_path / "folders/bee").mkdir(parents=True)
    refuses(lambda: open_folders(str(tmp_path / "folders"), CLASSES, name="zoo", partial=True), "bee has no images")


def test_images_without_a_class(tmp_path):
    refuses(lambda: as_folders(tmp_path, FILES | {"1.jpg": b"x"}, partial=True), "beside its class folders")
    path = pack(tmp_path / "a.tar", {"1.jpg": b"x"})
    refuses(lambda: open_archive(path, CLASSES, name="zoo", partial=True), "'1.jpg'", "beside the tars")


def test_tars_that_were_unpacked_in_part(tmp_path):
    root = write(tmp_path, FILES)
    pack(tmp_path / "bee.tar", {"1.jpg": b"b"})
    refuses(lambda: class_names(root), "class folders (ant", "bee.tar", "unpack all")


def test_class_names(tmp_path):
    assert class_names(write(tmp_path / "a", FILES | {"README.txt": b"r"})) == ("ant", "cat", "dog")
    pack(tmp_path / "b/bee.tar", {"1.jpg": b"b"})
    pack(tmp_path / "b/ant.tar", {"1.jpg": b"a"})
    write(tmp_path / "b", {".hidden.tar": b"x", "list.txt": b"x"})
    assert class_names(str(tmp_path / "b")) == ("ant", "bee")
    refuses(lambda: class_names(str(tmp_path / "c")), "is not there")


def test_what_is_an_image():
    assert all(is_image(name) for name in ("a.jpg", "b/c.JPEG", "n1_2.Png"))
    assert not any(is_image(name) for name in ("a.txt", "._a.jpg", "b/.a.jpg", "jpg", "a.jpg/b"))


def test_compact_names(tmp_path):
    texts = ["a", "", "ü/é.jpg", "n" * 300, "broken-\udcff.jpg"]
    names = pickle.loads(pickle.dumps(Names(iter(texts))))
    assert len(names) == 5 and [names[i] for i in range(5)] == texts and list(names) == texts
    for index in (-1, 5):
        with pytest.raises(IndexError):
            names[index]
    assert len(Names([])) == 0
    tracemalloc.start()
    many = Names(f"n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG" for i in range(100_000))
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(many) == 100_000 and kept < 45 * len(many)  # Python strings need more than 85


def test_joined_and_picked(tmp_path):
    files = Files(write(tmp_path, FILES), ORDER)
    tar = open_index(pack(tmp_path / "a.tar", {"z/1.jpg": b"z1", "z/2.jpg": b"z2"}))
    both = pickle.loads(pickle.dumps(Joined(files, Members([tar], [1, 0]))))
    contents = [*(FILES[name] for name in ORDER), b"z2", b"z1"]
    assert len(both) == 7 and [both[i].read() for i in range(7)] == contents
    assert both.name(0) == "9.jpg" and both.name(5) == "2.jpg"
    picked = Picked(both, [6, 0])
    assert len(picked) == 2 and picked[0].read() == b"z1" and picked.name(1) == "9.jpg"
    assert "Picked(2 of Joined(" in repr(picked) and "a.tar" in repr(picked)
    assert "a.tar:z/2.jpg (offset" in both[5].name
    with pytest.raises(ValueError, match="7 images, 6 labels"):
        ClassSource(both, [0] * 6)


def test_files_that_a_list_names(tmp_path):
    root = write(tmp_path, FILES)
    check_files(root, ORDER, listed="list.json")
    wanted = [*ORDER, "dog/3.png", "emu/1.png"]
    refuses(lambda: check_files(root, wanted, listed="list.json"), "2 of 7 images", "list.json", "dog/3.png")
    for odd in ("../secret.jpg", "/etc/secret.jpg", "dog/../../secret.jpg"):
        refuses(lambda odd=odd: check_files(root, [odd], listed="list.json"), "leads out", odd)
