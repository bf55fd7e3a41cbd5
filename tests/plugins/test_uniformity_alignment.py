"""Uniformity and alignment against loops over pairs; the two crops of an image; what is refused, and when."""

import dataclasses
import io
import math
import pickle

import drive_evaluator as drive
import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.uniformity_alignment import UniformityAlignment

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.types import Features
from spendflops.parts.images import ArrayImage, EncodedImage
from spendflops.testing.samples import KitData


def made_of_the_images(batch, quality):
    """Features that tell images apart: what the kit makes from labels has no views."""
    means = batch["image"].astype(np.float32).reshape(*batch["image"].shape[:2], -1, 3).mean(axis=2) / 255
    summary = np.concatenate([means, np.cos(9 * means)], axis=-1)
    return {"features": Features(tokens=summary[:, :, None], prefix=summary[:, :, None], summary=summary)}


test_kit = spendflops.testing.evaluator_tests(UniformityAlignment, predict=made_of_the_images)


def cloud(count=17, width=5, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 1, width)) + 0.5
    return (centres + noise * rng.standard_normal((count, 2, width))).astype(np.float32)


def run(pairs, *, batch_size=7, order=None, tokens=None, about=None, **options):
    pairs = np.asarray(pairs, np.float32)
    tokens = pairs[:, :, None] if tokens is None else tokens
    features = Features(tokens=tokens, prefix=tokens[:, :, :0], summary=pairs)
    data = {"eval": ({"features": features}, {"image": np.zeros((len(pairs), 2, 8, 8, 3), np.uint8)})}
    about = about or drive.info(features=("image",))
    return drive.score(UniformityAlignment(**options), data, about=about, batch_size=batch_size, order=order)


def slow(pairs, t=2.0, alpha=2.0):
    """Equations (1) and (2)."""
    units = [[[float(v) / math.hypot(*map(float, x)) for v in x] for x in pair] for pair in pairs]
    u = []
    for view in (0, 1):
        close = [
            math.exp(-t * math.dist(units[i][view], units[j][view]) ** 2) for i in range(len(units)) for j in range(i)
        ]
        u.append(math.log(sum(close) / len(close)))
    return sum(u) / 2, sum(math.dist(*pair) ** alpha for pair in units) / len(units)


@pytest.mark.parametrize("options", [{}, {"t": 0.5, "alpha": 1.0}, {"t": 10.0, "alpha": 4.0}])
@pytest.mark.parametrize("count", [2, 17])
def test_against_loops(count, options):
    pairs = cloud(count)
    result = run(pairs, **options)
    assert (result["uniformity"], result["alignment"]) == pytest.approx(slow(pairs, **options), rel=1e-11)
    assert result["examples"] == count


def test_batches_order_rotation_and_views_change_nothing():
    pairs, want = cloud(), run(cloud())
    for batch_size in (1, 16, 17, 32):
        assert run(pairs, batch_size=batch_size) == want
    order = np.random.default_rng(1).permutation(17)
    scales = 2.0 ** np.random.default_rng(1).integers(-40, 40, (17, 2, 1))
    for other in (run(pairs, order=order), run(pairs[:, ::-1]), run(pairs * scales)):
        assert other == pytest.approx(want, rel=1e-12)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((5, 5)))[0]
    assert run(pairs @ turn) == pytest.approx(want, rel=1e-5)  # rotated in float32


def test_collapse_noise_and_what_is_good():
    collapsed = run(np.tile(cloud(1, noise=0), (17, 1, 1)))
    assert collapsed["uniformity"] == pytest.approx(0, abs=1e-12) and collapsed["alignment"] < 1e-12
    noise = run(np.random.default_rng(0).standard_normal((300, 2, 256)))
    assert noise["uniformity"] == pytest.approx(-4, abs=0.05) and noise["alignment"] == pytest.approx(2, abs=0.05)
    good = run(np.repeat(np.random.default_rng(0).standard_normal((300, 1, 256)), 2, axis=1))
    assert good["uniformity"] == pytest.approx(-4, abs=0.05) and good["alignment"] == 0
    assert UniformityAlignment().primary == "uniformity" and not UniformityAlignment.higher_is_better


def test_which_feature():
    pairs = cloud()
    tokens = pairs[:, :, None] + np.array([-1, 0, 1], np.float32)[:, None]
    result = run(np.zeros_like(pairs), tokens=tokens, feature="mean_tokens")
    assert (result["uniformity"], result["alignment"]) == pytest.approx(slow(tokens.mean(axis=2)), rel=1e-5)
    with pytest.raises(ConfigError, match="needs a class token"):
        run(pairs, feature="class")


def preprocess(**options):
    about = drive.info(features=("image",))
    return UniformityAlignment(**options).preprocess(role="eval", info=about, spec=drive.SPEC)


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_the_crops_are_a_function_of_the_content():
    made = preprocess()
    assert made.features == ("image",) and made.entries == {"image": ("uint8", (2, 8, 8, 3))}
    first = made({"image": ArrayImage(picture())})["image"]
    assert first.shape == (2, 8, 8, 3) and first.dtype == np.uint8
    assert (first[0] != first[1]).any()
    np.random.default_rng(0).random(5)
    for other in (made, pickle.loads(pickle.dumps(made)), preprocess()):
        np.testing.assert_array_equal(other({"image": ArrayImage(picture().copy())})["image"], first)
    # Another image, another seed, another distribution: other crops.
    gradient = np.zeros((64, 64, 3), np.uint8)
    gradient[..., 0], gradient[..., 1] = np.arange(64) * 4, np.arange(64)[:, None] * 4
    marked = gradient.copy()
    marked[..., 2] = 1
    crops = [
        maker({"image": ArrayImage(pixels)})["image"][..., :2]
        for maker, pixels in (
            (made, gradient),
            (made, marked),
            (preprocess(seed=1), gradient),
            (preprocess(scale=(0.1, 0.2)), gradient),
        )
    ]
    assert all((a != b).any() for i, a in enumerate(crops) for b in crops[:i])


def test_the_crops_of_an_encoded_image_and_what_the_options_do():
    file = io.BytesIO()
    PIL.Image.fromarray(picture()).save(file, "PNG")
    made = preprocess()
    encoded = [made({"image": EncodedImage(file.getvalue(), name=name)})["image"] for name in ("a", "b")]
    np.testing.assert_array_equal(*encoded)
    # All of a square image, never flipped: both views are the image.
    whole = picture(size=(8, 8))
    views = dataclasses.replace(made, scale=(1.0, 1.0), flip=0.0)({"image": ArrayImage(whole)})["image"]
    for view in views:
        np.testing.assert_array_equal(view, whole)
    flipped = dataclasses.replace(made, scale=(1.0, 1.0), flip=1.0)({"image": ArrayImage(whole)})["image"]
    np.testing.assert_array_equal(flipped, views[:, :, ::-1])


def test_too_many_examples_are_refused_before_anything_is_trained():
    few = UniformityAlignment(examples=10)
    with pytest.raises(DataError, match=r"kit:test\[:11\] has 11 examples, examples=10 is the most") as error:
        drive.check(few, eval=(KitData(), "test[:11]"))
    assert "test[:10]" in error.value.fix
    drive.check(few, eval=(KitData(), "test[:10]"))
    with pytest.raises(DataError, match="11 examples"):
        run(cloud(11), examples=10)
    assert run(cloud(10), examples=10)["examples"] == 10


def test_what_is_refused():
    with pytest.raises(DataError, match="1 example"):
        run(cloud(1))
    for value in (np.nan, np.inf):
        with pytest.raises(DivergedError):
            run(cloud() * value)
    for options in (
        {"feature": "tokens"},
        {"t": 0.0},
        {"t": 101.0},
        {"alpha": 0.0},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.4)},
        {"scale": (0.5, 1.1)},
        {"flip": 1.1},
        {"seed": -1},
        {"examples": 1},
    ):
        with pytest.raises(ConfigError):
            UniformityAlignment(**options)
    with pytest.raises(ConfigError, match="uniformity_alignment needs image"):
        UniformityAlignment().preprocess(role="eval", info=drive.info(features=("label",)), spec=drive.SPEC)


def test_protocol_says_what_changes_the_score():
    default = "uniformity_alignment/1:summary:t=2:alpha=2:views=digest:crop=0.4-1:flip=0.5:seed=0"
    assert UniformityAlignment().protocol == default == UniformityAlignment(examples=5).protocol
    variants = [
        {"feature": "mean_tokens"},
        {"t": 1.0},
        {"alpha": 1.0},
        {"scale": (0.2, 1.0)},
        {"flip": 0.0},
        {"seed": 1},
    ]
    assert len({default, *(UniformityAlignment(**v).protocol for v in variants)}) == 7
