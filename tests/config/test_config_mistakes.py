"""Every mistake that gin 0.5.0 lets pass is an error with the line, the reason and what to write."""

from __future__ import annotations

import pytest

from spendflops.contracts.errors import ConfigError

LINES = 10  # of the recipe without a mistake; what a test appends is line 11

MISTAKES = {
    "parameter": ("pull/Stage.batch_sise = 4", ["recipe.gin:11", "did you mean 'batch_size'?"]),
    "plugin parameter": ("pull/objectives.pull.froce = 4", ["recipe.gin:11", "did you mean 'force'?"]),
    "parameter that the core gives": ("pull/objectives.pull.info = 4", ["recipe.gin:11", "no parameter 'info'"]),
    "views parameter": ("objectives.pull.views.filp = 0.1", ["recipe.gin:11", "did you mean 'flip'?"]),
    "core selector": ("Recpie.seed = 1", ["recipe.gin:11", "did you mean 'Recipe'?"]),
    "part of a selector": ("pull.force = 1", ["recipe.gin:11", "did you mean 'objectives.pull'?", "in full"]),
    "plugin": ("objectives.pul.force = 1", ["recipe.gin:11", "did you mean 'pull'?"]),
    "gin's own": ("Recipe.seed = @gin.singleton()", ["recipe.gin:11", "nothing is called 'gin.singleton'"]),
    "broken plugin": (
        "objectives.broken.force = 1",
        ["recipe.gin:11", "installed but failed to import", "tiny 1.0", "pip install a_module_that_is_not_there"],
    ),
    "plugin offered twice": ("objectives.twice.force = 1", ["recipe.gin:11", "2 distributions", "twice@other"]),
    "plugin with **kwargs": ("objectives.loose.anything = 1", ["recipe.gin:11", "**kwargs"]),
    "macro that is never referenced": ("TEMPERATUER = 0.5", ["recipe.gin:11", "TEMPERATUER", "never referenced"]),
    "forgotten parameter": ("pull/Stage = 3", ["recipe.gin:11", "pull/Stage", "selector.parameter"]),
    "macro that is not defined": ("Recipe.seed = %SEDE\nSEED = 3", ["recipe.gin:11", "did you mean 'SEED'?"]),
    "scope": (
        "pul/Stage.split = 'test'",
        ["recipe.gin:11", "did you mean 'pull'?", "write pull/Stage.split = 'test'"],
    ),
    "never built": ("evaluators.count.top = 3", ["recipe.gin:11", "nothing in this run builds", "@evaluators.count()"]),
    "hidden": (
        "Stage.batch_size = 4",
        ["recipe.gin:11", "hidden by recipe.gin:8", "write pull/Stage.batch_size = 4"],
    ),
    "missing ()": ("pull/optim.sgd.clip = @optim.clip", ["recipe.gin:11", "has no ()", "write @optim.clip()"]),
    "duplicate": ("pull/Stage.batch_size = 9", ["recipe.gin:11", "bound twice", "recipe.gin:8 binds it to 8"]),
    "string for a number": ("Recipe.seed = '5'", ["recipe.gin:11", "takes seed: int", "write 5 without quotes"]),
    "float for an int": ("Recipe.log_every = 1e2", ["recipe.gin:11", "cannot be 100.0", "write 100"]),
    "bool for an int": ("Recipe.seed = True", ["recipe.gin:11", "cannot be True"]),
    "int for a bool": ("backbones.flat.bias = 1", ["recipe.gin:11", "write True"]),
    "number for a string": ("backbones.flat.pool = 3", ["recipe.gin:11", "write '3', with quotes"]),
    "list for a tuple": ("backbones.flat.sides = [4, 4]", ["recipe.gin:11", "write the tuple (4, 4)"]),
    "length of a tuple": ("backbones.flat.sides = (4, 4, 4)", ["recipe.gin:11", "tuple[int, int]"]),
    "type inside a tuple": ("backbones.flat.sides = (4, '4')", ["recipe.gin:11", "cannot be '4'"]),
    "value of a macro": ("Recipe.seed = %SEED\nSEED = '3'", ["recipe.gin:11", "macro SEED at recipe.gin:12"]),
    "true": ("backbones.flat.bias = true", ["recipe.gin:11", "write True in place of true"]),
    "bare word": ("backbones.flat.pool = mean", ["recipe.gin:11", "quote strings: 'mean'"]),
    "arithmetic": ("backbones.flat.width = 2 * 4", ["recipe.gin:11", "gin has no arithmetic"]),
    "no statement": ("Recipe.seed 3", ["recipe.gin:11", "scope/selector.parameter = value"]),
    "open bracket": ("backbones.flat.sides = (1, 2", ["recipe.gin:1", "not closed"]),
    "python import": ("import tiny_plugins", ["recipe.gin:11", "no Python imports"]),
    "python import from": ("from tiny_plugins import Pull", ["recipe.gin:11", "no Python imports"]),
    "dynamic registration": ("from __gin__ import dynamic_registration", ["recipe.gin:11", "no Python imports"]),
    "include of nothing": ("include 'methods/puled.gin'", ["recipe.gin:11", "did you mean 'methods/pulled.gin'?"]),
    "include of itself": ("include 'recipe.gin'", ["recipe.gin:11", "includes itself"]),
    "circle": ("Recipe.seed = %A\nA = %B\nB = %A", ["circle"]),
    "string that names no plugin": ("Evaluation.evaluator = 'nope:Nope'", ["recipe.gin:11", "failed to import"]),
    "declaration without use": ("plugins.datasets.x = 'a.b:C'", ["recipe.gin:11", "never used", "@datasets.x"]),
    "declaration of no group": ("plugins.objective.x = 'a.b:C'", ["recipe.gin:11", "plugins.objective"]),
}


@pytest.mark.parametrize("line, expected", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_an_error_with_its_line_and_a_suggestion(load_text, recipe_text, line, expected):
    with pytest.raises(ConfigError) as error:
        load_text(recipe_text + line + "\n")
    for fragment in expected:
        assert fragment in str(error.value)


CHANGES = {
    "extra () on an objective": (
        "pull/Stage.objective = @objectives.pull",
        "pull/Stage.objective = @objectives.pull()",
        ["recipe.gin:5", "extra ()", "fix: write @objectives.pull"],
    ),
    "extra () on a backbone": ("@backbones.flat", "@backbones.flat()", ["recipe.gin:3", "write @backbones.flat"]),
    "no () on a data set": ("@datasets.dots()", "@datasets.dots", ["recipe.gin:4", "write @datasets.dots()"]),
    "no () on views": (".views()", ".views", ["recipe.gin:6", "write @objectives.pull.views()"]),
    "no () in a tuple": ("(@pull/Stage(),)", "(@pull/Stage,)", ["recipe.gin:1", "write @pull/Stage()"]),
    "no comma in a tuple": ("(@pull/Stage(),)", "(@pull/Stage())", ["recipe.gin:1", "tuple[", ",)"]),
    "a backbone as objective": ("@objectives.pull\n", "@backbones.flat\n", ["recipe.gin:5", "none of the objectives"]),
    "a name for a reference": ("@backbones.flat", "'flat'", ["recipe.gin:3", "write @backbones.flat"]),
    "an optimiser as data": ("@datasets.dots()", "@pull/optim.sgd()", ["recipe.gin:4", "none of the datasets"]),
    "required and not given": (
        "Recipe.budget = '1e6'",
        "Recipe.budget = %gin.REQUIRED\nRecipe.seed = %gin.REQUIRED",
        ["not given: Recipe.budget, Recipe.seed", "recipe.gin:2", "recipe.gin:3", "--gin 'Recipe.seed = ...'"],
    ),
    "no default": ("pull/Stage.batch_size = 8\n", "", ["Stage in scope 'pull' needs batch_size", "`pull/Stage.batch_"]),
    "refused by the constructor": (
        "@datasets.dots()",
        "@datasets.dots()\ndatasets.dots.size = -1",
        ["datasets.dots cannot be made with size=-1", "ValueError: a negative size", "recipe.gin:5"],
    ),
}


@pytest.mark.parametrize("old, new, expected", CHANGES.values(), ids=CHANGES)
def test_change_of_a_line_is_an_error(load_text, recipe_text, old, new, expected):
    assert old in recipe_text
    with pytest.raises(ConfigError) as error:
        load_text(recipe_text.replace(old, new))
    for fragment in expected:
        assert fragment in str(error.value)


def test_several_bindings_without_effect_are_listed_together(load_text, recipe_text):
    with pytest.raises(ConfigError) as error:
        load_text(recipe_text + "pul/Stage.split = 'test'\nevaluators.count.top = 2\nNAME = 1\n")
    assert "3 bindings have no effect" in str(error.value)
    assert all(f"recipe.gin:{line}" in str(error.value) for line in (11, 12, 13))


def test_macro_that_only_an_overridden_line_uses(load_text, recipe_text):
    text = recipe_text.replace("pull/optim.sgd.lr = 0.1", "pull/optim.sgd.lr = %LR\nLR = 0.1")
    with pytest.raises(ConfigError, match=r"recipe.gin:10: the macro LR is used only by recipe.gin:9.*--gin:1 o"):
        load_text(text, "pull/optim.sgd.lr = 0.3")


def test_a_mistake_in_a_flag_names_the_flag(load_text, recipe_text):
    with pytest.raises(ConfigError, match=r"--gin:2: Stage has no parameter 'batch'"):
        load_text(recipe_text, "pull/Stage.batch_size = 4", "pull/Stage.batch = 4")


def test_nothing_given(world):
    from spendflops import config

    with pytest.raises(ConfigError, match="nothing sets a parameter of Recipe"):
        config.load(config.compose())


def test_missing_gin_file_is_suggested(world):
    from spendflops import config

    with pytest.raises(ConfigError, match=r"did you mean 'recipes/pretrain.gin'"):
        config.compose(gin_files=["recipes/pretrian.gin"])


def test_two_strings_of_one_name(load_text, recipe_text, world):
    (world.parent / "site" / "more_plugins.py").write_text("from tiny_plugins import Pull\n")
    text = recipe_text.replace("(@pull/Stage(),)", "(@pull/Stage(), @more/Stage())")
    text = text.replace("= @objectives.pull\n", "= 'tiny_plugins:Pull'\n").replace(
        "objectives.pull.", "objectives.Pull."
    )
    more = (
        "more/Stage.objective = 'more_plugins:Pull'\nmore/Stage.optimizer = @optim.sgd()\nmore/Stage.batch_size = 1\n"
    )
    with pytest.raises(ConfigError, match=r"recipe.gin:11: 'tiny_plugins:Pull' and 'more_plugins:Pull' would both"):
        load_text(text + more)
