import io
import os
import tarfile
import tempfile
import threading
import tracemalloc

import numpy as np
import pytest

from spendflops.contracts.errors import DataError
from spendflops.parts.sources import tar
from spendflops.parts.sources.tar import open_index


def pack(path, members, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1234567890.25  # a fraction makes PAX write a block of its own
            archive.addfile(info, io.BytesIO(content))
    return path


MEMBERS = [(f"{i:05d}.{e}", os.urandom(37 * i + 1)) for i in range(9) for e in ("jpg", "json", "txt")]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_read_at_their_offsets(tmp_path, form):
    members = [*MEMBERS, ("folder/" + "n" * 90, b"long"), ("ü/é.txt", b"unicode"), ("empty", b"")]
    index = open_index(pack(tmp_path / "a.tar", members, form))
    assert index.names == tuple(name for name, _ in members)
    assert [index.read(i) for i in range(len(index))] == [content for _, content in members]


def test_the_index_is_stored_and_used(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar", MEMBERS)
    first = open_index(path)
    monkeypatch.setattr(tar, "make_index", None)
    again = open_index(path)
    assert again.names == first.names
    np.testing.assert_array_equal(again.offsets, first.offsets)
    assert (tmp_path / "a.tar.index.npz").stat().st_mode == path.stat().st_mode


def test_a_folder_without_write_permission_uses_the_cache(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar", MEMBERS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = tempfile.NamedTemporaryFile

    def refused(*, dir, **options):
        if dir == tmp_path:
            raise PermissionError
        return real(dir=dir, **options)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refused)
    open_index(path)
    assert not (tmp_path / "a.tar.index.npz").exists()
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_an_index_that_is_broken_or_of_another_tar_is_made_again(tmp_path):
    path = pack(tmp_path / "a.tar", MEMBERS)
    open_index(path)
    (tmp_path / "a.tar.index.npz").write_bytes(b"PK nothing")
    assert len(open_index(path)) == len(MEMBERS)
    pack(path, MEMBERS[:6])
    assert len(open_index(path)) == 6


def test_nested_tars(tmp_path):
    inner = [pack(tmp_path / f"n{k}.tar", MEMBERS[3 * k : 3 * k + 3]) for k in range(2)]
    outer = pack(tmp_path / "outer.tar", [(p.name, p.read_bytes()) for p in inner] + [("words.txt", b"w")])
    index = open_index(outer, nested=True)
    expected = [(f"n{k}.tar/{n}", c) for k in range(2) for n, c in MEMBERS[3 * k : 3 * k + 3]] + [("words.txt", b"w")]
    assert [(index.names[i], index.read(i)) for i in range(len(index))] == expected
    assert open_index(outer).names == ("n0.tar", "n1.tar", "words.txt")  # its own index beside the other


def test_a_tar_that_changes_while_it_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", MEMBERS)
    index = open_index(path)
    index.read(0)
    with open(path, "ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(DataError, match="changed since"):
        index.read(1)


def test_a_tar_that_vanishes_before_it_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", MEMBERS)
    index = open_index(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar cannot be read"):
        index.read(0)


@pytest.mark.parametrize("cut", [1, 300, 512, 1024, 5000])
def test_a_tar_that_was_cut(tmp_path, cut):
    path = pack(tmp_path / "a.tar", [("1.jpg", b"1"), ("2.jpg", os.urandom(20_000))])
    whole = 512 * 3 + 1024 * 2  # headers and PAX blocks before the content of the second
    os.truncate(path, whole + 20_000 - cut)
    with pytest.raises(DataError, match="cannot be read"):
        open_index(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "a"}, "a link"),
        ({"type": tarfile.FIFOTYPE}, "neither"),
        ({"name": "../x.jpg"}, "leads out"),
        ({"name": "/x.jpg"}, "leads out"),
        ({"pax_headers": {"GNU.sparse.map": "0,3", "GNU.sparse.size": "9"}}, "sparse"),
    ],
)
def test_odd_members_are_refused(tmp_path, change, said):
    info = tarfile.TarInfo("x.jpg")
    for name, value in change.items():
        setattr(info, name, value)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=said):
        open_index(tmp_path / "a.tar")


def test_a_name_twice(tmp_path):
    with pytest.raises(DataError, match="twice"):
        open_index(pack(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.jpg", b"2")]))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_compressed(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    with pytest.raises(DataError, match="compressed"):
        open_index(tmp_path / "a.tar")


def test_many_tars_and_threads_share_few_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "OPEN_FILES", 2)
    indices = [open_index(pack(tmp_path / f"{k}.tar", [("x", bytes([k]) * 100)])) for k in range(6)]
    wrong = []

    def work(seed):
        for k in np.random.default_rng(seed).integers(0, 6, 200):
            if indices[k].read(0) != bytes([k]) * 100:
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(tar.FILES._open) <= 2


def test_names_that_are_not_utf8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("caf\xe9.jpg"), io.BytesIO())
    first = open_index(tmp_path / "a.tar")
    assert first.names == ("caf\udce9.jpg",) and (tmp_path / "a.tar.index.npz").exists()
    assert open_index(tmp_path / "a.tar").names == first.names


def test_a_tar_that_cannot_be_opened_any_more(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar", MEMBERS)
    index = open_index(path)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tar, "open", refused, raising=False)
    with pytest.raises(DataError, match=r"a\.tar cannot be read\n.*Permission denied"):
        index.read(0)


def test_a_stored_index_can_be_read_by_others(tmp_path):
    open_index(pack(tmp_path / "a.tar", MEMBERS))
    assert (tmp_path / "a.tar.index.npz").stat().st_mode & 0o777 == 0o644


def test_headers_are_not_kept(tmp_path):
    path = str(pack(tmp_path / "a.tar", [(f"{i:05d}.jpg", b"") for i in range(1500)]))
    tracemalloc.start()
    tar.make_index(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 1500 < 500, peak / 1500


SMALL = [(f"{i}{'n' * 120 * (i == 1)}.jpg", bytes([65 + i]) * 600) for i in range(3)]


def test_no_member_is_lost_to_a_damaged_byte(tmp_path):
    whole = pack(tmp_path / "a.tar", SMALL).read_bytes()
    rng, damaged = np.random.default_rng(0), tmp_path / "b.tar"
    for place in rng.integers(0, len(whole.rstrip(b"\0")), 300):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :])
        try:
            assert len(tar.make_index(str(damaged))) == 3, place
        except DataError as error:
            assert "b.tar" in str(error)


def test_a_tar_that_was_cut_between_members_or_within_a_header(tmp_path):
    whole, cut = pack(tmp_path / "a.tar", SMALL).read_bytes(), tmp_path / "b.tar"
    content = len(whole.rstrip(b"\0"))
    for size in [*range(256, content, 256), content + -content % 512]:
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match="cannot be read"):
            open_index(cut)
    cut.write_bytes(whole[: content + -content % 512 + 512])
    assert len(open_index(cut)) == 3, "one block of zeros is an end"


def test_tars_one_after_another(tmp_path):
    first, second = (pack(tmp_path / f"{k}.tar", [(f"{k}.jpg", b"x")]) for k in range(2))
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DataError, match="other bytes follow its end"):
        open_index(tmp_path / "both.tar")
    outer = pack(tmp_path / "outer.tar", [("both.tar", (tmp_path / "both.tar").read_bytes())])
    with pytest.raises(DataError, match=r"outer\.tar cannot be read\n.*both\.tar/: what lies at offset"):
        open_index(outer, nested=True)
