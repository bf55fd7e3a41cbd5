"""Zero-shot classification: prompts, class vectors (T11), ranks against a loop, and a CLIP that learns colours."""

import dataclasses
import functools
import math
import pickle

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins import zero_shot
from spendflops_plugins.clip import CLIP, CLIPViews
from spendflops_plugins.vit import ViT
from spendflops_plugins.zero_shot import TEMPLATES, ZeroShot, class_vectors, rank_of_label
from spendflops_plugins.zero_shot.prompts import Prompts, Tokens, canonical

import spendflops.testing
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.engine.build import build
from spendflops.engine.describe import describe
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Evaluation, Recipe, Stage
from spendflops.parts import text
from spendflops.testing.samples import KitData

SPEC = dataclasses.replace(drive.SPEC, tokenizer="builtin")


class Named(Dataset):
    """Only its classes are looked at."""

    def __init__(self, *, classes, class_names=()):
        self.info = dataclasses.replace(drive.info(), classes=classes, class_names=class_names)

    def source(self, split, *, features):
        raise AssertionError("opened")


BIRDS = Named(classes=("n01", "n02", "n03"), class_names=("great_tit", "jay", "Reed-warbler"))


def supplied(dataset=BIRDS, **options):
    made, split = ZeroShot(**options).supplies({"eval": (dataset, "test")})["prompts"]
    source = made.source(split, features=("text", "label"))
    assert len(source) == made.info.sizes[split]
    return [(source[i]["text"], source[i]["label"]) for i in range(len(source))]


# Prompts


def test_every_template_with_every_name():
    assert supplied() == [
        ("a photo of a great_tit.", 0),
        ("a photo of a jay.", 1),
        ("a photo of a Reed-warbler.", 2),
    ]
    several = supplied(templates=("{}", "two: {} {}"), class_names=(("tit", "titmouse"), "jay", ("warbler",)))
    assert several == [
        ("tit", 0),
        ("two: tit tit", 0),
        ("titmouse", 0),
        ("two: titmouse titmouse", 0),
        ("jay", 1),
        ("two: jay jay", 1),
        ("warbler", 2),
        ("two: warbler warbler", 2),
    ]
    plain = Named(classes=("red", "blue"))
    assert [each for each, _ in supplied(plain)] == ["a photo of a red.", "a photo of a blue."]
    # Of a data set without a list of classes, where names are given.
    assert supplied(Named(classes=()), class_names=("a", "b"))[1] == ("a photo of a b.", 1)


def test_canonical_texts():
    texts = [each for each, _ in supplied(canonicalise=True)]
    assert texts == ["a photo of a great tit", "a photo of a jay", "a photo of a reedwarbler"]
    assert canonical("  A_b,  (C)! d's ") == "a b c ds"


def test_named_sets_of_templates():
    assert {name: len(set(texts)) for name, texts in TEMPLATES.items()} == {"photo": 1, "clip_7": 7, "clip_80": 80}
    assert all(each.count("{}") == 1 for texts in TEMPLATES.values() for each in texts)
    assert set(TEMPLATES["clip_7"]) | set(TEMPLATES["photo"]) < set(TEMPLATES["clip_80"])
    assert len(supplied(templates="clip_80")) == 240


def test_prompts_are_a_data_set():
    made, split = ZeroShot().supplies({"eval": (BIRDS, "test")})["prompts"]
    assert made.info.classes == BIRDS.info.classes and made.info.name == "prompts of toy"
    assert describe(made)["templates"] == ["a photo of a {}."]
    source = pickle.loads(pickle.dumps(made.source(split, features=("text",))))
    assert source[2] == {"text": "a photo of a Reed-warbler.", "label": 2}
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(DataError, match="no split 'test'"):
        made.source("test")
    assert ZeroShot().supplies({}) == {}
    assert [ZeroShot().wants(role) for role in ZeroShot.roles] == [("text_embedding",), ("image_embedding",)]


@pytest.mark.parametrize(
    "dataset, options, error, said",
    [
        (BIRDS, {"templates": ("a photo.",)}, ConfigError, "no place for a name"),
        (BIRDS, {"templates": ()}, ConfigError, "no template"),
        (BIRDS, {"templates": "clip_8"}, ConfigError, "did you mean"),
        (BIRDS, {"max_length": 2}, ConfigError, "no room"),
        (BIRDS, {"resize": "none"}, ConfigError, "unknown resize"),
        (BIRDS, {"class_names": ("a", "", "c")}, DataError, "class 1 has an empty name"),
        (BIRDS, {"class_names": ("a", "_ .", "c")}, DataError, "class 1 has an empty name"),
        (BIRDS, {"class_names": ("a", "b", ())}, DataError, "class 2 has no name"),
        (BIRDS, {"class_names": ("a", "b")}, DataError, "2 class_names, toy 3 classes"),
        (Named(classes=("x", " ")), {}, DataError, "class 1 has an empty name"),
        (Named(classes=()), {}, DataError, "does not name its classes"),
        (Named(classes=("n01440764", "n01443537")), {}, DataError, "does not name its classes"),
        (Named(classes=("0", "1")), {}, DataError, "does not name its classes"),
    ],
)
def test_what_is_refused_before_anything_runs(dataset, options, error, said):
    with pytest.raises(error, match=said):
        Evaluation(evaluator=ZeroShot(**options), data={"eval": (dataset, "test")})


def test_templates_are_looked_at_with_the_options():
    with pytest.raises(ConfigError, match="has no place"):
        ZeroShot(templates=("a {}", "a photo."))


# Tokens


def tokens_of(dataset=BIRDS, spec=SPEC, **options):
    evaluator = ZeroShot(**options)
    made, _ = evaluator.supplies({"eval": (dataset, "test")})["prompts"]
    return evaluator.preprocess(role="prompts", info=made.info, spec=spec)


def test_tokens_are_as_long_as_the_longest_prompt():
    preprocess = tokens_of(templates="clip_7")
    counts = [len(text.tokenizer("builtin").ids(each)) for each, _ in supplied(templates="clip_7")]
    assert preprocess == Tokens(tokenizer="builtin", length=max(counts)) and preprocess.features == ("text", "label")
    assert preprocess.entries == {"tokens": ("int32", (max(counts),)), "label": ("int32", ())}
    short = preprocess({"text": "a jay", "label": 1})
    assert short["label"] == 1 and short["tokens"].dtype == np.int32
    np.testing.assert_array_equal(short["tokens"], text.encode("builtin", "a jay", max(counts)))
    with pytest.raises(DataError, match="a prompt has"):
        preprocess({"text": "jay " * 50, "label": 1})


def test_a_length_that_is_set_cuts():
    preprocess = tokens_of(max_length=5)
    long = preprocess({"text": "a photo of a great tit on a branch", "label": 0})["tokens"]
    full = text.tokenizer("builtin").ids("a photo of a great tit on a branch")
    assert long.tolist() == full[:4] + full[-1:]
    # Names of one's own and canonical texts count, too.
    assert tokens_of(class_names=("jay " * 30, "b", "c")).length > 30
    assert tokens_of(canonicalise=True).length < tokens_of().length
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        tokens_of(spec=drive.SPEC)


# Scores


def test_t11_each_embedding_is_normalised_before_the_mean():
    vectors = class_vectors(np.array([(1.0, 0.0), (0.0, 1.0), (0.0, 3.0)]), np.zeros(3, int), 1)
    np.testing.assert_allclose(vectors, [[0.4472135955, 0.8944271910]], atol=1e-10)
    with pytest.raises(DataError, match="class 1 has no prompt"):
        class_vectors(np.ones((2, 3)), np.array([0, 2]), 3)


def test_ranks():
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert rank_of_label(scores, np.array([2, 0, 2])).tolist() == [1, 0, 2]


def run(texts, images, batch_size=4, order=None, about=None):
    """Scores for (embeddings, labels) of prompts and of images."""
    length = np.zeros((len(texts[1]), 3), np.int32)
    data = {
        "prompts": ({"text_embedding": texts[0]}, {"tokens": length, "label": texts[1]}),
        "eval": ({"image_embedding": images[0]}, {"label": images[1]}),
    }
    return drive.score(ZeroShot(), data, about=about or drive.info(7), batch_size=batch_size, order=order)


def embeddings(seed=0, noise=2.0, classes=7, width=6):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, width))
    labels = rng.permutation(np.arange(15) % classes)
    prompts = (centres[labels] + 0.3 * rng.standard_normal((15, width))) * rng.uniform(0.1, 9, (15, 1))
    own = rng.integers(0, classes, 33)
    images = centres[own] + noise * rng.standard_normal((33, width))
    return (prompts.astype(np.float32), labels.astype(np.int32)), (images.astype(np.float32), own.astype(np.int32))


def slow(texts, images):
    def unit(v):
        length = math.sqrt(sum(x * x for x in v))
        return [x / length for x in v]

    means = []
    for c in range(7):
        own = [unit(v) for v, label in zip(*texts, strict=True) if label == c]
        means.append(unit([sum(column) / len(own) for column in zip(*own, strict=True)]))
    hits = np.zeros(2)
    for v, label in zip(*images, strict=True):
        cosine = [sum(a * b for a, b in zip(unit(v), w, strict=True)) for w in means]
        ranked = sorted(range(7), key=lambda c: (-cosine[c], c))
        hits += [ranked[0] == label, label in ranked[:5]]
    return hits / len(images[1])


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_against_a_loop_for_any_batch_size_and_order(batch_size, monkeypatch):
    texts, images = embeddings()
    top1, top5 = slow(texts, images)
    assert 0.1 < top1 < top5 < 1
    monkeypatch.setattr(zero_shot, "_ROWS", 8)
    result = run(texts, images, batch_size=batch_size)
    assert (result["accuracy"], result["accuracy_top5"]) == (top1, top5)
    assert result["accuracy_sd"] == pytest.approx((top1 * (1 - top1) * 10 / 33) ** 0.5)
    assert (result["examples"], result["classes"], result["prompts"]) == (33, 7, 15)
    assert run(texts, images, batch_size=batch_size, order=np.random.default_rng(1).permutation(33)) == result


def test_bounds_and_lengths_of_vectors():
    texts, images = embeddings(noise=0.01)
    assert run(texts, images)["accuracy"] == 1
    assert run(texts, (images[0] * 1e3, images[1]))["accuracy"] == 1
    assert run(texts, (images[0], (images[1] + 1) % 7))["accuracy"] == 0


def test_scores_that_are_refused():
    texts, images = embeddings()
    with pytest.raises(DivergedError, match="prompts"):
        run((texts[0] * np.nan, texts[1]), images)
    with pytest.raises(DivergedError, match="images"):
        run(texts, (images[0] * np.inf, images[1]))
    for labels in (images[1] - 7, images[1] + 7):
        with pytest.raises(DataError, match="33 of 33 labels are none of the 7"):
            run(texts, (images[0], labels))
    with pytest.raises(ConfigError, match="zero_shot needs label"):
        ZeroShot().preprocess(role="eval", info=drive.info(features=("image",)), spec=SPEC)


def test_protocol_says_what_changes_the_score():
    default = ZeroShot().protocol
    assert default == "zero_shot/1:templates=photo:names=data:length=longest:resize=squash"
    variants = [
        {"templates": "clip_7"},
        {"templates": "clip_80"},
        {"templates": ("a {}",)},
        {"templates": ("a {}", "the {}")},
        {"class_names": ("a", "b")},
        {"class_names": ("a", ("b", "c"))},
        {"canonicalise": True},
        {"max_length": 20},
        {"resize": "crop", "crop_fraction": 1.0},
    ]
    assert len({default, *(ZeroShot(**v).protocol for v in variants)}) == 10
    assert ZeroShot(templates=list(reversed(TEMPLATES["clip_7"]))).protocol == ZeroShot(templates="clip_7").protocol


# With the core


def clip(budget, evaluation, **changes):
    """Images of 16 pixels whose colour tells their class, and captions that name it."""
    small = {"text_dim": 16, "text_depth": 0, "text_heads": 2, "text_positions": 16, "embedding_dim": 16}
    stage = Stage(
        objective=functools.partial(CLIP, **{**small, **changes}),
        backbone=functools.partial(ViT, image_size=16, patch_size=8, dim=16, depth=0, heads=2, pooling="mean"),
        dataset=KitData(length=64),
        batch_size=16,
        optimizer=adamw(lr=1e-2),
        views=CLIPViews(max_length=16),
    )
    return Recipe(stages=(stage,), evaluations=(evaluation,), budget=budget, log_every=40, checkpoint_every=1000)


def scored(**options):
    data = {"eval": (KitData(length=64), "test")}
    return Evaluation(evaluator=ZeroShot(**options), data=data, batch_size=32)


def test_a_clip_that_was_trained_scores_far_above_chance(tmp_path):
    evaluation = scored(templates=("a {} on noise", "a {}"))
    result = run_recipe(clip("40 steps", evaluation), tmp_path, quiet=True)
    (score,) = result["scores"]
    assert score["values"]["accuracy"] > 0.6  # of four classes
    assert (score["values"]["examples"], score["values"]["prompts"]) == (64, 8)
    assert score["data"] == {"prompts": "prompts of kit:prompts", "eval": "kit:test"}
    assert score["protocol"].startswith("zero_shot/1:templates=2-") and score["protocol"].endswith("@16x16px")


def test_texts_and_images_pass_through_their_own_tower_alone():
    built = build(clip("1 steps", scored()))
    by_split = {p.split: p for p in built.predictions}
    image, prompts = by_split["test"], by_split["prompts"]
    assert set(prompts.program.args[2]) == {"tokens", "label", "_mask"}
    backbone = built.stages[0].definition.example.backbone
    assert image.program.cost().total < 32 * (backbone.flops((16, 16)) + 2 * 16 * 16) * 1.1
    assert 0 < prompts.program.cost().total < image.program.cost().total


def test_a_prompt_longer_than_the_table_of_positions_is_an_error_before_training():
    with pytest.raises(ConfigError, match="a table of 4 positions"):
        build(clip("1 steps", scored(), text_positions=4)).predictions[0].program.cost()


def test_prompts_of_ones_own_stand_in_the_place_of_the_supplied_ones():
    own = Prompts(about="me", classes=KitData().info.classes, names=(("jay " * 40,),) * 4, templates=("{}",))
    data = {"eval": (KitData(), "test"), "prompts": (own, "prompts")}
    evaluator = ZeroShot(templates="clip_7")
    assert Evaluation(evaluator=evaluator, data=data).data["prompts"][0] is own
    # They are longer than the evaluator's own would be, as far as it can tell: nothing is cut in silence.
    preprocess = tokens_of(KitData(), templates="clip_7")
    with pytest.raises(DataError, match="a prompt has 42 tokens"):
        preprocess(own.source("prompts")[0])


def kit_predictions(batch, quality):
    """Embeddings that are one-hot in the class: of a prompt, and of an image, right or not."""
    if "tokens" in batch:
        return {"text_embedding": np.eye(4, dtype=np.float32)[batch["label"]]}
    shift = {"perfect": 0, "worst": 1, "noisy": batch["image"].sum(axis=(1, 2, 3), dtype=int) % 2}[quality]
    return {"image_embedding": np.eye(4, dtype=np.float32)[(batch["label"] + shift) % 4]}


test_kit = spendflops.testing.evaluator_tests(ZeroShot, predict=kit_predictions, templates="clip_7")
