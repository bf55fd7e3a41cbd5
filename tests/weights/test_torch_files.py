"""Files that PyTorch itself wrote, where it is installed."""

from __future__ import annotations

import argparse
import collections
import os
import pathlib

import numpy as np
import pytest

from spendflops.contracts.errors import DataError
from spendflops.weights.files import open_file

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint(tmp_path, protocol):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    body = {
        "model": model.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3, "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)), "size": torch.Size([2, 3]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)), "device": torch.device("cpu"),
    }  # fmt: skip
    torch.save(body, tmp_path / "x.pth", pickle_protocol=protocol)
    content = open_file(tmp_path / "x.pth")
    for key, value in model.state_dict().items():
        assert np.array_equal(content.tensors[f"model.{key}"].read(), value.numpy()), key
    assert np.array_equal(content.tensors["parameter"].read(), body["parameter"].detach().numpy())
    assert np.array_equal(
        content.tensors["optimizer.state.0.exp_avg"].read(), optimiser.state_dict()["state"][0]["exp_avg"].numpy()
    )
    assert content.values["epoch"] == 3 and content.values["args.betas.1"] == 0.99 and content.values["size.1"] == 3


def test_views_of_every_kind(tmp_path):
    base = torch.randn(4, 6)
    body = collections.OrderedDict(
        t=base.t(), part=base[1:3, ::2], half=base.half(), brain=base.bfloat16(), none=torch.zeros(0, 3),
        scalar=torch.tensor(2.5), flag=torch.tensor([True, False]), whole=base, turned=base.permute(1, 0)[2:],
    )  # fmt: skip
    torch.save(body, tmp_path / "x.pth")
    content = open_file(tmp_path / "x.pth")
    for key, value in body.items():
        found = content.tensors[key].read()
        assert found.shape == tuple(value.shape), key
        assert np.array_equal(found.astype(np.float32), value.float().numpy()), key


def test_torchscript(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.LayerNorm(4))
    torch.jit.script(model).save(tmp_path / "x.pt")
    content = open_file(tmp_path / "x.pt")
    assert content.kind == "TorchScript" and set(content.tensors) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert np.array_equal(content.tensors[key].read(), value.numpy())


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("make", [Evil, lambda path: torch.nn.Linear(2, 2), lambda path: pathlib.Path(path)])
def test_other_objects_are_refused(tmp_path, make):
    torch.save({"model": {"w": torch.zeros(2)}, "other": make(tmp_path / "marker")}, tmp_path / "x.pth")
    with pytest.raises(DataError, match="its pickle names"):
        open_file(tmp_path / "x.pth")
    assert not (tmp_path / "marker").exists()


def test_the_format_before_zip(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="a bare pickle"):
        open_file(tmp_path / "x.pth")
