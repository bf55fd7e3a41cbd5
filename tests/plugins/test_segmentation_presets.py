"""The presets of segmentation: Koppula's A.4 (downstream 1, T8), its sliding and linear variants, and ViNy's pets."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops import config
from spendflops.contracts.types import Context
from spendflops.engine.build import build

STEPS = 50_480


@functools.cache
def loaded(file):
    return config.load(config.compose(gin_files=[file])).object


def test_a4_as_it_is_written():
    recipe = loaded("paper/ade20k.gin")
    (stage,) = recipe.stages
    optimizer = stage.optimizer
    assert stage.batch_size == 32 and stage.dataset.info.name == "ade20k" and stage.role == "transfer"
    assert (optimizer.name, optimizer.clip.norm, optimizer.clip.per) == ("adamw", 1.0, "global")
    assert optimizer.direction.b1 == 0.9 and optimizer.direction.b2 == 0.999 and optimizer.direction.eps == 1e-8
    assert (optimizer.lr.peak, optimizer.weight_decay, optimizer.coupled) == (1e-4, 0.05, False)
    views = stage.views
    assert views.scales == tuple(np.arange(0.5, 2.01, 0.25)) and (views.color, views.jitter, views.grey) == (0.5, 1, 0)
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.1,) * 4
    built = build(recipe)
    assert built.steps == (STEPS,) and STEPS == 80 * (20_210 // 32)
    example = built.stages[0].definition.example
    assert example.backbone.image_size == (512, 512) and example.head.classifier.kernel.shape == (256, 150)
    assert [conv.kernel.shape for conv in example.head.convs] == [(3, 3, 768, 256), (3, 3, 256, 256)]
    (evaluation,) = recipe.evaluations
    assert evaluation.evaluator.protocol == "segmentation_miou/1:dataset:absent=skipped:center_crop:masks=stored_size"


def test_a4_costs_what_the_closed_form_says():
    """downstream 1.10: 1.04e18 for the backbone; head and upsampling come on top."""
    built = build(loaded("paper/ade20k.gin"))
    cost, formula = built.stages[0].train.cost().total, built.stages[0].train.closed_form
    assert cost == formula
    backbone = built.stages[0].definition.example.backbone.flops(train=True, images=32)
    assert STEPS * backbone == pytest.approx(1.04e18, rel=0.01)
    # 107.0 and 2.5 GMAC an image in the sheet, which counts products with padding: 96^2 taps of 32 x 32 for our 94^2.
    assert backbone / 32 / 3 / 2 == pytest.approx(107.0e9, rel=0.01)
    head = built.stages[0].definition.example.head.flops((32, 32))
    assert head / 2 == 94**2 * (768 + 256) * 256 + 1024 * 256 * 150
    padded = 96**2 * (768 + 256) * 256 + 1024 * 256 * 150
    assert padded == pytest.approx(2.5e9, rel=0.02)
    assert STEPS * cost == pytest.approx(STEPS * (backbone + 3 * 32 * head), rel=0.01)


def formula(step, base=1e-4):
    """downstream 1.4 in float64: a linear warm-up times a poly of power 1."""
    regular = base * (1 - step / STEPS)
    return regular * (1 - (1 - step / 1500) * (1 - 1e-6)) if step < 1500 else regular


def test_t8_the_learning_rate_of_every_step():
    schedule = loaded("paper/ade20k.gin").stages[0].optimizer.lr
    given = {0: 1.0e-10, 1: 6.6765e-8, 750: 4.92572e-5, 1499: 9.69658e-5, 1500: 9.70285e-5, 25_240: 5.0e-5}
    assert all(formula(step) == pytest.approx(value, rel=1e-5) for step, value in given.items())
    assert formula(50_479) == pytest.approx(1.98e-9, rel=2e-3)
    expected = np.array([formula(step) for step in range(STEPS)])

    def rates():
        ctx = Context(key=jax.random.key(0), step=jnp.arange(STEPS), steps=jnp.asarray(STEPS))
        return np.asarray(schedule(ctx))

    # The schedule is float32: in double precision it is the formula, rounded once. As it runs, 1 - t/T keeps an error
    # of a float32 unit of 1, times the base.
    with jax.enable_x64(True):
        np.testing.assert_array_less(np.abs(rates() / expected - 1), 2.0**-24 * 1.01)
    np.testing.assert_allclose(rates(), expected, rtol=2e-7, atol=1e-4 * 2.0**-23)


def test_windows_over_ade20k_cost_six_predictions():
    recipe = loaded("evaluators/ade20k_slide.gin")
    crop, slide = build(recipe).predictions
    assert slide.program.cost().total / slide.batch_size == 6 * crop.program.cost().total / crop.batch_size
    assert recipe.evaluations[1].evaluator.protocol.endswith(":slide:stride=341:masks=stored_size")
    assert slide.program.args[2]["image"].shape == (4, 6, 512, 512, 3)


def test_a_linear_probe_of_segmentation_has_no_backward_work_in_the_backbone():
    recipe = loaded("evaluators/ade20k_linear.gin")
    built = build(recipe).stages[0]
    assert recipe.stages[0].optimizer.trained(built.definition.params, built.definition.example) == [
        "head/classifier/bias",
        "head/classifier/kernel",
    ]
    example = built.definition.example
    forward = 32 * (example.backbone.flops() + example.head.flops((32, 32)))
    upsampling = 32 * 2 * 150 * (512 * 32 * 32 + 512 * 512 * 32)
    # Backward: the kernel's gradient, and the upsampling's transposed.
    assert built.train.cost().total == forward + upsampling + 32 * example.head.flops((32, 32)) + upsampling


ORIGINS = [
    f"plugins.{kind}.{name} = 'spendflops_plugins.viny_segmentation:{cls}'"
    for kind, name, cls in (
        ("objectives", "viny_segmentation", "VinySegmentation"),
        ("datasets", "viny_pets", "VinyPets"),
    )
]


def test_viny_pets_as_its_code_has_it():
    made = config.load(config.compose(gin_files=["paper/pets_viny.gin"], bindings=ORIGINS)).object
    (stage,) = made.stages
    optimizer = stage.optimizer
    assert (stage.batch_size, stage.length, optimizer.name, optimizer.clip) == (64, "100 epochs", "adamw", None)
    assert (optimizer.lr.peak, optimizer.lr.milestones, optimizer.lr.factor) == (2e-3, (0.7, 0.9, 0.95), 0.5)
    assert optimizer.weight_decay == 1e-4 and stage.dataset.info.sizes == {"train": 6000, "test": 1000}
    built = build(made)
    example = built.stages[0].definition.example
    assert (example.backbone.mean, example.backbone.std, example.patch) == ((0.0,) * 3, (1.0,) * 3, 16)
    cost = built.stages[0].train.cost()
    assert cost.total == example.closed_form(built.stages[0].inputs)
    # methods_mim 5.1: 0.3649 GMAC forward with the head.
    assert cost.phases["forward"] / 64 / 2 == pytest.approx(0.3649e9, rel=1e-3)
    # One pass of predictions for both scores; their protocols differ.
    assert len(built.predictions) == 1 and len({e.evaluator.protocol for e in made.evaluations}) == 2
    trained = optimizer.trained(built.stages[0].definition.params, example)
    assert "backbone/cls_token" not in trained and "backbone/pos_embed" in trained
