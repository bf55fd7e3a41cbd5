"""Every gin file of the repository parses, loads and builds abstractly, and no binding of it is idle."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import re
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from spendflops import config
from spendflops.config.cage import build
from spendflops.config.scan import read, scan

ROOT = Path(__file__).parents[2] / "gin"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.gin"))
NAMES = {"models": "backbone", "methods": "objective", "data": "dataset"}
DEFAULTS = {"objective": "mae", "backbone": "vit_nano", "dataset": "shapes", "budget": "10 steps"}

OVER = ("paper", "small")
"""Folders of files that are laid over a method's preset: ``--objective mae --gin_file paper/mae.gin``."""
PARTS = ("evaluators", "transfer")
"""Folders of files that recipes include: checked in the least recipe that has room for them."""

INCLUDED = (
    "paper/overlays.gin",
    "paper/ade20k_stage.gin",
    "paper/coco_stage.gin",
    "paper/pets_viny_stage.gin",
    "paper/vitdet_optimizer.gin",
)
"""Files of OVER that are parts of others, of which all of theirs is used."""
FRAGMENTS = [
    f
    for f in FILES
    if f.split("/")[0] not in (*NAMES, *OVER, *PARTS)
    and not re.search(r"^(Recipe|Study)\.", (ROOT / f).read_text(), re.M)
]
"""Files that only others include: they are checked as part of those."""

TRAINED = {  # 3 p^2 D + D (patches) + D (class token) + depth (12 D^2 + 13 D) + 2 D; the table of positions is fixed
    "vit_nano": 203_264,
    "vit_ti16": 5_486_592,
    "vit_s16": 21_590_016,
    "vit_b16": 85_647_360,
    "vit_l16": 303_099_904,
    "vit_h14": 630_435_840,
    "vit_2b14": 1_889_751_040,
    "vit_6_5b14": 6_446_579_712,
    "vit_b16_original": 85_798_656,  # learned positions are trained
    "vit_b16_dino": 85_798_656,
    "vit_s16_dino": 21_665_664,
    "vit_b16_openai": 85_799_424,
    "vit_b16_simmim": 85_665_360,
    "vit_viny": 4_842_880,
    "vit_b16_1024": 85_647_360,
    # Without class token and last norm; 196 learned positions, and 2 (2 side - 1) rows of relative ones in each block.
    "vit_b16_vitdet": 85_647_360 - 3 * 768 + 196 * 768 + (4 * 2 * 127 + 8 * 2 * 27) * 64,
    "vit_l16_vitdet": 303_099_904 - 3 * 1024 + 196 * 1024 + (4 * 2 * 127 + 20 * 2 * 27) * 64,
    "vit_h16_vitdet": 630_435_840
    + 3 * (16**2 - 14**2) * 1280
    - 3 * 1280
    + 196 * 1280
    + (4 * 2 * 127 + 28 * 2 * 27) * 80,
    "resnet50": 23_508_032,
}


SCORED = [
    "Recipe.evaluations = (@Evaluation(),)",
    "Evaluation.evaluator = @evaluators.accuracy()",
    "Evaluation.data = {'eval': (%EVAL_DATASET, 'test')}",
]


def composed(file):
    """A run in which everything in the file has an effect, and its root."""
    kind, _, name = file.removesuffix(".gin").partition("/")
    if kind in NAMES:
        bindings = SCORED if kind == "data" else ["InitFrom.weights = 'x'"] if name == "lit" else []
        return config.compose(**{**DEFAULTS, NAMES[kind]: name}, bindings=bindings), "Recipe"
    text = (ROOT / file).read_text()
    whole = re.search(r"^(Recipe\.stages|Study\.)", text, re.M)
    if kind == "evaluators" and not whole and "include 'paper" not in text:
        own = f"%{name}/EVALUATIONS" if f"{name}/EVALUATIONS = " in text else f"(@{name}/Evaluation(),)"
        made = {**DEFAULTS, "objective": {"zero_shot": "clip", "robustness": "supervised"}.get(name, "mae")}
        made |= {"dataset": "imagenet1k"} if name == "robustness" else {}
        return config.compose(**made, gin_files=[file], bindings=[f"Recipe.evaluations = {own}"]), "Recipe"
    if kind == "transfer":
        scope = re.search(r"^(\w+)/\w+", text, re.M)[1]
        bindings = [
            f"Recipe.stages = (%STAGE, @{scope}/Stage())",
            "mae/Stage.name = 'mae'",
            f"{scope}/InitFrom.stage = 'mae'",
            f"Recipe.evaluations = (@{scope}/Evaluation(),)",
            f"{scope}/Evaluation.data = {{'eval': (%EVAL_DATASET, 'test')}}",
        ]
        size = {"_l": "vit_l16", "_h": "vit_h14"}.get(name[-2:], "vit_b16")
        return config.compose(**{**DEFAULTS, "backbone": size}, gin_files=[file], bindings=bindings), "Recipe"
    if kind in OVER and not whole:
        model = {"backbone": "vit_b16"} if kind == "paper" else {"backbone": None}
        return config.compose(**{**DEFAULTS, "objective": name, **model}, gin_files=[file]), "Recipe"
    if "%STAGE" in text:  # An objective without a preset leaves the recipe's own defaults alone.
        return config.compose(base=file, **{**DEFAULTS, "objective": "spendflops_plugins.mae:MAE"}), "Recipe"
    study = "\nStudy." in text
    bindings = ["street/datasets.folder.path = '" + street() + "'"] if "street/" in text else []
    sources = read(file)
    wanted = "DATASET" not in scan(sources).macros and any("%DATASET" in source.text for source in sources)
    dataset = "shapes" if wanted else None
    budget = None if study or "Recipe.budget" in text else "10 steps"
    model = None if any("Stage.backbone" in source.text for source in sources) else "vit_b16"
    composition = config.compose(gin_files=[file], dataset=dataset, backbone=model, budget=budget, bindings=bindings)
    return composition, "Study" if study else "Recipe"


@functools.cache
def street():
    """A folder of images beside label maps, for a data set that has no information without one."""
    folder = Path(tempfile.mkdtemp(prefix="street"))
    for kind, form in (("images", "jpg"), ("annotations", "png")):
        for split in ("train", "val"):
            (folder / kind / split).mkdir(parents=True)
            PIL.Image.new("L", (8, 8)).save(folder / kind / split / f"a.{form}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def stages_of(made):
    if hasattr(made, "stages"):
        return made.stages
    own = [s for group in made.methods.values() for s in group] + [s for s in (made.finetune, made.scratch) if s]
    return own + [s for transfer in made.transfers.values() for s in transfer.stages.values()]


def built(file, *, strict):
    """The root object; bindings of the files ``strict`` may not be idle as those of presets may."""
    composition, root = composed(file)
    own = {f"gin/{name}" for name in strict}
    return build([dataclasses.replace(s, preset=s.preset and s.name not in own) for s in composition.sources], root)[0]


@pytest.mark.parametrize("file", [f for f in FILES if f not in (*FRAGMENTS, *INCLUDED) and not f.startswith("models/")])
def test_file_loads_builds_abstractly_and_has_no_idle_binding(file):
    made = built(file, strict=[file])
    for stage in stages_of(made):

        def whole(stage=stage):
            backbone = stage.backbone(rngs=nnx.Rngs(0))
            return nnx.state(stage.objective(backbone, info=stage.dataset.info, rngs=nnx.Rngs(1)))

        assert jax.tree.leaves(jax.eval_shape(whole))


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("models/")])
def test_model_loads_builds_abstractly_and_has_its_size(file):
    stage = built(file, strict=[file]).stages[0]
    state = jax.eval_shape(lambda: nnx.state(stage.backbone(rngs=nnx.Rngs(0)), nnx.Param))
    trained = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))
    assert trained == TRAINED[file.removeprefix("models/").removesuffix(".gin")]


def test_every_fragment_is_of_use_to_a_study():
    # Between them these have all methods and both kinds of transfer.
    studies = ("studies/quickstart.gin", "studies/methods.gin", "studies/detection.gin")
    included = {source.name for study in (*studies, "recipes/lit.gin") for source in read(study)}
    assert {f"gin/{name}" for name in FRAGMENTS} <= included
    assert built("recipes/lit.gin", strict=["nano/lit.gin"])
    for study in studies:
        mine = {source.name.removeprefix("gin/") for source in read(study)}
        assert built(study, strict=[f for f in FRAGMENTS if f in mine])


CELLS = """
include 'paper/byol.gin'
include 'paper/simclr.gin'
include 'paper/dino.gin'
include 'paper/overlays.gin'
include 'models/vit_b16.gin'
COMPUTE_DTYPE = 'float32'
Study.title = 'T'
Study.question = 'Q'
Study.budgets = ('1e21',)
Study.methods = {'byol': (@byol/Stage(),), 'simclr': (@simclr/Stage(),), 'dino': (@dino/Stage(),)}
Study.datasets = {'jft': @datasets.shapes(), 'align': @datasets.shapes(), 'coco': @datasets.shapes()}
Study.overlays = {
    'byol/jft': (@byol/jft/Stage(),), 'byol/align': (@byol/align/Stage(),), 'byol/coco': (@byol/coco/Stage(),),
    'simclr/coco': (@simclr/coco/Stage(),), 'dino/jft': (@dino/jft/Stage(),),
}
Study.evaluations = (@Evaluation(),)
Study.primary = 'accuracy'
Evaluation.evaluator = @evaluators.accuracy()
Evaluation.data = {'eval': (@datasets.shapes(), 'test')}
Stage.dataset = @datasets.shapes()
"""


def test_the_papers_settings_that_depend_on_the_data(tmp_path):
    (tmp_path / "cells.gin").write_text(CELLS)
    sources = config.compose(gin_files=[tmp_path / "cells.gin"]).sources
    strict = [dataclasses.replace(s, preset=s.preset and s.name != "gin/paper/overlays.gin") for s in sources]
    cells = [(method, stages[0]) for method, stages in build(strict, "Study")[0].cells()]
    ema = [s.objective.keywords["ema"] for method, s in cells if method == "byol"]
    decay = {method: [s.optimizer.weight_decay for m, s in cells if m == method] for method in ("byol", "simclr")}
    dino = [(s.optimizer.clip.norm, s.optimizer.lr.peak) for method, s in cells if method == "dino"]
    assert ema == [0.99, 0.99, 0.97]
    assert decay == {"byol": [0.1, 0.1, 1e-6], "simclr": [0.1, 0.1, 1e-6]}
    assert dino == [(0.1, pytest.approx(4e-4)), (1.0, pytest.approx(3e-3)), (1.0, pytest.approx(3e-3))]


@pytest.mark.parametrize(
    "name, peak, expected",
    [
        ("mae", 2.4e-3, {"weight_decay": 0.05, "name": "adamw"}),
        ("simclr", 4.8, {"weight_decay": 1e-6, "name": "lars", "adapt": 0.001}),
        ("supervised", 1e-4, {"weight_decay": 0.3, "name": "adamw"}),
    ],
)
def test_official_optimisers(name, peak, expected):
    stage = config.load(config.compose(**{**DEFAULTS, "objective": name})).object.stages[0]
    assert stage.batch_size == 4096 and stage.optimizer.lr.peak == pytest.approx(peak, rel=1e-12)
    assert {key: getattr(stage.optimizer, key) for key in expected} == expected


def test_batch_size_and_learning_rate_scale_together():
    composition = config.compose(**DEFAULTS, bindings=["mae/BATCH_SIZE = 512"])
    stage = config.load(composition).object.stages[0]
    assert stage.batch_size == 512 and stage.optimizer.lr.peak == pytest.approx(3e-4)


def test_compute_dtype_is_explicit_in_every_file_that_could_leave_it_out():
    for file in [f for f in FILES if f.startswith(("models/", "methods/mae", "methods/simclr"))]:
        assert "compute_dtype = " in (ROOT / file).read_text()


def test_the_folder_gin_is_no_package():
    # With an __init__.py it would hide the module of gin-config.
    assert not list(ROOT.rglob("__init__.py"))
    import gin

    assert hasattr(gin, "parse_config")


def test_wheel_ships_every_folder_of_presets():
    shipped = (ROOT.parent / "setup.cfg").read_text()
    for folder in {Path(file).parent.as_posix() for file in FILES}:
        assert f"share/spendflops/gin/{folder} =\n    gin/{folder}/*.gin" in shipped
