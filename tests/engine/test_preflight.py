"""What is looked at before a run spends anything: how much of a split, once for all, and what runs start from."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from enginelib import METHODS, knn, recipe, stage
from spendflops_plugins.segmentation import Segmentation
from spendflops_plugins.supervised import SupervisedViews

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.engine import preflight
from spendflops.engine.build import build
from spendflops.engine.convert import export
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom
from spendflops.parts.images import ArrayImage
from spendflops.testing.samples import KitData


class Stored:
    """A label map whose size is known from its header, which notes when it is decoded."""

    def __init__(self, owner, index):
        self._owner, self._index = owner, index

    @property
    def size(self):
        return (8, 8) if self._index in self._owner.small else (16, 16)

    def decode_mask(self):
        self._owner.decoded.append(self._index)
        value = 9 if self._index in self._owner.wrong else 0
        return np.full(self.size, value, np.uint8)


class Maps(Dataset):
    """Images with label maps, some of which are wrong."""

    def __init__(self, *, length: int = 100, small: tuple = (), wrong: tuple = (), stored: bool = True):
        self.length, self.small, self.wrong, self.stored = length, set(small), set(wrong), stored
        self.decoded, self.read = [], []
        features = {"image": "uint8 H W C", "mask": "uint8 H W"}
        self.info = DatasetInfo(name="maps", features=features, mask_classes=("a", "b"), sizes={"train": length})

    def source(self, split, *, features):
        return self

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        mask = Stored(self, index)
        image = ArrayImage(np.zeros((16, 16, 3), np.uint8))
        return {"image": image, "mask": mask if self.stored else mask.decode_mask()}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Small numbers in the place of the large ones: 2 runs of 4 are looked at, 4 examples made, 50 headers read."""
    for name, value in {"LOOKED": 8, "RUN": 4, "MADE": 4, "SIZES": 50}.items():
        monkeypatch.setattr(preflight, name, value)


def check(data, **changes):
    options = {"objective": Segmentation, "views": Segmentation.views(), "dataset": data, **changes}
    preflight.check_data(build(recipe(stage(**options), evaluations=())))


def test_how_much_of_a_large_split_is_looked_at():
    data = Maps()
    check(data)
    # Examples that are made are read by the views, too.
    assert set(data.decoded) == {0, 1, 2, 3, 96, 97, 98, 99}
    assert len(set(data.read)) >= 50 and max(np.diff(sorted(set(data.read)))) <= 3
    # A split that is not larger is looked at as a whole.
    data = Maps(length=8)
    check(data)
    assert set(data.decoded) == set(range(8))


def test_a_size_is_found_by_its_header_where_nothing_is_decoded():
    data = Maps(small=tuple(range(40, 45)))
    with pytest.raises(DataError, match="a mask of 8 x 8 pixels for an image of 16 x 16") as caught:
        check(data)
    assert "maps:train" in caught.value.what and "stage 'segmentation' reads them" in caught.value.why
    assert not {*range(40, 45)} & {*data.decoded}
    # What is no stored file costs as much to look at as to read: it is looked at in the runs alone.
    data = Maps(small=tuple(range(40, 45)), stored=False)
    check(data)
    assert set(data.read) == {0, 1, 2, 3, 96, 97, 98, 99}


def test_values_are_found_in_the_runs_alone():
    with pytest.raises(DataError, match="example 97: mask value 9 of 2 classes"):
        check(Maps(wrong=[97]))
    check(Maps(wrong=[50]))


def test_as_many_faults_as_may_be_skipped_are_no_error():
    check(Maps(wrong=[1, 2], small=[41]), skip_broken=3)
    with pytest.raises(DataError, match=r"3 of 5\d examples that were looked at are wrong, 2 may be"):
        check(Maps(wrong=[1, 2], small=(40, 41)), skip_broken=2)


class Counted(KitData):
    """Notes how often it is opened."""

    opened: list = []  # noqa: RUF012

    def source(self, split, *, features):
        self.opened.append((split, features))
        return super().source(split, features=features)


def test_recipes_that_read_the_same_are_looked_at_once():
    Counted.opened.clear()
    data = {"bank": (Counted(), "train"), "query": (Counted(), "test")}
    same = [build(recipe(stage(dataset=Counted()), evaluations=(knn(data=data),), seed=seed)) for seed in (0, 1)]
    preflight.check_data(*same)
    # Of the stage and of both roles, and the bank once more to count it.
    assert len(Counted.opened) == 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong(SupervisedViews):
    """Views that give another size than they said."""

    def __call__(self, sample, rng, spec):
        made = super().__call__(sample, rng, spec)
        return {**made, "image": made["image"][:8]}


def test_views_of_a_later_stage_are_tried(tmp_path):
    late = stage("supervised", share=0.5, views=Wrong(crop="none"))
    with pytest.raises(ConfigError, match=r"stage 'supervised': input 'image' is uint8\[1, 8, 16, 3\], declared"):
        run_recipe(recipe(stage(share=0.5), late), tmp_path, quiet=True)
    assert not (tmp_path / "ledger.jsonl").exists()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    run_recipe(recipe(stage("supervised"), budget="0 steps"), folder, quiet=True)
    return folder


def turned(dataset=None):
    """The kit's data with its classes in another order."""
    data = dataset or KitData()
    data.info = dataclasses.replace(data.info, classes=tuple(reversed(data.info.classes)))
    return data


def start(folder, data, init, tmp_path):
    late = stage("supervised", dataset=data, role="transfer", length="0", init=(init,))
    return run_recipe(recipe(stage(), late, budget="2 steps"), tmp_path / "new", quiet=True)


def test_runs_that_a_later_stage_starts_from_are_looked_at_first(classifier, tmp_path):
    for init, data, words in (
        (InitFrom(run="nowhere"), KitData(), "nowhere is not a finished run"),
        (InitFrom(run=str(classifier), select=".*"), turned(), "takes head/bias of .*, which is for other classes"),
    ):
        with pytest.raises(DataError, match=words):
            start(classifier, data, init, tmp_path)
        assert not (tmp_path / "new" / "ledger.jsonl").exists()
    wide = functools.partial(METHODS["supervised"], head_init="trunc_normal")
    late = stage(objective=wide, backbone=functools.partial(stage().backbone, dim=32), role="transfer", length="0",
                 views=SupervisedViews(crop="none"), name="late", init=(InitFrom(run=str(classifier)),))  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be taken from the earlier stage"):
        run_recipe(recipe(stage(), late, budget="2 steps"), tmp_path / "wide", quiet=True)
    assert not (tmp_path / "wide" / "ledger.jsonl").exists()


def test_a_head_is_taken_where_its_classes_are_the_same_or_unknown_and_left_where_it_is_not_asked_for(
    classifier, tmp_path
):
    head = InitFrom(run=str(classifier), select=".*")
    for init, data in ((head, KitData()), (dataclasses.replace(head, select="backbone/.*"), turned())):
        late = stage("supervised", dataset=data, role="transfer", length="0", init=(init,))
        preflight.check_starts(build(recipe(late, budget=None)), tmp_path)
    # Imported weights say how many classes there are, not which.
    export(load(classifier), using="spendflops", out=tmp_path / "weights")
    path = tmp_path / "weights" / "config.json"
    late = stage("supervised", dataset=turned(), role="transfer", length="0")
    late = dataclasses.replace(late, init=(InitFrom(weights=str(tmp_path / "weights"), select=".*"),))
    with pytest.raises(DataError, match="which is for other classes"):
        build(recipe(late, budget=None))
    path.write_text(path.read_text().replace('"name": "kit"', '"name": "unknown"'))
    assert build(recipe(late, budget=None))
