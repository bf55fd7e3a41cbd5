"""Examples a second: of the input pipeline alone and of the training step alone, 32-pixel JPEGs, nano ViT.

The pipeline decodes, crops, augments and batches as in a run, with one reader thread a core, and its batches are thrown
away. The step trains on one batch that stays where it is. Data starve the step where the first is smaller.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import harness
import jax
from PIL import Image
from stages import begun

from spendflops import config
from spendflops.contracts import registry
from spendflops.engine import data, sharding
from spendflops.engine.build import BuiltStage, build, open_source
from spendflops.engine.recipe import Stage

METHODS = ("supervised", "mae", "simclr")
WARM = 4


def write_images(folder: Path, count: int) -> None:
    """Rendered scenes as JPEGs in class folders."""
    shapes = registry.load("datasets", "shapes")()
    source = shapes.source("train", features=("image", "label"))
    for index in range(count):
        sample = source[index]
        path = folder / shapes.info.classes[sample["label"]] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample["image"].decode()).save(path, quality=90)


def built(method: str, folder: Path) -> tuple[Stage, BuiltStage]:
    """A stage of the nano recipe on the folder."""
    composition = config.compose(
        gin_files=["recipes/photos.gin"],
        dataset=f"folder:{folder}",
        budget="1000 steps",
        bindings=[f"STAGE = @{method}/Stage()"],
    )
    recipe = config.load(composition).object
    return recipe.stages[0], build(recipe).stages[0]


def pipeline(stage: Stage, made: BuiltStage, batches: int, rounds: int) -> list[float]:
    """Examples a second of the readers, a sample for each stretch of ``batches``."""
    source = open_source(stage.dataset, stage.split, made.views.features)
    stream = data.Batches(source, made.views, spec=made.spec, batch_size=stage.batch_size, seed=0)
    samples = []
    with stream.read(0, WARM + batches * rounds) as reader:
        for _ in range(WARM):
            next(reader)
        for _ in range(rounds):
            taken = harness.seconds(lambda: [next(reader) for _ in range(batches)])
            samples.append(batches * stage.batch_size / taken)
    return samples


def step(stage: Stage, made: BuiltStage, steps: int, rounds: int) -> list[float]:
    """Examples a second of the compiled step."""
    source = open_source(stage.dataset, stage.split, made.views.features)
    stream = data.Batches(source, made.views, spec=made.spec, batch_size=stage.batch_size, seed=0)
    batch = sharding.place(stream[0], made.train.args[1])
    state, call = begun(made)
    run = made.train.compile()

    def stretch(state: Any, count: int) -> Any:
        for _ in range(count):
            state, _ = run(state, batch, call)
        return jax.block_until_ready(state)

    state, samples = stretch(state, WARM), []
    for _ in range(rounds):
        kept = []
        taken = harness.seconds(lambda state=state, kept=kept: kept.append(stretch(state, steps)))
        state = kept[0]
        samples.append(steps * stage.batch_size / taken)
    return samples


def main() -> None:
    """Measures each method."""
    quick = harness.options(__doc__ or "").quick
    before, cases = harness.machine(), []
    count, rounds = (2, 2) if quick else (20, 7)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), 128 if quick else 2000)
        for method in METHODS:
            stage, made = built(method, Path(folder))
            for name, measure in (("pipeline", pipeline), ("step", step)):
                samples = measure(stage, made, count, rounds)
                cases.append(harness.Case(name=f"{method}: {name}", unit="examples a second", samples=samples))
    harness.finish("pipeline", cases, quick=quick, before=before, about=f"batches of {stage.batch_size}")


if __name__ == "__main__":
    main()
