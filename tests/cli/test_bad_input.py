"""Wrong data, classes and protocols, through the command line: a clear error, and nothing was trained."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.accuracy import Accuracy
from spendflops_plugins.folder import Folder
from spendflops_plugins.knn import KNN
from spendflops_plugins.low_shot import LowShot
from spendflops_plugins.ridge_classification import RidgeClassification
from spendflops_plugins.segmentation import Segmentation
from spendflops_plugins.segmentation_miou import SegmentationMIoU

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from enginelib import stage

from spendflops.cli import recipe_flags
from spendflops.cli.main import main
from spendflops.engine.recipe import Evaluation, InitFrom, Recipe
from spendflops.study.grid import Study
from spendflops.study.transfers import Transfer
from spendflops.testing.samples import KitData


def photos(*classes: str) -> Folder:
    """Photographs in a folder a class."""
    return Folder(path="photos", classes=classes or None)


def street(*classes: str) -> Folder:
    """Photographs with label maps."""
    return Folder(path="street", images="images", masks="masks", mask_classes=classes or ("sky", "road", "car"))


def frozen(evaluator, dataset=None):
    """A score of the pre-trained model."""
    data = {"bank": (dataset or photos(), "train"), "query": (dataset or photos(), "test")}
    return Evaluation(evaluator=evaluator, data=data, name="frozen")


def late(dataset=None, split="val", **options):
    """The score of the stage that comes later."""
    data = {"eval": (dataset or street(), split)}
    return Evaluation(evaluator=SegmentationMIoU(**options), data=data, name="late")


class Mislabelled(KitData):
    """One label is of a class that is not there, or of none."""

    def __init__(self, *, label: int):
        super().__init__(length=24)
        self._label = label

    def source(self, split, *, features):
        inner = super().source(split, features=features)
        return [*(inner[index] for index in range(23)), {**inner[23], "label": self._label}]


def image(path, size=(16, 16), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full(size, value, np.uint8)).save(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Files in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(8):
        for split in ("train", "val"):
            image(folder / "street" / "images" / split / f"{number}.png", value=20 * number)
            image(folder / "street" / "masks" / split / f"{number}.png", value=number % 3)
        for split in ("train", "test"):
            image(folder / "photos" / split / "ab"[number % 2] / f"{number}.png", value=20 * number)
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is wrong, the exit code, and words of the message.

    Attributes:
        files: Changes the files.
        first: Options of the stage of pre-training, by default MAE.
        second: Options of the stage after it, by default segmentation.
        select: What that takes of the first one.
        scores: Of the first stage.
        score: Of the second.
    """

    code: int
    words: tuple[str, ...]
    files: Callable[[Path], Any] | None = None
    first: Callable[[], Mapping[str, Any]] = dict
    second: Callable[[], Mapping[str, Any]] = dict
    select: str = "backbone/.*"
    scores: Callable[[], tuple[Evaluation, ...]] = tuple
    score: Callable[[], Evaluation] = late


CASES = {
    "a mask of another size than its image": Case(
        files=lambda f: image(f / "street" / "masks" / "val" / "3.png", (8, 12)),
        code=3,
        words=("val/3.png", "is 12 x 8 pixels, its image 16 x 16 pixels", "street:val"),
    ),
    "the same where a later stage trains": Case(
        files=lambda f: image(f / "street" / "masks" / "train" / "3.png", (8, 12)),
        code=3,
        words=("train/3.png", "is 12 x 8 pixels", "stage 'late'"),
    ),
    "a pixel value outside the list": Case(
        files=lambda f: image(f / "street" / "masks" / "train" / "5.png", value=7),
        code=3,
        words=("train/5.png", "has the value 7"),
    ),
    "a label outside the list": Case(
        first=lambda: {"method": "supervised", "dataset": Mislabelled(label=9)},
        code=3,
        words=("example 23: label [9] of 4 classes", "stage 'first'"),
    ),
    "a scored image without a label": Case(
        scores=lambda: (frozen(KNN(k=3), Mislabelled(label=-1)),), code=3, words=("example 23: no label",)
    ),
    "pixel classes that are not those of the head": Case(
        score=lambda: late(street("sky", "road", "tree")),
        code=3,
        words=("different classes", "only one of them has tree, car"),
    ),
    "a head of other classes": Case(
        first=lambda: {"method": "supervised", "dataset": photos()},
        second=lambda: {"method": "supervised", "dataset": photos("b", "a")},
        select=".*",
        score=lambda: Evaluation(evaluator=Accuracy(), data={"eval": (photos("b", "a"), "test")}, name="late"),
        code=3,
        words=("stage 'late' takes head/bias of first, which is for other classes", "their order differs"),
    ),
    "label maps that the data do not have": Case(
        score=lambda: late(photos(), "test"), code=2, words=("segmentation_miou needs mask",)
    ),
    "an image that needs more windows than there are": Case(
        files=lambda f: [image(f / "street" / kind / "val" / "6.png", (16, 64), 1) for kind in ("images", "masks")],
        score=lambda: late(view="slide", windows=2),
        code=3,
        words=("an image of 64 x 16 pixels needs 6 windows, there are 2",),
    ),
    "an output that the objective lacks": Case(
        scores=lambda: (Evaluation(evaluator=Accuracy(), data={"eval": (photos(), "test")}, name="frozen"),),
        code=2,
        words=("needs logits; stage 'first' offers features",),
    ),
    "an empty split": Case(
        files=lambda f: [shutil.rmtree(f / "photos" / "test" / name) for name in "ab"],
        scores=lambda: (frozen(KNN(k=3)),),
        code=3,
        words=("has no images",),
    ),
    "K larger than a class": Case(
        scores=lambda: (frozen(LowShot(shots=5)),),
        code=3,
        words=("2 of 2 classes have fewer than 5 labelled images",),
    ),
    "more neighbours than examples": Case(
        scores=lambda: (frozen(KNN(k=20)),), code=3, words=("knn with k=20 has 8 bank examples",)
    ),
    "more labels than examples": Case(
        scores=lambda: (frozen(RidgeClassification(labels=9)),),
        code=3,
        words=("9 labelled examples are asked for, the bank has 8",),
    ),
    "a broken image": Case(
        files=lambda f: (f / "street" / "images" / "train" / "7.png").write_bytes(b"nothing"),
        code=3,
        words=("train/7.png", "cannot be decoded"),
    ),
    "nothing": Case(code=0, words=()),
}


def made(case, verb):
    """The recipe of a case, or its study."""
    steps = "2 steps" if case.code else "0 steps"
    first = stage(**{"name": "first", "dataset": KitData(length=24), "batch_size": 4, **case.first()})
    second = case.second() or {"objective": Segmentation, "views": Segmentation.views(), "dataset": street()}
    follows = stage(**{"name": "late", "role": "transfer", "length": steps, "batch_size": 4, **second})
    if verb == "train":
        follows = dataclasses.replace(follows, init=(InitFrom(stage="first", select=case.select),))
        scores = tuple(dataclasses.replace(score, stage="first") for score in case.scores())
        return Recipe(stages=(first, follows), evaluations=(*scores, case.score()), budget=steps)
    transfer = Transfer(stage=follows, evaluations=(case.score(),), select=case.select)
    scores = case.scores()
    return Study(
        title="Bad",
        question="What is wrong?",
        methods={"first": (first,)},
        budgets=(steps,),
        evaluations=scores,
        primary="frozen" if scores else "",
        transfers={"late": transfer},
    )


@pytest.mark.parametrize("verb", ["train", "study"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_said_before_anything_is_trained(name, verb, sound, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    if case.files:
        case.files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPENDFLOPS_CACHE", "")

    def load(known, root, base=None):
        return types.SimpleNamespace(object=made(case, verb), chosen=(), given="", operative="")

    monkeypatch.setattr(recipe_flags, "load", load)
    code = main([verb, "--gin_file", "given.gin", "--workdir", "run", "--quiet"])
    text = capsys.readouterr().err
    assert code == case.code, text
    for words in case.words:
        assert words in text, text
    spent = [*Path("run").rglob("ledger.jsonl"), *Path("run").rglob("checkpoints/*")]
    assert bool(spent) == (code == 0), spent
    assert code == 0 or "fix: " in text
