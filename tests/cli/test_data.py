"""``spendflops data``: exit codes and what is printed."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from spendflops.cli.main import main


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([i, split == "test", name == "cat"]).integers(0, 256, (20, 24, 3))
                place = tmp_path / "photos" / split / name / f"{i}.png"
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(place)
    return tmp_path / "photos"


def test_verify(photos, capsys):
    assert main(["data", "verify", "folder", str(photos)]) == 0
    assert "sound" in capsys.readouterr().out
    (photos / "train" / "cat" / "1.png").write_bytes(b"")
    assert main(["data", "verify", "folder", str(photos), "--all"]) == 3
    out = capsys.readouterr().out
    assert "1.png" in out and "NOT SOUND: 1 fault" in out
    assert main(["data", "verify", "folder", str(photos), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True


def test_show(photos, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["data", "show", f"folder:{photos}", "--split", "train", "--out", str(out)]) == 0
    assert PIL.Image.open(out).width > 200
    assert main(["data", "show", f"folder:{photos}", "--out", str(out)]) == 3
    assert "its splits are train, test" in capsys.readouterr().err
    assert main(["data", "show", f"folder:{photos}", "--split", "train", "--out", str(tmp_path / "no" / "x.png")]) == 3


def test_show_views(photos, tmp_path):
    out = tmp_path / "views.png"
    words = ["--objective", "simclr", "--backbone", "vit_ti16", "--split", "train", "--count", "2"]
    assert main(["data", "show", f"folder:{photos}", *words, "--out", str(out)]) == 0
    assert PIL.Image.open(out).size == (6 + 3 * 166, 6 + 2 * 180)
    assert main(["data", "show", f"folder:{photos}", "--objective", "simclr"]) == 2


def test_prepare(photos, tmp_path, capsys):
    out = tmp_path / "prepared"
    assert main(["data", "prepare", "folder", str(photos), str(out)]) == 0
    assert "train: 6 examples" in capsys.readouterr().out
    assert main(["data", "verify", "arrayrecord", str(out), "--all"]) == 0
    shutil.rmtree(photos / "test")
    shutil.move(photos / "train", tmp_path / "flat")
    assert main(["data", "prepare", "folder", str(tmp_path / "flat"), str(tmp_path / "other")]) == 0
    assert "all: 6 examples" in capsys.readouterr().out
    assert main(["data", "prepare", "folder", str(tmp_path / "none"), str(tmp_path / "third")]) == 3


def test_overlap(photos, capsys):
    (photos / "test" / "cat" / "copy.png").write_bytes((photos / "train" / "dog" / "2.png").read_bytes())
    assert main(["data", "overlap", f"folder:{photos}@train", f"folder:{photos}@test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["images"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a verb"),
        (["verfy", "folder"], "did you mean 'verify'"),
        (["verify"], "takes NAME"),
        (["verify", "folder"], "needs path"),
        (["verify", "fodler", "x"], "did you mean 'folder'"),
        (["verify", "folder", "x", "--option", "chekc=1"], "did you mean 'check'"),
        (["verify", "shapes", "x"], "no option 'path'"),
        (["prepare", "folder"], "takes NAME PATH OUT"),
        (["overlap", "shapes"], "takes NAME"),
    ],
)
def test_mistakes(words, said, capsys):
    assert main(["data", *words]) == 2
    assert said in capsys.readouterr().err
