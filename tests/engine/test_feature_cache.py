"""Outputs that are kept across runs: found where all that decides them is the same, and the scores never differ."""

from __future__ import annotations

import dataclasses
import json
import os
import threading

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enginelib import knn, outcome, python, recipe, rows, write_gin
from spendflops_plugins.folder import Folder
from spendflops_plugins.knn import KNN

from spendflops.cli.main import main
from spendflops.engine import evaluate, feature_cache, sharding
from spendflops.engine.build import build, open_source
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.loop import run_recipe
from spendflops.engine.program import Program
from spendflops.engine.recipe import Evaluation
from spendflops.engine.rundir import RunDir


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(folder=tmp_path / "features")


def wanted(**changes):
    """A recipe of no step and one evaluation of two passes, of two batches each."""
    return recipe(**{"budget": "0 steps", "evaluations": (knn(),), **changes})


TRAINED = {"budget": "2 steps"}


def found(folder):
    """(calls, calls that were not run) of the passes of a run."""
    return [(r["calls"], r["cached"]) for r in rows(folder / "ledger.jsonl") if r["role"] == "evaluate"]


def kept(cache):
    return sorted(p for p in cache.folder.rglob("*") if p.is_file())


def test_a_second_run_finds_what_the_first_has_computed_and_says_what_it_cost(cache, tmp_path, capsys):
    first = run_recipe(wanted(**TRAINED), tmp_path / "first", features=cache)
    assert first["flops"]["cached"] == 0 and found(tmp_path / "first") == [(2, 0), (2, 0)]
    assert "computed before" not in capsys.readouterr().err
    second = run_recipe(wanted(**TRAINED), tmp_path / "second", features=cache)
    assert found(tmp_path / "second") == [(2, 2), (2, 2)] and len(kept(cache)) == 4
    assert second["flops"]["cached"] == second["flops"]["evaluate"] == first["flops"]["evaluate"] > 0
    assert capsys.readouterr().err.count("2 of 2 batches were computed before, and are not again") == 2
    # Scores, ledger and all that a run must reproduce are those of a run that has no cache.
    run_recipe(wanted(**TRAINED), tmp_path / "without", quiet=True)
    assert outcome(tmp_path / "second") == outcome(tmp_path / "first") == outcome(tmp_path / "without")


def passes(prediction, params, cache=None):
    """All outputs of a pass, as bytes."""
    source = open_source(prediction.dataset, prediction.split, prediction.preprocess.features)
    program = prediction.program
    shelf = cache and cache.shelf(program, params, {}, calls=prediction.calls)
    given = [jax.tree.leaves(out) for out, *_ in evaluate.predict(prediction, source, params, {}, shelf=shelf)]
    return [(x.dtype.name, x.shape, np.asarray(x).tobytes()) for leaves in given for x in leaves], shelf


def test_what_is_found_is_what_would_be_computed_bit_for_bit(cache):
    built = build(wanted())
    state = built.stages[0].init.compile()(jax.random.key(0))
    prediction = built.predictions[0]
    plain, none = passes(prediction, state["params"])
    assert none is None
    for times in (0, 2):
        given, shelf = passes(prediction, state["params"], cache)
        assert given == plain and shelf.found == times
    # Any parameter counts, be it the last bit of one that the features do not read.
    changed = jax.tree.map(lambda x: x, state["params"])
    token = np.array(changed["decoder"]["mask_token"])
    token.flat[0] = np.nextafter(token.flat[0], np.float32(1))
    changed["decoder"]["mask_token"] = token
    assert passes(prediction, changed, cache)[1].found == 0


def test_dtypes_that_numpy_does_not_know(cache):
    def fn(params, stats, batch):
        return {"half": batch["x"].astype(jnp.bfloat16) * params, "count": (batch["x"] > 0).sum(), "no": batch["x"] > 1}

    floats = jax.ShapeDtypeStruct((3,), np.float32)
    program = Program(name="p", fn=fn, args=(jax.ShapeDtypeStruct((), jnp.bfloat16), {}, {"x": floats}), examples=3)
    batch = {"x": np.array([1.0, 2.0, 3.14], np.float32)}
    shelf = cache.shelf(program, jnp.bfloat16(0.5), {}, calls=1)

    def run(given):
        return jax.device_get(jax.jit(fn)(jnp.bfloat16(0.5), {}, given))

    first, second = shelf.outputs(batch, run), shelf.outputs(batch, lambda given: 1 / 0)
    assert shelf.found == 1 and second["half"].dtype == jnp.bfloat16 and second["count"].shape == ()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_settings_of_the_host_are_free_and_those_of_the_device_are_not(cache, tmp_path):
    run_recipe(wanted(), tmp_path / "first", quiet=True, features=cache)
    for name, changes, expected in (
        ("k", {"evaluator": KNN(k=5, temperature=0.1)}, 2),
        ("feature", {"evaluator": KNN(k=3, feature="mean_tokens")}, 0),
        ("batch", {"batch_size": 16}, 0),
    ):
        run_recipe(wanted(evaluations=(knn(**changes),)), tmp_path / name, quiet=True, features=cache)
        assert {hits for _, hits in found(tmp_path / name)} == {expected}, name


def test_other_weights_other_versions_and_another_processor_find_nothing(cache, tmp_path, monkeypatch):
    run_recipe(wanted(), tmp_path / "first", quiet=True, features=cache)
    run_recipe(wanted(seed=1), tmp_path / "seed", quiet=True, features=cache)
    assert {hits for _, hits in found(tmp_path / "seed")} == {0}
    monkeypatch.setattr(feature_cache, "where", lambda: "another machine")
    run_recipe(wanted(), tmp_path / "elsewhere", quiet=True, features=cache)
    assert {hits for _, hits in found(tmp_path / "elsewhere")} == {0}


def test_what_is_asked_of_a_machine():
    said = feature_cache.where()
    assert jax.__version__ in said and jax.devices()[0].device_kind in said and str(os.cpu_count()) in said


def test_constants_are_part_of_a_program_and_its_digest_is_that_of_every_process():
    def made(table):
        array = jnp.asarray(table)
        struct = jax.ShapeDtypeStruct((5000,), np.float32)
        return Program(name="p", fn=lambda x: x @ array, args=(struct,), examples=1).digest

    table = np.arange(5000, dtype=np.float32)
    other = table.copy()
    other[4321] = np.nextafter(other[4321], np.float32(0))
    assert made(table) == made(table) != made(other)
    text = "import json, test_feature_cache as t\nfrom spendflops.engine.build import build\n"
    text += "print(json.dumps([p.program.digest for p in build(t.wanted()).predictions]))"
    here = [p.program.digest for p in build(wanted()).predictions]
    assert python(text, PYTHONHASHSEED="7") == here and len(set(here)) == 1  # both splits have one program


def test_an_image_that_changes_in_place_is_seen_whatever_its_file_says(cache, tmp_path):
    for split in ("train", "test"):
        for number in range(40):
            path = tmp_path / "photos" / split / "ab"[number % 2] / f"{number:02}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((16, 16, 3), number, np.uint8))
    photos = Folder(path=str(tmp_path / "photos"))
    data = {"bank": (photos, "train"), "query": (photos, "test")}
    scored = wanted(evaluations=(Evaluation(evaluator=KNN(k=3), data=data, batch_size=16),))
    run_recipe(scored, tmp_path / "first", quiet=True, features=cache)
    before = path.stat()
    cv2.imwrite(str(path), np.full((16, 16, 3), 200, np.uint8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    run_recipe(scored, tmp_path / "second", quiet=True, features=cache)
    # Of the three batches of the test images it is in one.
    assert found(tmp_path / "second") == [(3, 3), (3, 2)]


DAMAGE = {
    "a byte is flipped": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "its hash is flipped": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "it is cut": lambda raw: raw[: len(raw) // 2],
    "it is empty": lambda raw: b"",
    "it is of another shape": lambda raw: feature_cache._hash(raw[20:-4]) + raw[20:-4],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_computed_again_and_repaired(damage, cache, tmp_path):
    first = run_recipe(wanted(), tmp_path / "first", quiet=True, features=cache)
    victim = kept(cache)[1]
    whole = victim.read_bytes()
    victim.write_bytes(DAMAGE[damage](whole))
    result = run_recipe(wanted(), tmp_path / "second", quiet=True, features=cache)
    assert sum(hits for _, hits in found(tmp_path / "second")) == 3 and victim.read_bytes() == whole
    assert result["scores"] == first["scores"]
    assert result["flops"]["cached"] * 4 == result["flops"]["evaluate"] * 3


def test_what_was_not_used_for_longest_goes_first_and_the_limit_holds(cache):
    small = dataclasses.replace(cache, limit=3 * 120)
    for number in range(5):
        small.write(f"{number}" * 40, bytes(100))
        os.utime(small._path(f"{number}" * 40), (number, number))
    (small.folder / "00" / "tmp123").write_bytes(bytes(500))
    os.utime(small.folder / "00" / "tmp123", (0, 0))
    assert small.read("1" * 40) == bytes(100)  # used just now
    small.trim()
    assert [path.name[0] for path in kept(small)] == ["1", "3", "4"]


def test_a_run_trims(cache, tmp_path):
    cache.write("0" * 40, bytes(10**6))
    run_recipe(wanted(), tmp_path, quiet=True, features=dataclasses.replace(cache, limit=10**6))
    assert len(kept(cache)) == 4 and cache.read("0" * 40) is None


def test_a_pass_that_would_drive_out_all_others_is_not_kept(cache, tmp_path):
    program, calls = build(wanted()).predictions[0].program, 2
    size = calls * 32 * (16 * 4 + 4)  # features of 16 floats and a label
    assert dataclasses.replace(cache, limit=4 * size).shelf(program, {}, {}, calls=calls) is not None
    tight = dataclasses.replace(cache, limit=4 * size - 1)
    assert tight.shelf(program, {}, {}, calls=calls) is None
    run_recipe(wanted(), tmp_path, quiet=True, features=tight)
    assert kept(cache) == [] and found(tmp_path) == [(2, 0), (2, 0)]


def test_several_processes_on_the_same_devices_keep_nothing(cache, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert cache.shelf(build(wanted()).predictions[0].program, {}, {}, calls=1) is None


def test_a_folder_that_cannot_be_written_costs_no_score(cache, tmp_path, capsys):
    cache.folder.parent.mkdir(exist_ok=True)
    cache.folder.write_text("a file")
    assert run_recipe(wanted(), tmp_path / "run", features=cache)["scores"]
    assert capsys.readouterr().err.count(f"nothing more is kept in {cache.folder}: ") == 2


def test_writers_and_readers_at_one_time_see_whole_files_only(cache):
    contents, seen, stop = [bytes([n]) * 200_000 for n in range(3)], set(), threading.Event()

    def write(content):
        while not stop.is_set():
            cache.write("a" * 40, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    cache.write("a" * 40, contents[0])
    for writer in writers:
        writer.start()
    for _ in range(200):
        seen.add(cache.read("a" * 40))
    stop.set()
    for writer in writers:
        writer.join()
    assert seen <= set(contents) and [path.name for path in kept(cache)] == ["a" * 40]


def test_after_an_interruption_nothing_is_computed_again_or_wasted(cache, tmp_path, monkeypatch):
    run_recipe(wanted(**TRAINED), tmp_path / "whole", quiet=True)
    place, calls = sharding.place, []

    def interrupted(tree, like):
        # The third batch of the evaluation: the first pass is in the ledger, the second is not.
        if isinstance(tree, dict) and "label" in tree:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
        return place(tree, like)

    monkeypatch.setattr(evaluate.sharding, "place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(wanted(**TRAINED), tmp_path / "run", quiet=True, features=cache)
    monkeypatch.setattr(evaluate.sharding, "place", place)
    assert len(kept(cache)) == 3
    result = run_recipe(wanted(**TRAINED), tmp_path / "run", quiet=True, features=cache)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    kinds = [(r["kind"], r["calls"], r["cached"]) for r in rows(tmp_path / "run" / "ledger.jsonl")[1:]]
    assert kinds == [("productive", 2, 0), ("wasted", 0, 2), ("productive", 2, 1)]
    assert result["flops"]["wasted"] == 0


def test_from_the_command_line_and_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPENDFLOPS_CACHE", "")
    monkeypatch.setenv("SPENDFLOPS_FEATURES", str(tmp_path / "features"))
    gin = str(write_gin(tmp_path, steps=2, every=2))

    def train(name, *more):
        assert main(["train", "--gin_file", gin, "--workdir", str(tmp_path / name), "--quiet", *more]) == 0
        capsys.readouterr()
        return json.loads((tmp_path / name / "result.json").read_text())["flops"]

    assert train("none", "--feature_cache=0")["cached"] == 0 and not (tmp_path / "features").exists()
    assert train("first")["cached"] == 0
    again = train("second")
    assert again["cached"] == again["evaluate"] > 0
    # It is no part of what a run is: the folder is that of the same run, whatever the flag says.
    assert RunDir.open(tmp_path / "none", json.loads((tmp_path / "second" / "config.json").read_text())["config"])
    assert main(["train", "--gin_file", gin, "--workdir", str(tmp_path / "x"), "--feature_cache=-1"]) == 2
