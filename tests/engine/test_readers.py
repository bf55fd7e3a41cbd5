"""Hosts, processes and broken examples: the batches stay a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import json
import pickle
import threading

import numpy as np
import pytest
from enginelib import recipe, stage

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.objective import Views
from spendflops.contracts.types import InputSpec
from spendflops.engine import data, skips
from spendflops.engine.loop import run_recipe
from spendflops.parts.images import EncodedImage
from spendflops.testing.samples import KitData

SPEC = InputSpec(size=(4, 4), stride=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)


class Numbers:
    """Samples that know their place; those in ``broken`` cannot be read."""

    def __init__(self, length, broken=()):
        self.length, self.broken, self.reads = length, frozenset(broken), []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise DataError(f"image {index}.jpg cannot be decoded", why="its bytes are not an image")
        return {"index": index}


@dataclasses.dataclass(frozen=True)
class Drawn(Views):
    def __call__(self, sample, rng, spec):
        return {"index": np.int32(sample["index"]), "noise": rng.random(3)}


@dataclasses.dataclass(frozen=True)
class Plain(Preprocess):
    def __call__(self, sample):
        return {"index": np.int32(sample["index"])}


def batches(source, size=8, **options):
    return data.Batches(source, Drawn(), spec=SPEC, batch_size=size, seed=3, **options)


def read(given, first, last):
    with given.read(first, last) as reader:
        return list(reader)


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_read_their_rows_of_the_same_batches_and_no_others(hosts):
    whole = read(batches(Numbers(13)), 2, 7)
    shares, seen = [], []
    for host in range(hosts):
        source = Numbers(13)
        shares.append(read(batches(source, host=host, hosts=hosts), 2, 7))
        seen.append(source.reads)
    joined = [{k: np.concatenate([s[i][k] for s in shares]) for k in whole[0]} for i in range(5)]
    assert equal(joined, whole)
    assert [len(reads) for reads in seen] == [5 * 8 // hosts] * hosts


@pytest.mark.parametrize("length", [1, 2, 13, 64])
@pytest.mark.parametrize("small", [True, False])
def test_every_epoch_has_all_examples_in_an_order_of_its_own(length, small, monkeypatch):
    monkeypatch.setattr(data, "SMALL", data.SMALL if small else 0)
    epochs = 4
    given = data.Batches(Numbers(length), Drawn(), spec=SPEC, batch_size=length, seed=3)
    orders = [batch["index"].tolist() for batch in read(given, 0, epochs)]
    assert [sorted(order) for order in orders] == [list(range(length))] * epochs
    if length > 2:
        other = data.Batches(Numbers(length), Drawn(), spec=SPEC, batch_size=length, seed=400)
        orders += [batch["index"].tolist() for batch in read(other, 0, epochs)]
        assert len({tuple(order) for order in orders}) == 2 * epochs


def test_the_order_of_small_sets_is_the_documented_permutation():
    (batch,) = read(data.Batches(Numbers(13), Drawn(), spec=SPEC, batch_size=13, seed=3), 2, 3)
    words = np.random.Philox(key=(2 << 64) + 3).random_raw(13)
    assert batch["index"].tolist() == np.argsort(words).tolist()


def test_more_examples_than_grain_can_shuffle():
    with pytest.raises(DataError, match="more than the 4,294,967,296"):
        batches(Numbers(2**32))


def test_a_batch_that_hosts_cannot_share():
    with pytest.raises(ConfigError, match="3 hosts"):
        batches(Numbers(13), hosts=3)


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_pieces_of_batches_for_many_threads_are_the_same_batches(threads, monkeypatch):
    whole = [batches(Numbers(13))[i] for i in range(6)]
    monkeypatch.setenv("SPENDFLOPS_THREADS", str(threads))
    assert equal(read(batches(Numbers(13)), 0, 6), whole)


def test_processes_give_the_same_batches(monkeypatch):
    given = data.Batches(Numbers(13), Drawn(), spec=SPEC, batch_size=8, seed=3)
    whole = read(given, 1, 6)
    monkeypatch.setenv("SPENDFLOPS_WORKERS", "2")
    monkeypatch.setenv("SPENDFLOPS_THREADS", "1")
    assert equal(read(given, 1, 6), whole)


@pytest.mark.parametrize(
    ("rows", "count", "pieces"), [(8, 1, 1), (8, 4, 1), (8, 5, 2), (8, 40, 8), (6, 20, 6), (7, 9, 7)]
)
def test_a_batch_is_read_in_pieces_where_there_are_many_readers(rows, count, pieces):
    assert data._pieces(rows, count) == pieces


@pytest.mark.parametrize("threads", [1, 2, 12])
def test_few_batches_are_held_however_slow_the_model_is(threads, monkeypatch):
    monkeypatch.setenv("SPENDFLOPS_THREADS", str(threads))
    source = Numbers(1000)
    with batches(source).read(0, 100) as reader:
        next(reader)
        before = threading.Event()
        before.wait(0.3)
        assert len(source.reads) <= (data.AHEAD + 2) * 8


@pytest.mark.parametrize(
    ("name", "text"), [("SPENDFLOPS_WORKERS", "-1"), ("SPENDFLOPS_THREADS", "0"), ("SPENDFLOPS_THREADS", "two")]
)
def test_numbers_of_readers_that_are_none(name, text, monkeypatch):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=name):
        data.readers()


@pytest.mark.parametrize(("cores", "processes", "threads"), [(1, 0, 1), (2, 0, 2), (16, 0, 16), (64, 8, 8)])
def test_readers_of_a_machine(cores, processes, threads, monkeypatch):
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert data.readers() == data.Readers(processes=processes, threads=threads)


def test_a_broken_example_is_replaced_and_named_once():
    source = Numbers(10, broken=[4, 7])
    skipped = skips.Skipped(source, limit=2)
    found = read(batches(source, skipped=skipped), 0, 10)
    assert set(skipped.found) == {4, 7} and "image 4.jpg" in skipped.found[4]
    assert not {4, 7} & {int(i) for b in found for i in b["index"]}
    assert set(found[0]) == {"index", "noise"}
    # The others are where they would be without it, and the replacements are the same at every repetition.
    sound = read(batches(Numbers(10)), 0, 10)
    kept = [~np.isin(s["index"], [4, 7]) for s in sound]
    assert all(np.array_equal(f["noise"][k], s["noise"][k]) for f, s, k in zip(found, sound, kept, strict=True))
    again = Numbers(10, broken=[4, 7])
    assert equal(read(batches(again, skipped=skips.Skipped(again, limit=2), host=0, hosts=1), 5, 10), found[5:])


def test_more_broken_examples_than_allowed():
    source = Numbers(10, broken=[4, 7])
    with pytest.raises(DataError, match="2 of 10 examples are broken, 1 may be"):
        read(batches(source, skipped=skips.Skipped(source, limit=1)), 0, 10)
    skipped = skips.Skipped(source, limit=1, known={9: "from an earlier attempt"})
    with pytest.raises(DataError, match="earlier attempt"):
        read(batches(source, skipped=skipped), 0, 10)


def test_the_limit_of_several_hosts_is_that_of_all_and_ends_all_alike():
    source = Numbers(10, broken=[4, 7])
    parts = [skips.Skipped(source, limit=1, shared=True) for _ in range(2)]
    for part, index in zip(parts, (4, 7), strict=True):
        part.note(np.array([-1, index, -1]))
    union = lambda values, most: sorted(index for part in parts for index in part.found)[:most]  # noqa: E731
    for part in parts:
        with pytest.raises(DataError, match="2 of 10 examples are broken, 1 may be"):
            part.agree(union)
    # What one has met is an error when all look at it, and not before: the others would wait for it.
    alone = skips.Skipped(source, limit=0, shared=True)
    alone.note(np.array([4]))
    with pytest.raises(DataError, match="1 of 10 examples are broken, 0 may be"):
        alone.agree(lambda values, most: sorted(values)[:most])


def test_nothing_but_broken_examples():
    source = Numbers(5, broken=range(5))
    with pytest.raises(DataError, match="should replace"):
        read(batches(source, skipped=skips.Skipped(source, limit=100)), 0, 1)


def test_a_broken_evaluation_example_does_not_count():
    source = Numbers(7, broken=[2])
    skipped = skips.Skipped(source, limit=1)
    found = list(data.padded(source, Plain(), batch_size=3, skipped=skipped))
    assert [b["_mask"].tolist() for b in found] == [[True, True, False], [True] * 3, [True, False, False]]
    assert found[0]["index"].shape == (3,) and set(skipped.found) == {2}
    with pytest.raises(DataError, match=r"image 2\.jpg"):
        list(data.padded(source, Plain(), batch_size=3))


class Damaged(KitData):
    """The kit's data with two images that cannot be decoded."""

    def source(self, split, *, features):
        return _Damaged(super().source(split, features=features))


class _Damaged:
    left_out = {"a box without area": 1_002, "a category_id that is not in the file": 0}  # noqa: RUF012

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        return {**sample, "image": EncodedImage(b"nothing", name=f"{index}.jpg")} if index in (3, 5) else sample


def test_a_run_skips_what_it_may_and_says_so(tmp_path, capsys):
    result = run_recipe(recipe(stage(dataset=Damaged(), skip_broken=2), budget="12 steps"), tmp_path)
    assert result["stages"][0]["skipped"] == 2
    kept = json.loads((tmp_path / "logs" / f"skipped-{result['stages'][0]['name']}.json").read_text())
    assert set(kept) == {"3", "5"} and "3.jpg" in kept["3"]
    said = capsys.readouterr().err
    assert "skipped, 2 of at most 2" in said
    assert "left out 1,002: a box without area" in said and "a category_id" not in said
    with pytest.raises(DataError, match=r"3\.jpg|5\.jpg"):
        run_recipe(recipe(stage(dataset=Damaged()), budget="12 steps"), tmp_path / "strict", quiet=True)


def test_the_pipeline_can_be_sent_to_another_process():
    example = data._Example(Numbers(4), data._Make(Drawn(), SPEC), False)
    assert pickle.loads(pickle.dumps(example)).source.length == 4
