"""Seconds of whole evaluations of 2,500 images of 32 pixels: from JPEGs to a score, nano ViT.

Read, decoded, preprocessed, predicted, and whatever the evaluator does then: fitting, neighbours, confusion matrices.
Evaluators with a bank fit on 2,000 images and score 500; the others read all 2,500. Weights are random, which changes
no time. The first time a program is also compiled, which is a case of its own; it is then taken again a few times. The
last case is kNN where all features are found in the cache of another run: images are read, the model does not run.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import jax
from PIL import Image
from stages import begun

from spendflops.contracts import registry
from spendflops.contracts.dataset import Dataset
from spendflops.engine import evaluate
from spendflops.engine.build import build
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Evaluation, Recipe, Stage
from spendflops.parts.images import decode_mask

BANK, QUERIES = 2000, 500


def write(folder: Path, bank: int, queries: int) -> None:
    """Rendered scenes as JPEGs, in class folders and beside their label maps; ``val`` has all of them."""
    shapes = registry.load("datasets", "shapes")(objects=(2, 2))
    source = shapes.source("train", features=("image", "label", "mask"))
    for index in range(bank + queries):
        sample = source[index]
        image, mask = Image.fromarray(sample["image"].decode()), Image.fromarray(decode_mask(sample["mask"]))
        for split in ("train" if index < bank else "test", "val"):
            for path, kept in (
                (folder / "photos" / split / shapes.info.classes[sample["label"]] / f"{index}.jpg", image),
                (folder / "scenes" / "images" / split / f"{index}.jpg", image),
                (folder / "scenes" / "masks" / split / f"{index}.png", mask),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                kept.save(path)


def photos(folder: Path) -> Dataset:
    """Labelled images."""
    return registry.load("datasets", "folder")(path=str(folder / "photos"))


def scenes(folder: Path) -> Dataset:
    """Images with label maps."""
    names = registry.load("datasets", "shapes")().info.mask_classes
    made = registry.load("datasets", "folder")
    return made(path=str(folder / "scenes"), images="images", masks="masks", mask_classes=names)


VIT = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 4, "heads": 4, "positions": "sincos_mae"}
TEXT = {"embedding_dim": 64, "text_dim": 64, "text_depth": 2, "text_heads": 2, "text_positions": 24}


def stage(method: str, dataset: Dataset) -> Stage:
    """A method on the model of gin/models/vit_nano.gin."""
    objective = registry.load("objectives", method)
    options = TEXT if method == "clip" else {}
    views = objective.views(captions="labels", max_length=24) if method == "clip" else objective.views()
    return Stage(
        objective=functools.partial(objective, **options),
        backbone=functools.partial(registry.load("backbones", "vit"), **VIT),
        views=views,
        dataset=dataset,
        optimizer=adamw(lr=1e-3),
        batch_size=64,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """An evaluator with its options, on a model."""

    model: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SCORED = {
    "knn": Scored(model="supervised"),
    "ridge_classification": Scored(model="supervised"),
    "ridge_segmentation": Scored(model="segmentation"),
    "low_shot": Scored(model="supervised", options={"shots": 10}),
    "zero_shot": Scored(model="clip", options={"templates": "clip_80"}),
    "rankme": Scored(model="supervised"),
    "uniformity_alignment": Scored(model="supervised"),
    "feature_deviation": Scored(model="supervised"),
    "accuracy": Scored(model="supervised"),
    "mapped_accuracy": Scored(model="supervised"),
    "segmentation_miou": Scored(model="segmentation"),
}


def scorer(recipe: Recipe, features: FeatureCache | None = None) -> Callable[[], Any]:
    """From data to the score of the recipe's one evaluation, by an untrained model."""
    built = build(recipe)
    (evaluation,) = recipe.evaluations
    state, _ = begun(built.stages[0])
    params, stats = jax.device_get((state["params"], state["stats"]))

    def score() -> Any:
        collected: dict[str, evaluate.Collected] = {}
        for p in built.predictions:
            shelf = features and features.shelf(p.program, params, stats, calls=p.calls)
            evaluate.collect(p, params, stats, collected, shelf)
        return evaluate.score(built, evaluation, collected[evaluation.label])

    return score


def main() -> None:
    """Takes each evaluator for the first time, then again."""
    quick = harness.options(__doc__ or "").quick
    before, cases = harness.machine(), []
    bank, queries, rounds = (200, 50, 1) if quick else (BANK, QUERIES, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, bank, queries)
        data = {"supervised": photos(folder), "clip": photos(folder), "segmentation": scenes(folder)}
        for evaluator, scored in SCORED.items():
            made = registry.load("evaluators", evaluator)(**scored.options)
            dataset = data[scored.model]
            roles = {"bank": (dataset, "train"), "query": (dataset, "test")}
            roles = roles if made.roles == tuple(roles) else {"eval": (dataset, "val")}
            recipe = Recipe(
                stages=(stage(scored.model, dataset),),
                evaluations=(Evaluation(evaluator=made, data=roles),),
                budget="1 steps",
            )
            score = scorer(recipe)
            first = harness.seconds(score)
            cases.append(harness.Case(name=f"{evaluator}, compiled first", unit="s", samples=[first]))
            again = [harness.seconds(score) for _ in range(rounds)]
            cases.append(harness.Case(name=evaluator, unit="s", samples=again, goal="seconds"))
            if evaluator == "knn":
                found = scorer(recipe, FeatureCache(folder=folder / "features"))
                found()
                samples = [harness.seconds(found) for _ in range(rounds)]
                kept = harness.Case(name="knn, features found", unit="s", samples=samples)
    about = f"a bank of {bank:,}, {queries} queries, batches of 256"
    harness.finish("evaluators", [*cases, kept], quick=quick, before=before, about=about)


if __name__ == "__main__":
    main()
