"""``spendflops import`` and ``export``: one command each way, and what they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))

import numpy as np
import pthlib
import pytest
import safetensors.numpy
from PIL import Image

from spendflops.cli.main import main

DIM, BLOCKS = 64, 4


def block(at):
    yield from ((f"{at}.{norm}.{kind}", (DIM,)) for norm in ("norm1", "norm2") for kind in ("weight", "bias"))
    for name, i, o in (("attn.qkv", 1, 3), ("attn.proj", 1, 1), ("mlp.fc1", 1, 4), ("mlp.fc2", 4, 1)):
        yield from ((f"{at}.{name}.weight", (o * DIM, i * DIM)), (f"{at}.{name}.bias", (o * DIM,)))


def state(classes=5):
    """A state dict of timm's for the preset vit_nano, with learned positions."""
    shapes = {"cls_token": (1, 1, DIM), "pos_embed": (1, 65, DIM), "norm.weight": (DIM,), "norm.bias": (DIM,)}
    shapes |= {"patch_embed.proj.weight": (DIM, 3, 4, 4), "patch_embed.proj.bias": (DIM,)}
    shapes |= {"head.weight": (classes, DIM), "head.bias": (classes,)}
    shapes |= dict(row for i in range(BLOCKS) for row in block(f"blocks.{i}"))
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float16) for key, shape in shapes.items()}


MODEL = ["--backbone", "vit_nano", "--gin", "backbones.vit.positions = 'learned'"]


@pytest.fixture
def file(tmp_path):
    return pthlib.save(tmp_path / "model.pth", {"state_dict": state(), "epoch": 3, "optimizer": {"lr": 0.1}})


def test_in_and_out_again(file, tmp_path, capsys):
    given = [*MODEL, "--objective", "supervised", "--classes", "5", "--flops", "2e15"]
    assert main(["import", str(file), *given, "--out", str(tmp_path / "w")]) == 0
    said = capsys.readouterr().out
    assert "model.pth: PyTorch, layout timm" in said and "56 tensors" in said
    assert "ignored   2: no tensors (epoch, ...)" in said
    assert "float16 made float32 without loss" in said and "FLOPs spent on them: 2,000,000,000,000,000" in said
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert config["flops"] == 2 * 10**15 and config["weights"] == "online" and config["source"]["layout"] == "timm"
    assert config["input"]["size"] == [32, 32] and len(config["info"]["classes"]) == 5
    assert (
        main(
            [
                "export",
                str(tmp_path / "w"),
                "--layout",
                "timm",
                "--dtype",
                "float16",
                "--out",
                f"{tmp_path}/x.safetensors",
            ]
        )
        == 0
    )
    assert "weights: online, step: unknown, FLOPs spent: 2000000000000000" in capsys.readouterr().out
    found, wanted = safetensors.numpy.load_file(tmp_path / "x.safetensors"), state()
    assert found.keys() == wanted.keys() and all(found[k].tobytes() == wanted[k].tobytes() for k in wanted)


def test_a_backbone_alone_gives_features(file, tmp_path, capsys):
    assert main(["import", str(file), *MODEL, "--out", str(tmp_path / "w")]) == 0
    assert "ignored   2: for head, which a backbone without an objective does not have" in capsys.readouterr().out
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 36), (80 * number, 20, 200)).save(tmp_path / "photos" / f"{number}.png")
    data = [f"folder:{tmp_path}/photos", f"{tmp_path}/x.npz"]
    assert main(["extract", str(tmp_path / "w"), *data, "--batch_size", "4"]) == 0
    assert np.load(tmp_path / "x.npz")["summary"].shape == (3, DIM)


def test_a_renamed_key_and_an_unknown_layout_end_with_3(tmp_path, capsys):
    values = state()
    values["blocks.2.mlp.fc1.wieght"] = values.pop("blocks.2.mlp.fc1.weight")
    path = pthlib.save(tmp_path / "x.pth", values)
    assert main(["import", str(path), *MODEL, "--out", str(tmp_path / "w")]) == 3
    text = capsys.readouterr().err
    assert "blocks.2.mlp.fc1.wieght (256, 64) in the file: no rule (did you mean 'blocks.2.mlp.fc1.weight'" in text
    assert "backbone/blocks/2/mlp/fc1/kernel (64, 256) of the model: needs blocks.2.mlp.fc1.weight" in text
    path = pthlib.save(tmp_path / "y.pth", {f"layer{i}.conv": np.zeros(3, np.float32) for i in range(5)})
    assert main(["import", str(path), *MODEL, "--out", str(tmp_path / "w")]) == 3
    text = capsys.readouterr().err
    assert "no layout that is known here" in text and "openai_clip (OpenAI CLIP" in text and "fix:" in text
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["import"], "import takes a file, --backbone and --out"),
        (["import", "x.pth", "--backbone", "vit_nano"], "import takes a file, --backbone and --out"),
        (["import", "x", "--backbone", "vit_nanno", "--out", "w"], "did you mean 'vit_nano'?"),
        (["import", "x", *MODEL, "--out", "w", "--layout", "tim"], "unknown layout 'tim' (did you mean 'timm'?)"),
        (["import", "x", *MODEL, "--out", "w", "--flops", "3 epochs"], "--flops '3 epochs' are epochs"),
        (["import", "x", *MODEL, "--out", "w", "--resize", "cubic"], "unknown resize rule 'cubic'"),
        (["import", "x", *MODEL, "--out", "w", "--dataset", "shapes", "--classes", "3"], "are two ways"),
        (["import", "x", *MODEL, "--out", "w", "--weights", "best"], "best"),
        (["export", "x", "--layout", "timm"], "export takes a run or a folder of weights, --layout and --out"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, message, file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(file.read_bytes())
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_layouts_are_listed_among_the_plugins(capsys):
    assert main(["plugins", "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["layouts", "openai_clip"] and line.endswith("ok") for line in lines)
