"""Names on the command line: presets, entry points, distributions, classes, data with a path."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spendflops import config
from spendflops.config import presets
from spendflops.contracts.errors import ConfigError, PluginError

TINY = {"backbone": "flat", "dataset": "dots", "budget": "1e6"}


def test_compose_imports_neither_jax_nor_a_plugin():
    code = (
        "import sys; from spendflops import config; "
        "config.compose(objective='mae', backbone='vit_b16', dataset='folder:photos', budget='3e18'); "
        "print([m for m in ('jax', 'flax', 'spendflops_plugins') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_preset_of_a_distribution_is_found_without_an_import(world):
    composition = config.compose(objective="pulled", **TINY)
    assert "tiny_package" not in sys.modules
    loaded = config.load(composition)
    assert loaded.object.stages[0].batch_size == 16
    assert loaded.object.stages[0].objective.keywords == {"force": 2.0}
    assert loaded.chosen == (
        "backbone flat: backbones.flat of tiny 1.0 with its defaults",
        "objective pulled: preset tiny:methods/pulled.gin",
        "dataset dots: datasets.dots of tiny 1.0 with its defaults",
    )


def test_entry_point_without_a_preset_takes_the_defaults_of_the_recipe(world):
    stage = config.load(config.compose(objective="pull", **TINY)).object.stages[0]
    assert stage.batch_size == 256 and stage.optimizer.name == "adamw"
    assert stage.objective.func.__name__ == "Pull" and type(stage.views).__name__ == "PullViews"


def test_preset_near_the_user_comes_first(world):
    (world / "gin" / "methods").mkdir(parents=True)
    text = "pulled/Stage.objective = @objectives.pull\npulled/objectives.pull.force = 9.0\n"
    (world / "gin" / "methods" / "pulled.gin").write_text(text)
    loaded = config.load(config.compose(objective="pulled", **TINY))
    assert loaded.object.stages[0].objective.keywords == {"force": 9.0}
    assert "objective pulled: preset gin/methods/pulled.gin" in loaded.chosen


def test_two_distributions_with_one_preset(world):
    site = world.parent / "site"
    (site / "other_presets" / "methods").mkdir(parents=True)
    (site / "other_presets" / "__init__.py").touch()
    (site / "other_presets" / "methods" / "pulled.gin").write_text("pulled/Stage.batch_size = 1\n")
    entries = site / "other-2.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text() + "[spendflops.gin]\nother = other_presets\n")
    with pytest.raises(ConfigError, match=r"2 distributions offer the preset methods/pulled.gin\n  why: other, tiny"):
        config.compose(objective="pulled", **TINY)
    (world / "gin" / "methods").mkdir(parents=True)
    (world / "gin" / "methods" / "pulled.gin").write_text("pulled/Stage.objective = @objectives.pull\n")
    assert config.compose(objective="pulled", **TINY).chosen[1] == "objective pulled: preset gin/methods/pulled.gin"
    entries.write_text("[spendflops.gin]\nother = other_presets.nowhere\n")
    with pytest.raises(PluginError, match=r"other 2.0 declares presets in 'other_presets.nowhere'"):
        config.compose(objective="pulled", **TINY)


def test_distribution_is_chosen_with_at(world):
    with pytest.raises(PluginError, match="twice@other or twice@tiny"):
        config.compose(objective="twice", **TINY)
    loaded = config.load(config.compose(objective="twice@other", **TINY))
    assert loaded.object.stages[0].objective.func.__module__ == "other_plugins"
    loaded = config.load(config.compose(objective="pulled@tiny", **TINY))
    assert loaded.object.stages[0].batch_size == 16
    with pytest.raises(PluginError, match="pull@other"):
        config.compose(objective="pulled@other", **TINY)


def test_class_outside_any_distribution(world):
    names = {"objective": "tiny_plugins:Pull", "backbone": "tiny_plugins:Flat", "dataset": "tiny_plugins:Dots"}
    loaded = config.load(config.compose(budget="1e6", bindings=["objectives.Pull.force = 4"], **names))
    assert loaded.object.stages[0].objective.keywords == {"force": 4.0}
    assert loaded.chosen[0] == "backbone tiny_plugins:Flat: the class tiny_plugins:Flat with its defaults"


def test_data_with_paths(world):
    names = {**TINY, "dataset": "dots:some/folder", "eval_dataset": "dots:an:other"}
    scored = [
        "Recipe.evaluations = (@Evaluation(),)",
        "Evaluation.evaluator = @evaluators.count()",
        "Evaluation.data = {'eval': (%EVAL_DATASET, 'test[:9]')}",
    ]
    recipe = config.load(config.compose(objective="pull", bindings=scored, **names)).object
    assert recipe.stages[0].dataset.path == "some/folder"
    assert recipe.evaluations[0].data["eval"][0].path == "an:other"
    del names["eval_dataset"]
    recipe = config.load(config.compose(objective="pull", bindings=scored, **names)).object
    assert recipe.evaluations[0].data["eval"][0].path == "some/folder"
    loaded = config.load(config.compose(objective="pull", **names))
    assert loaded.chosen[-1].endswith("with its defaults, path = 'some/folder'")


def test_data_preset_with_another_for_evaluation_in_any_order(world):
    (world / "gin" / "data").mkdir(parents=True)
    for name, size in (("small", 4), ("large", 32)):
        text = f"DATASET = @{name}/datasets.dots()\nEVAL_DATASET = @{name}/datasets.dots()\n"
        (world / "gin" / "data" / f"{name}.gin").write_text(text + f"{name}/datasets.dots.size = {size}\n")
    scored = [
        "Recipe.evaluations = (@Evaluation(),)",
        "Evaluation.evaluator = @evaluators.count()",
        "Evaluation.data = {'eval': (%EVAL_DATASET, 'test')}",
    ]
    for names, sizes in (
        ({"dataset": "small"}, (4, 4)),
        ({"dataset": "small", "eval_dataset": "large"}, (4, 32)),
        ({"dataset": "large", "eval_dataset": "small:here"}, (32, 4)),
        ({"dataset": "dots", "eval_dataset": "large"}, (8, 32)),
    ):
        composition = config.compose(objective="pull", bindings=scored, **{**TINY, **names})
        recipe = config.load(composition).object
        scored_on = recipe.evaluations[0].data["eval"][0]
        assert (recipe.stages[0].dataset.described["size"], scored_on.described["size"]) == sizes
        assert scored_on.path == ("here" if "small:here" in names.values() else None)


@pytest.mark.parametrize(
    "names, message",
    [
        ({"objective": "simlcr"}, r"unknown objective 'simlcr' \(did you mean 'simclr'\?\)"),
        ({"objective": "puled"}, r"unknown objective 'puled' \(did you mean 'pulled'\?\)"),
        ({"backbone": "vit_b61"}, r"unknown backbone 'vit_b61' \(did you mean 'vit_b16'\?\)"),
        ({"dataset": "dotz:photos"}, r"unknown dataset 'dotz' \(did you mean 'dots'\?\)"),
        ({"backbone": "flat@nobody"}, r"flat@nobody"),
    ],
)
def test_unknown_names(world, names, message):
    with pytest.raises(PluginError, match=message):
        config.compose(**{"objective": "pull", **TINY, **names})


def test_preset_without_its_binding(world):
    (world / "gin" / "methods").mkdir(parents=True)
    (world / "gin" / "methods" / "bare.gin").write_text("bare/Stage.batch_size = 4\n")
    with pytest.raises(ConfigError, match=r"gin/methods/bare.gin does not bind bare/Stage.objective"):
        config.compose(objective="bare", **TINY)


def test_path_for_a_data_preset_that_is_no_single_data_set(world):
    (world / "gin" / "data").mkdir(parents=True)
    (world / "gin" / "data" / "both.gin").write_text("DATASET = %BOTH\nBOTH = @datasets.dots()\n")
    with pytest.raises(ConfigError, match=r"'both:here': this preset is no single data set"):
        config.compose(objective="pull", **{**TINY, "dataset": "both:here"})


def test_flag_that_a_nearer_binding_hides_is_an_error(world):
    binding = "pull/Stage.backbone = @backbones.flat"
    with pytest.raises(ConfigError, match=r"--backbone:1: Stage.backbone is hidden by --gin:1"):
        config.load(config.compose(objective="pull", bindings=[binding], **TINY))


def test_flag_that_the_recipe_has_no_place_for_is_an_error(world, load_text, recipe_text):
    with pytest.raises(ConfigError, match=r"--objective:1: the macro STAGE is"):
        load_text(recipe_text, objective="pulled", base="recipes/pretrain.gin")


def test_later_wins(world):
    (world / "mine.gin").write_text(
        "pulled/Stage.batch_size = 3\nRecipe.budget = '5'\npulled/objectives.pull.force = 5.0\n"
    )
    bindings = ["pulled/objectives.pull.force = 7.0"]
    recipe = config.load(config.compose(objective="pulled", gin_files=["mine.gin"], bindings=bindings, **TINY)).object
    assert (recipe.stages[0].batch_size, recipe.stages[0].objective.keywords["force"]) == (3, 7.0)
    assert recipe.budget == "1e6"


def test_idle_bindings_of_presets(load_text, recipe_text, world):
    folder = world.parent / "site" / "tiny_package" / "presets" / "methods"
    # Another method's preset, a default that is overridden, a plugin that is not used: no mistakes.
    text = recipe_text + "include 'methods/pulled.gin'\ninclude 'methods/more.gin'\n"
    (folder / "more.gin").write_text("Stage.batch_size = 1\nevaluators.count.top = 2\nSEED_A = 1\nSEED_B = 2\n")
    assert load_text(text + "Recipe.seed = %SEED_A\n").object.stages[0].batch_size == 8
    for line, message in (
        ("pul/Stage.batch_size = 1", r"tiny:methods/more.gin:1: pul/Stage.batch_size.*did you mean 'pull'"),
        ("pull/optim.adamw.b1 = 0.5", r"tiny:methods/more.gin:1: pull/optim.adamw.b1: nothing in this run builds"),
        ("SEDE = 1", r"tiny:methods/more.gin:1: the macro SEDE .*did you mean 'SEED'"),
    ):
        (folder / "more.gin").write_text(line + "\n")
        with pytest.raises(ConfigError, match=message):
            load_text(text + "Recipe.seed = %SEED\nSEED = 3\n")


def test_our_presets_are_found_in_a_checkout_and_the_gin_library_is_not_taken_for_them(tmp_path, monkeypatch):
    import spendflops

    assert (presets.own_folder() / "methods" / "mae.gin").is_file()
    site = tmp_path / "lib" / "site-packages"
    (site / "gin").mkdir(parents=True)
    (site / "gin" / "__init__.py").touch()
    shared = tmp_path / "share" / "spendflops" / "gin" / "models"
    shared.mkdir(parents=True)
    (shared / "vit_b16.gin").touch()
    monkeypatch.setattr(spendflops, "__file__", str(site / "spendflops" / "__init__.py"))

    class File:
        def locate(self):
            return site / ".." / ".." / "share" / "spendflops" / "gin" / "models" / "vit_b16.gin"

    monkeypatch.setattr(presets.importlib.metadata, "files", lambda name: [File()])
    assert presets.own_folder() == shared.parent.resolve()
