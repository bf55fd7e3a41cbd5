"""PyTorch's files: what is in them is read exactly, what is hostile is refused, and nothing of it runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pthlib
import pytest
from pthlib import Call, Made, Name, Persistent, Raw, View, instructions, save

from spendflops.cli.main import main
from spendflops.contracts.errors import DataError
from spendflops.weights import pickles, pth
from spendflops.weights.files import open_file

FLOATS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def read(path):
    content = open_file(path)
    return {key: tensor.read() for key, tensor in content.tensors.items()}


@pytest.mark.parametrize("dtype", list(pthlib.STORAGES), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_values_of_every_type_and_shape(tmp_path, dtype, shape):
    value = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, dtype)
    found = read(save(tmp_path / "x.pth", {"a": value}))["a"]
    assert found.dtype == dtype and found.shape == shape and found.tobytes() == value.tobytes()


def test_nested_dicts_have_their_keys_joined_and_other_values_are_kept_apart(tmp_path):
    state = {"model": {"w": FLOATS, "n": 3}, "epoch": 7, "list": [1.5, FLOATS], "none": None, "flag": True}
    content = open_file(save(tmp_path / "x.pth", {**state, "args": Made("argparse.Namespace", {"lr": 0.1})}))
    assert list(content.tensors) == ["model.w", "list.1"] and content.kind == "PyTorch"
    assert content.values == {
        "model.n": 3, "epoch": 7, "list.0": 1.5, "none": None, "flag": True, "args.lr": 0.1
    }  # fmt: skip


def test_views_share_storages_with_offsets_and_strides(tmp_path):
    views = {
        "whole": View("0", "torch.FloatStorage", 24, 0, (4, 6), (6, 1)),
        "transposed": View("0", "torch.FloatStorage", 24, 0, (6, 4), (1, 6)),
        "part": View("0", "torch.FloatStorage", 24, 7, (2, 3), (6, 2)),
        "one": View("0", "torch.FloatStorage", 24, 23, (1,), (10**30,)),
        "repeated": View("0", "torch.FloatStorage", 24, 5, (3,), (0,)),
        "none": View("0", "torch.FloatStorage", 24, 99, (0, 3), (3, 1)),
        "parameter": Call(
            "torch._utils._rebuild_parameter", (View("0", "torch.FloatStorage", 24, 0, (24,), (1,)), True, None)
        ),
    }
    found, base = read(save(tmp_path / "x.pth", views, storages={"0": FLOATS.tobytes()})), FLOATS.reshape(4, 6)
    assert np.array_equal(found["whole"], base) and np.array_equal(found["transposed"], base.T)
    assert np.array_equal(found["part"], [[7, 9, 11], [13, 15, 17]]) and np.array_equal(found["one"], [23])
    assert np.array_equal(found["repeated"], [5, 5, 5]) and found["none"].shape == (0, 3)
    assert np.array_equal(found["parameter"], FLOATS.reshape(-1))
    assert all(value.flags.c_contiguous and value.flags.writeable for value in found.values())


def test_torchscript_modules_are_walked_and_their_code_is_not_read(tmp_path):
    inner = Made("__torch__.torch.nn.Linear", {"training": True, "weight": FLOATS.astype(np.float16)})
    sizes = Call("torch.jit._pickle.build_intlist", ([3, 4],))
    tree = Made("__torch__.Model", {"training": True, "visual": inner, "sizes": sizes, "scale": np.float32(2)[...]})
    code = ("code/__torch__.py", "import os; os.system('touch ran')")
    content = open_file(save(tmp_path / "x.pt", tree, entries=[code]))
    assert content.kind == "TorchScript" and list(content.tensors) == ["visual.weight", "scale"]
    assert content.values == {"training": True, "visual.training": True, "sizes.0": 3, "sizes.1": 4}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def touch(marker):
    return (f"touch {marker}",)


def hostile(marker):
    """Pickles that would make a file called ``marker``, or that try to reach something that could."""
    run = touch(marker)
    written = f"open({str(marker)!r}, 'w')"
    system = b"\x8c\x02os\x8c\x06system\x93"
    yield from (pickle.dumps(Evil(marker), protocol) for protocol in range(6))
    yield from (
        instructions(value)
        for value in (
            Call("os.system", run),
            {"model": {"w": [1, (2, Call("posix.system", run))]}},
            Call("builtins.eval", (written,)),
            Call("builtins.exec", (written,)),
            Call("__builtin__.eval", (written,)),
            Call("builtins.getattr", (Name("collections.OrderedDict"), "__init__")),
            Call("torch.hub.load", ("user/repository", "model")),
            Call("torch.load", (str(marker),)),
            Call("torch.storage._load_from_bytes", (pickle.dumps(Evil(marker)).decode("latin1"),)),
            Call("torch._utils._rebuild_device_tensor_from_numpy", run),
            Call("numpy.load", (str(marker),)),
            Call("runpy.run_path", (str(marker),)),
            Call("collections.OrderedDict.fromkeys", ([],)),
            Call("torch.FloatStorage", run),
            Call("__torch__.os.system", run),
            Made("subprocess.Popen", {}),
            Made("__main__.Net", {"w": 1}),
            Persistent(("storage", Name("os.system"), "0", "cpu", 1)),
            Persistent(("module", Name("torch.FloatStorage"), "0", "cpu", 1)),
            Raw(system + instructions(run) + b"R"),  # STACK_GLOBAL
            Raw(b"(" + instructions(run[0]) + b"ios\nsystem\n"),  # INST
            Raw(b"(cos\nsystem\n" + instructions(run[0]) + b"o"),  # OBJ
            Raw(b"\x82\x01"),  # EXT1, an extension's number instead of a name
            Raw(instructions(run) + b"R"),  # a call of nothing
            Raw(b"ccollections\nOrderedDict\n" + instructions({"__setstate__": 1}) + b"b"),  # BUILD of a class
            Raw(b"](" + b"e" + instructions({"__setstate__": Name("collections.OrderedDict")}) + b"b"),
            Raw(b"ccollections\nOrderedDict\n)R" + instructions({"__class__": Name("os.system")}) + b"b"),
            Raw(b"}" + instructions(((1, 2), 3)) + b"Ns"),  # a key that takes long to hash
        )
    )


CASES = 6 + 28


def test_the_list_of_hostile_pickles_is_whole():
    assert len(list(hostile("x"))) == CASES


@pytest.mark.parametrize("case", range(CASES))
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(case, tmp_path):
    marker = tmp_path / "marker"
    code = list(hostile(marker))[case]
    code = code if code.endswith(b".") else b"\x80\x02" + code + b"."
    path = save(tmp_path / "x.pth", None, pickle=code)
    with pytest.raises(DataError, match="was not read") as error:
        open_file(path)
    assert error.value.exit_code == 3 and not marker.exists()


@pytest.mark.parametrize(
    "value, message",
    [
        (Call("torch.FloatStorage", ()), r"calls torch\.FloatStorage"),
        (Call("argparse.Namespace", ()), r"calls argparse\.Namespace"),
        (Persistent(("storage", Name("argparse.Namespace"), "0", "cpu", 1)), "'storage' of type argparse"),
        (Persistent(("module", Name("torch.FloatStorage"), "0", "cpu", 1)), "refers to 'module'"),
        (Raw(b"\x82\x01"), "has the instruction EXT1"),
    ],
)
def test_the_reason_is_named(value, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_file(save(tmp_path / "x.pth", {"w": value}))


def test_a_pickle_that_would_run_does_run_elsewhere(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_the_command_refuses_it_with_3_and_names_what_it_refused(tmp_path, capsys):
    marker = tmp_path / "marker"
    path = save(tmp_path / "x.pth", {"model": Call("os.system", touch(marker))})
    assert main(["import", str(path), "--backbone", "vit_nano", "--out", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().err
    assert "names os.system" in text and "nothing of it was run" in text and "fix:" in text
    assert not marker.exists() and not (tmp_path / "out").exists()


FALSE_TENSORS = {
    "beyond the end": View("0", "torch.FloatStorage", 24, 1, (24,), (1,)),
    "strides beyond the end": View("0", "torch.FloatStorage", 24, 0, (3, 3), (12, 1)),
    "expanded": View("0", "torch.FloatStorage", 24, 0, (10**6, 10**6), (0, 0)),
    "negative stride": View("0", "torch.FloatStorage", 24, 23, (24,), (-1,)),
    "negative offset": View("0", "torch.FloatStorage", 24, -1, (2,), (1,)),
    "negative shape": View("0", "torch.FloatStorage", 24, 0, (-2, -3), (3, 1)),
    "shape of fractions": View("0", "torch.FloatStorage", 24, 0, (2.0,), (1,)),
    "shape that is no tuple": View("0", "torch.FloatStorage", 24, 0, 3, (1,)),
    "strides too few": View("0", "torch.FloatStorage", 24, 0, (2, 3), (1,)),
    "forty axes": View("0", "torch.FloatStorage", 24, 0, (1,) * 40, (1,) * 40),
    "more values than bytes": View("0", "torch.FloatStorage", 25, 0, (2,), (1,)),
    "fewer values than bytes": View("0", "torch.FloatStorage", 23, 0, (2,), (1,)),
    "another type": View("0", "torch.HalfStorage", 24, 0, (2,), (1,)),
    "a huge claim": View("0", "torch.FloatStorage", 10**18, 0, (10**18,), (1,)),
    "a storage that is not there": View("1", "torch.FloatStorage", 24, 0, (2,), (1,)),
    "a storage elsewhere": View("../../x", "torch.FloatStorage", 24, 0, (2,), (1,)),
    "an unknown type": View("0", "torch.ComplexFloatStorage", 12, 0, (2,), (1,)),
    "no storage": Call("torch._utils._rebuild_tensor_v2", (3, 0, (2,), (1,), False, None)),
}


@pytest.mark.parametrize("name", FALSE_TENSORS)
def test_a_tensor_must_be_what_its_storage_holds(name, tmp_path):
    path = save(tmp_path / "x.pth", {"w": FALSE_TENSORS[name]}, storages={"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match="was not read"):
        open_file(path)


def test_a_few_lists_that_stand_for_very_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "LARGEST_TREE", 10_000)
    # x = [x, x] forty times over: a trillion values in three hundred bytes.
    code = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)) + b"."
    with pytest.raises(DataError, match="10,000 values"):
        open_file(save(tmp_path / "x.pth", None, pickle=b"\x80\x02" + code))
    with pytest.raises(DataError, match="levels deep"):
        open_file(save(tmp_path / "y.pth", None, pickle=b"\x80\x02" + b"](" * 100 + b"e" * 100 + b"."))


@pytest.mark.parametrize(
    "code", [b"", b"\x80\x02", b"\x80\x02h\x07.", b"\x80\x02t.", b"\x80\x02e.", b"\x80\x02X\xff\xff\xff\x7fa."]
)
def test_a_pickle_that_is_not_well_formed(code, tmp_path):
    with pytest.raises(DataError, match="was not read"):
        open_file(save(tmp_path / "x.pth", None, pickle=code))


def test_a_pickle_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "LARGEST_PICKLE", 1000)
    with pytest.raises(DataError, match="over 1,000"):
        open_file(save(tmp_path / "x.pth", {"w": "x" * 1000}))


def test_compressed_storages_are_refused_before_they_are_unpacked(tmp_path):
    big = np.zeros(10**6, np.float32)
    with pytest.raises(DataError, match="compressed"):
        open_file(save(tmp_path / "x.pth", {"w": big}, compression=zipfile.ZIP_DEFLATED))


def duplicated(path, name, **changes):
    """Adds an entry that points to the bytes of another."""
    with zipfile.ZipFile(path, "a") as file:
        old = file.getinfo("archive/data/0")
        new = zipfile.ZipInfo(name)
        for field in ("header_offset", "CRC", "compress_size", "file_size", "compress_type", "flag_bits"):
            setattr(new, field, changes.get(field, getattr(old, field)))
        file.filelist.append(new)
        file._didModify = True


def test_parts_that_overlap_are_refused(tmp_path):
    path = save(tmp_path / "x.pth", {"w": np.zeros(4096, np.float32)})
    for number in range(4):
        duplicated(path, f"archive/data/{number + 1}")
    with pytest.raises(DataError, match="larger than the file"):
        open_file(path)


def test_two_parts_of_one_name_and_encrypted_ones(tmp_path):
    path = save(tmp_path / "x.pth", {"w": FLOATS})
    duplicated(path, "archive/data/0")
    with pytest.raises(DataError, match="in it twice"):
        open_file(path)
    path = save(tmp_path / "y.pth", {"w": FLOATS})
    duplicated(path, "archive/data/9", flag_bits=1)
    with pytest.raises(DataError, match="encrypted"):
        open_file(path)


def test_a_damaged_file_is_damaged_not_hostile(tmp_path):
    path = save(tmp_path / "x.pth", {"w": np.full(1000, 7, np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged"):
        open_file(path)
    place = whole.index(np.full(9, 7, np.float32).tobytes())
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(DataError, match="is damaged"):
        read(path)


def test_other_zip_files(tmp_path):
    np.savez(tmp_path / "x.npz", a=FLOATS)
    with pytest.raises(DataError, match="not one of PyTorch"):
        open_file(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as file:
        file.writestr("a/b/c/data.pkl", b"")
    with pytest.raises(DataError, match="not one of PyTorch"):
        open_file(tmp_path / "y.zip")


def test_big_endian_numbers(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("a/byteorder", b"big")
    with pytest.raises(DataError, match="big-endian"):
        open_file(path)


def test_nothing_is_imported_by_a_name(tmp_path):
    before = set(__import__("sys").modules)
    with pytest.raises(DataError, match=r"antigravity\.fly"):
        open_file(save(tmp_path / "x.pth", Call("antigravity.fly", ())))
    assert set(__import__("sys").modules) == before


def test_what_the_machine_can_call_is_listed():
    assert set(pth.CALLS) & {"os.system", "builtins.eval", "builtins.getattr"} == set()
    assert all(pth._known(name) for name in ("torch.FloatStorage", "argparse.Namespace", "__torch__.x"))
    assert not any(pth._known(name) for name in ("torch.hub.load", "__torch__", "__torch__x.y", "argparse.Namespace.x"))
    assert pickles.DEEPEST_TREE < 1000  # Python's own limit of recursion


def test_the_file_of_the_format_before_zip(tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(DataError, match=r"before version 1\.6") as error:
        open_file(path)
    assert "old.pth" in error.value.fix and "safetensors" in error.value.fix


def test_bfloat16_is_read_as_it_is(tmp_path):
    value = np.array([1.0, -2.5, 3e38], ml_dtypes.bfloat16)
    assert read(save(tmp_path / "x.pth", {"a": value}))["a"].tobytes() == value.tobytes()
    assert Path(tmp_path / "x.pth").exists()
