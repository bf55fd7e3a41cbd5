"""What an evaluator keeps on the host, makes compact as it streams, and writes beside its score."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from enginelib import VIT, knn, recipe, stage
from spendflops_plugins.knn import KNN

from spendflops.contracts.errors import ConfigError, DataError, PluginError
from spendflops.contracts.evaluator import Evaluator, Preprocess
from spendflops.engine import data, evaluate
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import Evaluation, Probe
from spendflops.testing.samples import KitData, KitSource

LENGTH = 21


class Holed(KitSource):
    """Two examples are broken."""

    def __getitem__(self, index):
        if index in (3, 20):
            raise DataError(f"example {index} cannot be read")
        return super().__getitem__(index)


class HoledData(KitData):
    def source(self, split, *, features):
        return Holed(split, LENGTH, tuple(features))


@dataclasses.dataclass(frozen=True)
class Captioned(Preprocess):
    """An image for the model; its caption, and as many numbers as it has characters, for the host."""

    size: tuple[int, int]

    @property
    def features(self):
        return ("image", "caption")

    @property
    def entries(self):
        return {"image": ("uint8", (*self.size, 3))}

    @property
    def kept(self):
        return ("caption", "numbers", "nothing")

    def __call__(self, sample):
        caption = sample["caption"]
        image = sample["image"].decode()[: self.size[0], : self.size[1]]
        return {"image": image, "caption": {"text": caption}, "numbers": np.arange(len(caption)), "nothing": None}


class Captions(Evaluator):
    """Scores nothing: remembers what it was given."""

    primary = "examples"
    protocol = "captions/1"
    names = ("captions.json", "example_0.txt")

    def preprocess(self, *, role, info, spec):
        return Captioned(spec.size)

    def step(self, predictions, batch, ctx):
        self.batch = sorted(batch)
        return {"rows": {"sum": batch["image"].astype(np.int32).sum(axis=(1, 2, 3)), "wide": batch["image"]}}

    def compact(self, role, rows):
        assert len({len(x) for x in rows.values()}) == 1
        self.sizes = [*getattr(self, "sizes", []), len(rows["wide"])]
        return {name: value for name, value in rows.items() if name != "wide"}

    def result(self, merged, rows, *, info):
        self.rows = rows["eval"]
        return {"examples": len(self.rows["sum"])}

    def files(self, rows, *, info, opened):
        first = opened("eval", ("caption",))[int(rows["eval"]["_index"][-1])]
        contents = {"last": first["caption"], "of": info.name}
        return dict(zip(self.names, (json.dumps(contents).encode(), b"\x00\xff"), strict=False))


def evaluation(evaluator, **changes):
    given = {"evaluator": evaluator, "data": {"eval": (KitData(length=LENGTH), "test")}, "batch_size": 8, **changes}
    return Evaluation(**given)


def run(folder, *evaluations, **changes):
    wanted = recipe(stage(backbone=VIT), evaluations=evaluations, **{"budget": "0 steps", **changes})
    return run_recipe(wanted, folder, quiet=True)


def wanted(source, places):
    """What the rows must hold, read from the samples."""
    samples = [source[i] for i in places]
    return [int(s["image"].decode()[:16, :16].sum(dtype=np.int64)) for s in samples], [s["caption"] for s in samples]


def check_rows(rows, source, places):
    assert set(rows) == {"sum", "caption", "numbers", "nothing", "_index"}
    sums, captions = wanted(source, places)
    assert rows["_index"].dtype == np.int64 and rows["_index"].tolist() == list(places)
    assert rows["sum"].tolist() == sums
    assert rows["caption"].dtype == object and [c["text"] for c in rows["caption"]] == captions
    assert [x.tolist() for x in rows["numbers"]] == [list(range(len(c))) for c in captions]
    assert rows["nothing"].tolist() == [None] * len(places)


def test_what_is_kept_comes_back_in_step_with_the_predictions(tmp_path):
    evaluator = Captions()
    run(tmp_path / "run", evaluation(evaluator))
    check_rows(evaluator.rows, KitSource("test", LENGTH, ("image", "caption")), range(LENGTH))
    assert evaluator.batch == ["_mask", "image"]
    # Batches of 8, the last one without its padding.
    assert evaluator.sizes == [8, 8, 5]


def test_broken_examples_are_missing_from_all_rows_alike(tmp_path):
    evaluator, holed = Captions(), {"eval": (HoledData(length=LENGTH), "test")}
    result = run(tmp_path / "run", evaluation(evaluator, data=holed, skip_broken=2))
    places = [i for i in range(LENGTH) if i not in (3, 20)]
    check_rows(evaluator.rows, Holed("test", LENGTH, ("image", "caption")), places)
    assert result["scores"][0]["skipped"] == {"eval": 2}


def test_every_evaluator_gets_the_places_of_its_rows(tmp_path, monkeypatch):
    seen, evaluator = {}, knn(data={"bank": (KitData(), "train"), "query": (KitData(), "test[:40]")})
    real = type(evaluator.evaluator).result

    def result(self, merged, rows, *, info):
        seen.update({role: named["_index"].tolist() for role, named in rows.items()})
        return real(self, merged, rows, info=info)

    monkeypatch.setattr(type(evaluator.evaluator), "result", result)
    run(tmp_path / "run", evaluator)
    # Of a part of a split: places in what is read, not in the whole.
    assert seen == {"bank": list(range(48)), "query": list(range(40))}


def test_files_lie_in_the_run_and_the_result_names_them(tmp_path):
    result = run(tmp_path / "run", evaluation(Captions(), name="said"), knn(evaluator=KNN(k=3, pictures=0)))
    said, other = result["scores"]
    assert said["files"] == ["captions.json", "example_0.txt"] and other["files"] == []
    folder = tmp_path / "run" / "evaluations"
    assert sorted(p.name for p in folder.rglob("*")) == ["captions.json", "example_0.txt", "said"]
    last = KitSource("test", LENGTH, ("caption",))[LENGTH - 1]["caption"]
    assert json.loads((folder / "said" / "captions.json").read_text()) == {"last": last, "of": "kit"}
    assert (folder / "said" / "example_0.txt").read_bytes() == b"\x00\xff"
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_a_probe_keeps_no_files(tmp_path):
    probe = Probe(evaluation=evaluation(Captions()), every=0.5)
    result = run(tmp_path / "run", probes=(probe,), budget="2 steps")
    assert [row["values"] for row in result["probes"]] == [{"examples": LENGTH}]
    assert "files" not in result["probes"][0] and not (tmp_path / "run" / "evaluations").exists()


@pytest.mark.parametrize("name", ["../result.json", "a/b.json", "..", "/tmp/x", ""])
def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path, name):
    evaluator = Captions()
    evaluator.names = (name,)
    with pytest.raises(PluginError, match="keeps the file"):
        run(tmp_path / "run", evaluation(evaluator))


@pytest.mark.parametrize("name", ["a/b", "..", "/tmp"])
def test_an_evaluation_whose_name_is_a_path_is_refused(name):
    with pytest.raises(ConfigError, match="a path for a name"):
        evaluation(Captions(), name=name)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    evaluate.keep({"a": b"old"}, tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(DataError, match="cannot write"):
        evaluate.keep({"a": b"new"}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_row_under_the_name_of_a_kept_one_is_refused(tmp_path):
    class Twice(Captions):
        def step(self, predictions, batch, ctx):
            return {"rows": {"caption": batch["image"]}}

    with pytest.raises(PluginError, match="gives the row 'caption'"):
        run(tmp_path / "run", evaluation(Twice()))


def test_evaluations_of_one_pass_share_what_is_kept(tmp_path, monkeypatch):
    passes, one, two = [], Captions(), Captions()
    real = data.padded
    monkeypatch.setattr(data, "padded", lambda *args, **given: passes.append(1) or real(*args, **given))
    run(tmp_path / "run", evaluation(one, name="one"), evaluation(two, name="two"))
    assert len(passes) == 1 and one.rows["caption"].tolist() == two.rows["caption"].tolist()
