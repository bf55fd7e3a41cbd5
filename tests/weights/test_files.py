"""Files are known by what they hold; folders of our own are whole, and say what they are."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from pthlib import save as save_pth

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.weights import files, folder

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "t": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(2.5, np.float32),
    "half": np.arange(3).astype(np.float16),
    "brain": np.arange(3).astype(ml_dtypes.bfloat16),
    "count": np.array([7], np.int64),
}


def test_safetensors_go_out_and_in_whatever_their_strides(tmp_path):
    files.save(tmp_path / "x.safetensors", ARRAYS)
    content = files.open_file(tmp_path / "x.safetensors")
    assert content.kind == "safetensors" and set(content.tensors) == set(ARRAYS)
    for key, value in ARRAYS.items():
        found = content.tensors[key]
        assert (found.shape, found.dtype) == (value.shape, value.dtype)
        assert found.read().tobytes() == value.tobytes() and found.read().shape == value.shape


def test_content_counts_not_the_name(tmp_path):
    files.save(tmp_path / "x.pth", ARRAYS)
    save_pth(tmp_path / "y.safetensors", {"a": ARRAYS["a"]})
    kinds = [files.open_file(tmp_path / name).kind for name in ("x.pth", "y.safetensors")]
    assert kinds == ["safetensors", "PyTorch"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer to a file of Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x02}q\x00.", "a bare pickle"),
        (b"", "no file of weights"),
        (b"hello world, hello world", "no file of weights"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{\"a\":1}", "is damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "is damaged"),
    ],
)  # fmt: skip
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DataError, match=message):
        files.open_file(tmp_path / "x.pth")


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        files.open_file(tmp_path / "nothing.pth")
    with pytest.raises(DataError, match=r"holds no model\.safetensors or pytorch_model\.bin"):
        files.open_file(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match="in several files"):
        files.open_file(tmp_path)


def test_a_cut_file_is_damaged(tmp_path):
    path = tmp_path / "x.safetensors"
    files.save(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="is damaged"):
        files.open_file(path)


def test_a_folder_with_a_config(tmp_path):
    files.save(tmp_path / "model.safetensors", ARRAYS)
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    assert files.open_file(tmp_path).config == {"hidden_size": 4, "image_mean": [0.5]}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        files.open_file(tmp_path)


def test_two_values_of_one_name(tmp_path):
    with pytest.raises(DataError, match=r"two values called a\.b"):
        files.open_file(save_pth(tmp_path / "x.pth", {"a": {"b": ARRAYS["a"]}, "a.b": ARRAYS["a"]}))


def test_a_disk_that_takes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        files.save(tmp_path / "file" / "x.safetensors", ARRAYS)


CONFIG = {"backbone": {"@": "backbones.vit"}, "objective": None, "flops": None, "weights": "online"}


def test_a_folder_of_our_own(tmp_path):
    folder.write(tmp_path / "w", {"backbone/a": ARRAYS["a"]}, CONFIG)
    found = folder.open_folder(tmp_path / "w")
    assert folder.is_folder(tmp_path / "w") and not folder.is_folder(tmp_path)
    assert found.config["weights"] == "online" and found.shapes["backbone/a"].shape == (2, 3)
    assert np.array_equal(found.read()["backbone/a"], ARRAYS["a"])
    with pytest.raises(ConfigError, match="is there already"):
        folder.write(tmp_path / "w", {}, CONFIG)
    with pytest.raises(DataError, match="spendflops import"):
        try:
            folder.open_folder(tmp_path)
        except DataError as error:
            raise DataError(error.fix) from error


def test_weights_that_were_changed_are_not_read(tmp_path):
    folder.write(tmp_path / "w", {"backbone/a": ARRAYS["a"]}, CONFIG)
    file = tmp_path / "w" / "model.safetensors"
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(bytes(body))
    with pytest.raises(DataError, match="is damaged"):
        folder.open_folder(tmp_path / "w").read()


def test_half_a_folder_is_none(tmp_path, monkeypatch):
    def full(path, text):
        raise DataError("disk full")

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(DataError, match="disk full"):
        folder.write(tmp_path / "w", {"backbone/a": ARRAYS["a"]}, CONFIG)
    assert not folder.is_folder(tmp_path / "w")
    monkeypatch.undo()
    folder.write(tmp_path / "w", {"backbone/a": ARRAYS["a"]}, CONFIG)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["format"] == folder.FORMAT


def test_others_may_read_what_others_may_read_of_this_users_files(tmp_path):
    (tmp_path / "plain.txt").write_text("")
    files.save(tmp_path / "x.safetensors", {"x": np.zeros(2)})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode
