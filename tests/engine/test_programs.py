"""What a program costs: known before anything is compiled, equal to what is compiled, counted once for all budgets."""

from __future__ import annotations

import dataclasses
import functools

import enginelib
import pytest
from enginelib import METHODS, VIT, recipe, stage
from spendflops_plugins.mae import MAE
from spendflops_plugins.vit import ViT

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.build import build, build_stage
from spendflops.engine.loop import run_recipe
from spendflops.engine.program import COMPILATIONS
from spendflops.study.plan import check_counters, plan
from spendflops.study.report import planned


class Thousand(Dataset):
    """A data set that is on no disk: what is known of it is enough for a plan."""

    def __init__(self):
        self.info = DatasetInfo(
            name="thousand",
            features={"image": "uint8 H W C", "label": "int32"},
            classes=tuple(f"class {i}" for i in range(1000)),
            sizes={"train": 1_281_167},
        )

    def source(self, split, *, features):
        raise AssertionError("a plan must not open the data")


class Unlabelled(Thousand):
    """The same images without their labels."""

    def __init__(self):
        super().__init__()
        self.info = dataclasses.replace(self.info, features={"image": "uint8 H W C"})


def test_a_feature_that_a_method_reads_and_the_data_lack_is_an_error_before_the_data_are_opened():
    with pytest.raises(ConfigError, match="data set 'thousand' has no 'label'"):
        build_stage(stage("supervised", dataset=Unlabelled()))


@pytest.mark.parametrize("method", METHODS)
def test_the_compiled_step_has_exactly_the_flops_of_the_traced_one(method):
    program = build_stage(stage(method)).train
    model, hardware = program.cost(), program.cost(hardware=True)
    targets = {"targets"} if method == "dino" else set()
    assert model.total == hardware.total > 0
    assert model.phases == hardware.phases and set(model.phases) == {"forward", "backward"} | targets
    check_counters(plan(build(recipe(stage(method))), compiled=True)["programs"])


def test_saving_memory_changes_no_price():
    """The compiled program does more, says so, and agrees with the traced one in the rest."""
    saving = functools.partial(VIT, remat="blocks", attention="chunked")
    plain, program = (build_stage(stage(backbone=backbone)).train for backbone in (VIT, saving))
    assert program.cost().phases == plain.cost().phases and program.closed_form == plain.closed_form
    (row,) = plan(build(recipe(stage(backbone=saving))), compiled=True)["programs"]
    repeated = row["rematted_flops_per_call"]
    assert repeated > 0 and plain.with_recomputation.rematted == 0
    assert row["hardware_flops_per_call"] == plain.cost().total + repeated
    check_counters([row])
    with pytest.raises(ConfigError, match="times the FLOPs of the traced one"):
        check_counters([row | {"rematted_flops_per_call": 0}])


@pytest.mark.parametrize("remat", ["none", "dots", "blocks"])
def test_the_price_of_saving_memory_is_planned(remat):
    """Of two blocks 32 wide on 16 + 1 tokens, 2 heads: attention is computed again, or all products but the last."""
    backbone = functools.partial(VIT, dim=32, depth=2, mlp_ratio=2.0, remat=remat)
    made = recipe(stage("supervised", backbone=backbone))
    body = plan(build(made))
    (row,) = body["programs"]
    attention, images = 2 * 2 * 17 * 17 * 32, 8 * 2
    linear = 2 * 17 * 32 * (3 * 32 + 32 + 64)
    expected = {"none": 0, "dots": attention * images, "blocks": (attention + linear) * images}
    assert row["recomputed_flops_per_call"] == expected[remat]
    plain = functools.partial(backbone, remat="none")
    assert row["flops_per_call"] == build_stage(stage("supervised", backbone=plain)).train.cost().total
    assert ("computed again to save memory" in planned.recipe({**body, "notes": []}, "run")) == (remat != "none")


def test_one_compilation_serves_all_budgets_and_seeds_of_a_method(tmp_path):
    # A width and a batch size that no other test compiles.
    own = {"backbone": functools.partial(VIT, dim=24), "batch_size": 5}
    count = COMPILATIONS.count
    for number, (budget, seed) in enumerate([("2 steps", 0), ("1e7", 1), ("0 steps", 2)]):
        run_recipe(recipe(stage(**own), budget=budget, seed=seed), tmp_path / str(number), quiet=True)
    assert COMPILATIONS.count - count == 2  # the initial values and the step
    assert build_stage(stage(**own)) is build_stage(stage(**own, share=0.5, split="test"))


def test_what_changes_the_program_is_compiled_anew():
    first = build_stage(stage("mae"))
    more_hidden = functools.partial(METHODS["mae"], mask_ratio=0.5)
    wide = functools.partial(VIT, dim=32)
    changed = [
        build_stage(s)
        for s in (stage("simclr"), stage(objective=more_hidden), stage(backbone=wide), stage(batch_size=16))
    ]
    assert len({id(b) for b in (first, *changed)}) == 5
    assert first.train.cost().total != changed[1].train.cost().total


def test_a_class_that_is_defined_again_under_its_name_is_a_new_program():
    def defined(factor):
        class Again(MAE):
            def loss(self, batch, targets, ctx):
                first = super().loss(batch, targets, ctx)
                return first if factor == 1 else super().loss(batch, targets, ctx.scoped("b"))

        return functools.partial(Again, **METHODS["mae"].keywords)

    one, two = (build_stage(stage(objective=defined(n))) for n in (1, 2))
    assert one is not two


def test_a_base_model_at_224_pixels_costs_the_published_flops(tmp_path, capsys):
    import json

    from spendflops.cli.main import main

    gin = tmp_path / "base.gin"
    gin.write_text("plugins.datasets.Thousand = 'test_programs:Thousand'\nsupervised/Stage.batch_size = 2\n")
    flags = ["--objective", "supervised", "--backbone", "vit_b16", "--dataset", "test_programs:Thousand"]
    assert main(["plan", *flags, "--budget", "3e18", "--gin", "supervised/BATCH_SIZE = 2", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["flops_per_example"] == 105_151_758_336  # facts, T7
    assert body["steps"] == 3 * 10**18 // (2 * 105_151_758_336)


TABLE = {  # (size, part hidden, decoder layers): FLOPs of a training step per image, tables/flops_mae_reference.csv
    ("Ti", 0.75, 8): 33_925_066_752,  # T8
    ("Ti", 0.75, 1): 6_228_215_808,  # T8
    ("B", 0.75, 1): 30_758_737_920,
    ("B", 0.75, 8): 58_455_588_864,
    ("Ti", 0.55, 1): 7_643_268_096,
    ("Ti", 0.85, 8): 33_232_023_552,
    ("B", 0.55, 8): 79_021_830_144,
    ("B", 0.85, 1): 20_342_446_080,
}
SIZES = {"Ti": {"dim": 192, "heads": 3}, "B": {"dim": 768, "heads": 12}}


def thrown_away(ratio):
    """The reference predicts the pixels of the class token and of what is visible, which no loss reads."""
    return 3 * 2 * (int(196 * (1 - ratio)) + 1) * 512 * 768


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if i in (1, 2) else [pytest.mark.slow]) for i, c in enumerate(TABLE)]
)
def test_t8_masked_autoencoders_cost_the_published_flops(case):
    size, ratio, layers = case
    objective = functools.partial(MAE, mask_ratio=ratio, decoder_depth=layers)
    backbone = functools.partial(ViT, **SIZES[size], depth=12)
    built = build_stage(stage(objective=objective, backbone=backbone, batch_size=1, dataset=Thousand()))
    assert built.train.cost().total == TABLE[case] - thrown_away(ratio)


PLAN = """
import functools, json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
import jax
from enginelib import stage
from test_programs import Thousand
from spendflops_plugins.mae import MAE
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT
from spendflops.engine.build import build_stage
huge = functools.partial(ViT, patch_size=14, dim=1280, depth=32, heads=16)
started = time.time()
flops = [
    build_stage(stage(objective=o, backbone=huge, batch_size=1024, dataset=Thousand())).train.cost().total
    for o in {"mae": [MAE], "both": [MAE, Supervised]}[sys.argv[1]]
]
print(json.dumps([flops, time.time() - started, len(jax.live_arrays())]))
"""


@pytest.mark.parametrize("which", ["mae", pytest.param("both", marks=pytest.mark.slow)])
def test_a_huge_model_is_planned_in_seconds_without_memory(which):
    flops, seconds, arrays = enginelib.python(PLAN, which)
    assert flops[0] / 1024 == pytest.approx(
        290.99e9 - 3 * 2 * 64 * 512 * 588, rel=1e-4
    )  # visible pixels: not predicted
    assert flops == sorted(flops) and arrays == 0
    assert seconds < 60  # 8 on an idle machine
