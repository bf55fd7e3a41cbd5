"""What comes out of a configuration: plain Python objects, the text as given, the text as used, JSON."""

from __future__ import annotations

import functools
import pickle
import sys

import gin
import pytest

from spendflops import config
from spendflops.config.scan import join, parts, read
from spendflops.contracts.errors import ConfigError
from spendflops.engine.describe import canonical


def test_objectives_and_backbones_are_partials_and_all_else_is_built(load_text):
    stage = load_text().object.stages[0]
    tiny = sys.modules["tiny_plugins"]
    assert isinstance(stage.objective, functools.partial) and stage.objective.func is tiny.Pull
    assert stage.objective.keywords == {"force": 3.0} and isinstance(stage.objective.keywords["force"], float)
    assert stage.backbone.func is tiny.Flat and stage.backbone.keywords == {}
    assert isinstance(stage.dataset, tiny.Dots) and stage.views == tiny.PullViews(flip=0.5)


def test_result_is_free_of_gin_and_pickles(load_text):
    loaded = load_text()
    copy = pickle.loads(pickle.dumps(loaded.object))
    assert copy.stages[0].objective.keywords == loaded.object.stages[0].objective.keywords
    assert b"gin.config" not in pickle.dumps(loaded.object) and b"cage" not in pickle.dumps(loaded.object)


def test_only_the_plugins_that_are_named_are_imported(load_text):
    load_text()
    assert "tiny_broken" not in sys.modules and "other_plugins" not in sys.modules


def test_no_state_is_left_and_what_gin_held_is_back(load_text, recipe_text):
    def mine(x=1):
        return x

    gin.clear_config()
    wrapped = gin.external_configurable(mine, name="mine_of_the_user")
    gin.parse_config("mine_of_the_user.x = 5")
    before = gin.config_str()
    first = load_text()
    assert gin.config_str() == before and wrapped() == 5 and not gin.config_is_locked()
    second = load_text(recipe_text, "pull/Stage.batch_size = 2")
    third = load_text()
    assert first.operative == third.operative and first.json == third.json
    assert second.object.stages[0].batch_size == 2
    with pytest.raises(ConfigError):
        load_text(recipe_text + "Recipe.sede = 3\n")
    assert gin.config_str() == before and wrapped() == 5
    gin.clear_config()


def test_operative_and_given_text_load_to_the_same_recipe(load_text, world):
    loaded = load_text()
    for name, text in (("given.gin", loaded.given), ("operative.gin", loaded.operative)):
        (world / name).write_text(text)
        again = config.load(config.compose(gin_files=[name]))
        assert canonical(again.json) == canonical(loaded.json)
    assert "pull/objectives.pull.force = 3" in loaded.operative
    assert "Recipe.checkpoint_every = 1000" in loaded.operative  # a default


def test_given_text_keeps_files_lines_and_order(load_text, recipe_text, world):
    (world / "more").mkdir()
    (world / "more" / "seed.gin").write_text("Recipe.seed = 4\n")
    (world / "a.gin").write_text("# a comment\nRecipe.log_every = 7\ninclude 'more/seed.gin'\nRecipe.watts = 5.0\n")
    loaded = load_text(recipe_text + "include 'a.gin'\n", "Recipe.seed = 9")
    assert loaded.object.seed == 9 and loaded.object.log_every == 7 and loaded.object.watts == 5.0
    sources = read("recipe.gin") + read("a.gin")
    assert parts(join(sources)) == parts(join(parts(join(sources))))
    assert [(s.name, s.line) for s in sources[-3:]] == [("a.gin", 1), ("more/seed.gin", 1), ("a.gin", 4)]
    (world / "given.gin").write_text(loaded.given.replace("Recipe.watts = 5.0", "Recipe.wats = 5.0"))
    with pytest.raises(ConfigError, match=r"^a.gin:4: Recipe has no parameter 'wats' \(did you mean 'watts'\?\)"):
        config.load(config.compose(gin_files=["given.gin"]))


def test_same_file_included_twice_is_no_duplicate(load_text, recipe_text, world):
    (world / "seed.gin").write_text("Recipe.seed = 4\n")
    assert load_text(recipe_text + "include 'seed.gin'\ninclude 'seed.gin'\n").object.seed == 4


def test_scopes_reach_down_into_references_and_explicit_scopes_replace_them(load_text, recipe_text):
    text = recipe_text.replace("(@pull/Stage(),)", "(@pull/Stage(), @pull/late/Stage())")
    text = text.replace("@datasets.dots()", "@data/datasets.dots()")
    both = ["pull/late/Stage.name = 'late'", "Stage.share = 0.5"]
    stages = load_text(
        text,
        "pull/backbones.flat.width = 7",  # @backbones.flat has no scope of its own: it is called in that of its stage
        "data/datasets.dots.size = 6",  # @data/datasets.dots() is called in the scope data alone
        *both,
    ).object.stages
    assert [s.backbone.keywords["width"] for s in stages] == [7, 7]
    assert [s.dataset.described["size"] for s in stages] == [6, 6] and [s.batch_size for s in stages] == [8, 8]
    with pytest.raises(ConfigError, match="it is built in 'data'"):
        load_text(text, "pull/datasets.dots.size = 6", *both)


def test_binding_used_through_a_deeper_scope_only_counts_as_used(load_text, recipe_text):
    assert load_text(recipe_text + "Stage.split = 'valid'\n").object.stages[0].split == "valid"


def test_macro_in_a_scope_and_macro_of_a_macro(load_text, recipe_text):
    text = recipe_text.replace("batch_size = 8", "batch_size = %pull/BATCH") + "pull/BATCH = %SIZE\nSIZE = 5\n"
    assert load_text(text).object.stages[0].batch_size == 5


def test_class_outside_any_distribution_by_a_string(load_text, recipe_text, world):
    (world.parent / "site" / "my_methods.py").write_text(
        "from tiny_plugins import Pull\n\n\nclass Mine(Pull):\n    pass\n"
    )
    text = recipe_text.replace("= @objectives.pull\n", "= 'my_methods:Mine'\n").replace(
        "objectives.pull.", "objectives.Mine."
    )
    text = text.replace("@datasets.dots()", "%DATASET") + "DATASET = 'tiny_plugins:Dots'\ndatasets.Dots.size = 4\n"
    loaded = load_text(text)
    stage = loaded.object.stages[0]
    assert stage.objective.func.__name__ == "Mine" and stage.objective.keywords == {"force": 3.0}
    assert stage.dataset.described["size"] == 4
    assert loaded.json["stages"][0]["objective"]["@"] == "my_methods:Mine"
    (world / "operative.gin").write_text(loaded.operative)
    assert config.load(config.compose(gin_files=["operative.gin"])).json == loaded.json


def test_distribution_by_a_string(load_text, recipe_text):
    text = recipe_text.replace("= @objectives.pull\n", "= 'twice@other'\n").replace(
        "objectives.pull.", "objectives.twice."
    )
    assert load_text(text).object.stages[0].objective.func.__module__ == "other_plugins"
    with pytest.raises(ConfigError, match="2 distributions"):
        load_text(text.replace("'twice@other'", "@objectives.twice"))


def test_declared_plugin_under_a_name_of_ones_own(load_text, recipe_text):
    text = recipe_text.replace("objectives.pull", "objectives.mine") + "plugins.objectives.mine = 'twice@tiny'\n"
    assert load_text(text).object.stages[0].objective.func.__qualname__ == "Twice"


def test_recipe_built_in_python_has_the_same_description(load_text):
    from spendflops.engine.describe import describe
    from spendflops.engine.optim import sgd
    from spendflops.engine.recipe import Recipe, Stage

    loaded = load_text()
    tiny = sys.modules["tiny_plugins"]
    by_hand = Recipe(
        stages=(
            Stage(
                objective=functools.partial(tiny.Pull, force=3.0),
                backbone=tiny.Flat,
                dataset=tiny.Dots(),
                views=tiny.PullViews(),
                optimizer=sgd(lr=0.1),
                batch_size=8,
            ),
        ),
        budget="1e6",
    )
    assert describe(by_hand) == loaded.json


def test_blocks(load_text, recipe_text):
    text = recipe_text.replace("backbones.flat\n", "backbones.flat\nbackbones.flat:\n    width = 3\n    pool = 'max'\n")
    assert load_text(text).object.stages[0].backbone.keywords == {"width": 3, "pool": "max"}
    with pytest.raises(ConfigError, match=r"recipe.gin:5: backbones.flat has no parameter 'wdith'"):
        load_text(text.replace("width", "wdith"))
