"""Runs that start from weights, runs that are exported, weights that are used as a run is."""

from __future__ import annotations

import contextlib
import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from enginelib import METHODS, VIT, recipe, stage
from spendflops_plugins.dino import DINO

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.engine import build as building
from spendflops.engine.build import build
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.convert import export, import_file
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom
from spendflops.engine.state import flatten

LEARNED = functools.partial(VIT, positions="learned")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of MAE."""
    folder = tmp_path_factory.mktemp("run")
    run_recipe(recipe(budget="2 steps", evaluations=()), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
    """The run in our form."""
    folder = tmp_path_factory.mktemp("weights") / "w"
    export(load(run), using="spendflops", out=folder)
    return folder


def values(model):
    return {path: np.asarray(x) for part in model.values for path, x in flatten(part).items()}


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_run_in_our_form_is_the_run(run, weights):
    first, second = load(run), load(weights)
    a, b = values(first), values(second)
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    assert np.array_equal(first.features(images)["summary"], second.features(images)["summary"])
    assert first.spec == second.spec and second.weights == "online"


def test_what_is_exported_says_what_it_is(run, weights):
    result = json.loads((run / "result.json").read_text())
    said = config(weights)
    assert (said["weights"], said["step"], said["flops"]) == ("online", 2, result["flops"]["pretrain"])
    assert said["source"] == {"run": run.name, "stage": "mae"} and said["objective"]["@"] == "objectives.mae"


def start(folder, run):
    """A supervised run of no step that starts from a folder of weights: its result, and the run as a model."""
    wanted = recipe(stage("supervised", init=(InitFrom(weights=str(folder)),)), budget="0 steps")
    return run_recipe(wanted, run), load(run)


def test_a_recipe_starts_from_weights_and_has_their_flops(weights, tmp_path, capsys):
    result, model = start(weights, tmp_path / "run")
    spent = config(weights)["flops"]
    assert result["flops"]["prior"] == model.origin["flops"] == spent > 0
    source = {path: value for path, value in values(load(weights)).items() if path.startswith("backbone/")}
    found = values(model)
    assert all(np.array_equal(found[path], value) for path, value in source.items())
    lines = (tmp_path / "run" / "logs" / "init-supervised-0.txt").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines if line.startswith("taken")) == sorted(source)
    assert f"FLOPs that went into it: {spent}" in capsys.readouterr().err


def test_flops_that_nobody_knows_stay_unknown(weights, tmp_path, capsys):
    export(load(weights), using="timm", out=tmp_path / "x.safetensors")
    import_file(tmp_path / "x.safetensors", backbone=VIT, out=tmp_path / "w")
    result, model = start(tmp_path / "w", tmp_path / "run")
    assert result["flops"]["prior"] is None and model.origin["flops"] is None
    assert "FLOPs that went into it: unknown" in capsys.readouterr().err


def test_what_does_not_fit_is_known_before_anything_compiles(weights, monkeypatch):
    compiled = []
    monkeypatch.setattr(building.Program, "compile", lambda self, *a, **k: compiled.append(self.name))
    wide = functools.partial(VIT, dim=32)
    wanted = recipe(stage("supervised", backbone=wide, init=(InitFrom(weights=str(weights)),)))
    with pytest.raises(ConfigError, match="cannot be taken"):
        build(wanted)
    with pytest.raises(DataError, match="holds no weights in our form"):
        build(recipe(stage("supervised", init=(InitFrom(weights="nowhere"),))))
    assert compiled == []


@pytest.mark.parametrize("given", [{}, {"stage": "a", "weights": "b"}, {"run": "a", "weights": "b"}])
def test_one_source_and_no_more(given):
    with pytest.raises(ConfigError, match="exactly one of"):
        InitFrom(**given)


def test_a_run_without_a_result_knows_its_flops_up_to_its_step(run):
    before = (run / "result.json").read_text()
    (run / "result.json").unlink()
    try:
        assert load(run).origin["flops"] == json.loads(before)["flops"]["pretrain"]
    finally:
        (run / "result.json").write_text(before)


def test_folders_hold_one_model(weights):
    for given in ({"stage": "mae"}, {"weights": "teacher"}):
        with pytest.raises(ConfigError, match="holds one model"):
            load(weights, **given)


def test_a_folder_whose_model_is_built_otherwise_today(weights, tmp_path):
    body = config(weights)
    body["backbone"]["depth"] = 2
    (tmp_path / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(body))
    with pytest.raises(DataError, match="does not fit the model that its config"):
        load(tmp_path)


def test_student_and_teacher_are_told_apart(tmp_path):
    objective = functools.partial(DINO, out_dim=8, hidden=8, bottleneck=4)
    wanted = recipe(stage(objective=objective, backbone=LEARNED, name="dino"), budget="0 steps", evaluations=())
    run_recipe(wanted, tmp_path / "run", quiet=True)
    with contextlib.closing(Checkpoints(tmp_path / "run" / "checkpoints" / "dino")) as checkpoints:
        state = checkpoints.restore_raw(0)
        checkpoints.save(3, {**state, "step": state["step"] + 3, "ema": jax.tree.map(lambda x: x + 1, state["ema"])})
    for weights in ("online", "teacher"):
        lines = export(load(tmp_path / "run", weights=weights), using="dino", out=tmp_path / f"{weights}.safetensors")
        assert lines[1].startswith(f"weights: {weights}, step: 3, FLOPs spent: ")
    online, teacher = (safetensors.numpy.load_file(tmp_path / f"{w}.safetensors") for w in ("online", "teacher"))
    assert np.array_equal(online["backbone.norm.bias"] + 1, teacher["backbone.norm.bias"])
    assert np.array_equal(online["dino_loss.center"], teacher["dino_loss.center"])
    with safetensors.safe_open(tmp_path / "teacher.safetensors", "np") as file:
        said = json.loads(file.metadata()["spendflops"])
    assert (said["weights"], said["layout"], said["left_out"]) == ("teacher", "dino", [])
    assert load(tmp_path / "run").weights == "teacher"


def test_an_export_for_hugging_face_has_its_config(weights, tmp_path):
    export(load(weights), using="hf_vit_mae", out=tmp_path / "hf")
    said = config(tmp_path / "hf")
    assert (said["model_type"], said["hidden_size"], said["layer_norm_eps"]) == ("vit_mae", 16, 1e-6)
    assert said["spendflops"]["step"] == 2
    lines = import_file(tmp_path / "hf", backbone=VIT, objective=METHODS["mae"], out=tmp_path / "back")
    assert "layout hf_vit_mae" in lines[0] and len([x for x in lines if x.startswith("compared")]) == 2
    a, b = values(load(weights)), values(load(tmp_path / "back"))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    with pytest.raises(DataError, match=r"config\.json has num_attention_heads = 2, the model 4"):
        import_file(tmp_path / "hf", backbone=functools.partial(VIT, heads=4), out=tmp_path / "no")


def test_exports_overwrite_nothing_and_name_what_they_leave_out(weights, tmp_path):
    model = load(weights)
    lines = export(model, using="timm", out=tmp_path / "x.safetensors", dtype="float16")
    assert "float16" in lines[0] and lines[-1].startswith("left out") and "decoder" in lines[-1]
    for out in ("x.safetensors", "y"):
        (tmp_path / "y").mkdir(exist_ok=True)
        (tmp_path / "y" / "model.safetensors").write_text("")
        with pytest.raises(ConfigError, match="is there already"):
            export(model, using="timm", out=tmp_path / out)
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        export(model, using="timm", out=tmp_path / "z.safetensors", dtype="float61")
    with pytest.raises(ConfigError, match="unknown layout 'tim'"):
        export(model, using="tim", out=tmp_path / "z.safetensors")


def test_values_that_do_not_fit_into_half_precision(weights, tmp_path):
    model = load(weights)
    model.params["backbone"]["norm"]["bias"] = np.full(16, 1e6, np.float32)
    with pytest.raises(ConfigError, match="does not fit into float16"):
        export(model, using="timm", out=tmp_path / "x.safetensors", dtype="float16")
    export(model, using="timm", out=tmp_path / "x.safetensors", dtype="bfloat16")


def test_an_unknown_rule_is_refused_before_the_file_is_opened(tmp_path):
    with pytest.raises(ConfigError, match="unknown resize rule"):
        import_file(tmp_path / "nothing", backbone=VIT, out=tmp_path / "w", resize="cubic")
