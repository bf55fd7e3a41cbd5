"""The reference study: the published scores, and FLOPs computed once more by formulas written out here."""

import csv
import importlib.util
from pathlib import Path

import pytest

from spendflops import config
from spendflops.contracts.errors import ConfigError
from spendflops.engine.build import build_stage
from spendflops.study.recommend import recommend, references, to_text

TABLE_1 = {
    "BYOL": (41.7, 37.1, 42.4, 40.3, 35.1),
    "SimCLR": (44.0, 38.9, 42.9, 42.9, 43.3),
    "MAE": (42.3, 41.0, 40.5, 40.6, 42.3),
    "DINO": (36.7, 31.4, 34.2, 29.2, 32.2),
}
TABLE_2 = {
    "BYOL": (40.0, 39.2, 40.3, 39.1, 27.9),
    "SimCLR": (42.0, 41.7, 41.2, 40.3, 35.6),
    "MAE": (44.8, 44.6, 43.1, 42.6, 44.2),
    "DINO": (32.8, 29.8, 33.2, 30.9, 32.3),
}
DATA = ("ImageNet-1K", "COCO", "ImageNet-21K+1K", "JFT", "ALIGN")
STEPS = 250_000


@pytest.fixture(scope="module")
def lines():
    return list(csv.DictReader(references.text("where_flops").splitlines()))


@pytest.mark.parametrize("task, published", [("ade20k_miou", TABLE_1), ("coco_map", TABLE_2)])
def test_the_scores_are_those_of_the_tables(lines, task, published):
    found = {(r["method"], r["data"]): float(r["score"]) for r in lines if r["task"] == task and r["data"]}
    assert found == {(m, d): v for m, values in published.items() for d, v in zip(DATA, values, strict=True)}
    assert all(r["source"].startswith("arXiv 2209.15589") for r in lines)
    assert {r["data"] for r in lines if r["note"]} == {"JFT"}


def forward(tokens, width, layers):
    """Multiply-adds of the blocks of a transformer."""
    return layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


def by_hand(method, data):
    """FLOPs of a step of 4096 images at ViT-B/16, in terms of forward multiply-adds."""
    embed, blocks = 196 * 768 * 768, forward(197, 768, 12)
    batch = 4096
    if method == "MAE":
        kept = int(196 * (1 - (0.65 if data == "COCO" else 0.75)))
        rest = forward(kept + 1, 768, 12) + (kept + 1) * 768 * 512 + forward(197, 512, 8) + 197 * 512 * 768
        return 2 * batch * (3 * rest + 2 * embed)
    return 2 * batch * 2 * (3 * blocks + 2 * embed + (blocks + embed if method == "BYOL" else 0))


def test_flops_are_those_of_the_formulas(lines):
    """Heads and logits, which are not written out, are a hundredth of SimCLR and BYOL at most; MAE has none."""
    priced = [r for r in lines if r["flops"] and r["kind"] == "method"]
    assert len(priced) == 3 * 5 + 3 * 3
    for row in priced:
        flops = STEPS * by_hand(row["method"], row["data"])
        assert int(row["flops"]) == pytest.approx(flops, rel=0.003 if row["method"] == "MAE" else 0.01)
        assert (row["flops_source"], row["steps"], row["batch"]) == ("computed", "250000", "4096")
        assert row["flops_assumed"]


def test_flops_are_those_of_the_papers_study(lines):
    """The closed form of each method's own step, to the last digit."""
    study = config.load(config.compose(gin_files=["studies/paper.gin"], bindings=[]), root="Study").object
    for name, cell in (("MAE", "COCO"), ("MAE", "JFT"), ("SimCLR", "JFT"), ("BYOL", "ALIGN")):
        label = f"{name.lower()} B"
        (stage,) = study.overlays.get(f"{label}/{cell.lower()}", study.methods[label])
        expected = build_stage(stage).train.closed_form * STEPS
        assert stage.batch_size == 4096
        row = next(r for r in lines if (r["method"], r["data"], r["task"]) == (name, cell, "ade20k_miou"))
        assert int(row["flops"]) == expected


def test_lengths_that_are_not_stated_have_no_flops(lines):
    unknown = {(r["task"], r["method"], r["data"]) for r in lines if r["flops_unknown"]}
    assert unknown == {("ade20k_miou", "DINO", d) for d in DATA} | {
        ("coco_map", m, d) for m in TABLE_2 for d in DATA if m == "DINO" or d in ("JFT", "ALIGN")
    }
    assert all(not r["flops"] for r in lines if r["flops_unknown"])


@pytest.mark.parametrize(
    "task, budget, choice",
    [
        ("ade20k_miou", 1e19, None),
        ("ade20k_miou", 6e19, "MAE/ALIGN"),
        ("ade20k_miou", 1.5e20, None),
        ("ade20k_miou", 2.2e20, "SimCLR/ImageNet-1K"),
        ("ade20k_miou", 6e20, None),
        ("coco_map", 6e19, "MAE/ImageNet-1K"),
        ("coco_map", 3e20, None),
    ],
)
def test_what_the_paper_answers(task, budget, choice):
    found = recommend(references.rows("where_flops"), budget, task=task)
    assert (found.choice and found.choice.offer.name) == choice
    assert all(c.tied for c in found.candidates[1:]) and all(c.best is None for c in found.candidates)
    text = to_text(found)
    assert "DINO" in text and ("computed" in text) == (choice is not None)


def test_methods_without_published_numbers_are_not_there():
    with pytest.raises(ConfigError, match="no run has the method 'CLIP'"):
        recommend(references.rows("where_flops"), 2e20, task="ade20k_miou", wanted={"method": ["CLIP"]})
    with pytest.raises(ConfigError, match=r"no run was scored on 'imagenet'"):
        recommend(references.rows("where_flops"), 2e20, task="imagenet")
    found = recommend(references.rows("where_flops"), 2e20, task="ade20k_miou", wanted={"method": ["DINO"]})
    assert found.choice is None and found.reason == "no run has a known cost"
    with pytest.raises(ConfigError, match=r"no reference study 'where_flop' \(did you mean 'where_flops'"):
        references.rows("where_flop")


@pytest.mark.slow
def test_the_column_is_what_its_script_writes(lines, monkeypatch, tmp_path):
    path = Path(__file__).parents[2] / "benchmarks/reference_study.py"
    spec = importlib.util.spec_from_file_location("reference_study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy = tmp_path / "where_flops.csv"
    copy.write_text(references.text("where_flops"), encoding="utf-8")
    monkeypatch.setattr(module, "FILE", copy)
    module.main()
    assert copy.read_text(encoding="utf-8") == references.text("where_flops")
