"""RandAugment: amounts by formula, each operator against a slow one, what is drawn and how often."""

import math
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from pictures import smooth

from spendflops.contracts.errors import ConfigError
from spendflops.parts.augment.randaugment import FILTERS, OPERATORS, Outside, RandAugment, fill_of

NOISE = np.random.default_rng(5).integers(0, 256, (9, 11, 3), dtype=np.uint8)
FILL = (124, 116, 104)


def applied(name, array, amount, interpolation="nearest"):
    outside = Outside(FILTERS[interpolation], FILL)
    return np.asarray(OPERATORS[name].apply(PIL.Image.fromarray(array), amount, outside)).astype(int)


@pytest.mark.parametrize(
    "name, weakest, at_nine, strongest",
    [
        ("rotate", 0, 27, 30),
        ("shear_x", 0, 0.27, 0.3),
        ("shear_y", 0, 0.27, 0.3),
        ("translate_x", 0, 0.405, 0.45),
        ("translate_y", 0, 0.405, 0.45),
    ],
)
def test_signed_amounts(name, weakest, at_nine, strongest):
    for strength, amount in ((0, weakest), (0.9, at_nine), (1, strongest)):
        assert OPERATORS[name].amount(strength, 1) == pytest.approx(amount, abs=1e-12)
        assert OPERATORS[name].amount(strength, -1) == pytest.approx(-amount, abs=1e-12)


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_factors_of_blends(name):
    found = [OPERATORS[name].amount(s, sign) for s in (0, 0.9, 1) for sign in (1, -1)]
    assert found == pytest.approx([1, 1, 1.81, 0.19, 1.9, 0.1], abs=1e-12)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("posterize", [4, 3, 2, 1, 1, 0]),
        ("solarize", [256, 192, 128, 64, 26, 0]),
        ("solarize_add", [0, 27, 55, 82, 99, 110]),
    ],
)
def test_whole_amounts_grow_with_the_strength(name, expected):
    strengths = (0, 0.25, 0.5, 0.75, 0.9, 1)
    assert [OPERATORS[name].amount(s, 1) for s in strengths] == expected
    assert [OPERATORS[name].amount(s, -1) for s in strengths] == expected


LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)


@pytest.mark.parametrize(
    "name, amount, rule",
    [
        ("invert", 0, lambda x: 255 - x),
        *[("posterize", bits, lambda x, bits=bits: x // 2 ** (8 - bits) * 2 ** (8 - bits)) for bits in (0, 1, 3, 4)],
        *[("solarize", start, lambda x, start=start: x if x < start else 255 - x) for start in (0, 26, 256)],
        *[("solarize_add", add, lambda x, add=add: min(255, x + add) if x < 128 else x) for add in (0, 99, 110)],
    ],
)
def test_operators_on_single_levels(name, amount, rule):
    np.testing.assert_array_equal(applied(name, LEVELS, amount)[..., 1].ravel(), [rule(x) for x in range(256)])


def test_autocontrast_stretches_every_channel():
    dull = (NOISE // 3 + np.array([10, 60, 150])).astype(np.uint8)
    expected = np.empty(dull.shape, int)
    for channel in range(3):
        low, high = int(dull[..., channel].min()), int(dull[..., channel].max())
        expected[..., channel] = np.trunc((dull[..., channel].astype(int) - low) * (255 / (high - low)) + 1e-9)
    np.testing.assert_allclose(applied("autocontrast", dull, 0), expected, atol=1)
    flat = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(applied("autocontrast", flat, 0), flat)


def test_equalize_spreads_every_channel():
    picture = smooth(30, 40)
    expected = np.empty(picture.shape, int)
    for channel in range(3):
        values = picture[..., channel].ravel().tolist()
        counts = Counter(values)
        step = (len(values) - counts[max(values)]) // 255
        below = {x: sum(n for value, n in counts.items() if value < x) for x in set(values)}
        table = np.array([min(255, (step // 2 + below.get(x, 0)) // step) for x in range(256)])
        expected[..., channel] = table[picture[..., channel]]
    np.testing.assert_array_equal(applied("equalize", picture, 0), expected)


def grey(array):
    r, g, b = np.moveaxis(array.astype(int), -1, 0)
    return ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16)[..., None].repeat(3, axis=-1)


def softened(array):
    """Weights 1 1 1 / 1 5 1 / 1 1 1 over 13; the border stays."""
    x, result = array.astype(float), array.astype(int).copy()
    for row in range(1, x.shape[0] - 1):
        for col in range(1, x.shape[1] - 1):
            total = x[row - 1 : row + 2, col - 1 : col + 2].sum((0, 1)) + 4 * x[row, col]
            result[row, col] = np.floor(total / 13 + 0.5)
    return result


@pytest.mark.parametrize("factor", [0.1, 0.19, 1.0, 1.81, 1.9])
def test_blends(factor):
    firsts = {
        "brightness": np.zeros(NOISE.shape),
        "contrast": np.full(NOISE.shape, int(grey(NOISE)[..., 0].mean() + 0.5)),
        "color": grey(NOISE),
        "sharpness": softened(NOISE),
    }
    for name, first in firsts.items():
        first = np.float32(first)
        blended = np.clip(first + np.float32(factor) * (NOISE.astype(np.float32) - first), 0, 255)
        np.testing.assert_array_equal(applied(name, NOISE, factor), np.trunc(blended), err_msg=name)


def cubic(d):
    """Weights of four neighbours in Pillow's transformations: the cubic convolution with a = -1."""
    return np.array([-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3])


def warped(array, source, interpolation):
    """The pixel whose centre is (x, y) is what is at source(x, y); outside is FILL. Neighbours beyond repeat."""
    height, width = array.shape[:2]
    result = np.empty(array.shape)
    for row in range(height):
        for col in range(width):
            x, y = source(col + 0.5, row + 0.5)
            if not (0 <= x < width and 0 <= y < height):
                result[row, col] = FILL
            elif interpolation == "nearest":
                result[row, col] = array[math.floor(y), math.floor(x)]
            else:
                left, top = math.floor(x - 0.5), math.floor(y - 0.5)
                rows = np.clip(np.arange(top - 1, top + 3), 0, height - 1)
                cols = np.clip(np.arange(left - 1, left + 3), 0, width - 1)
                weights = np.outer(cubic(y - 0.5 - top), cubic(x - 0.5 - left))
                result[row, col] = np.clip(
                    np.einsum("ij,ijc->c", weights, array[np.ix_(rows, cols)].astype(float)), 0, 255
                )
    return result


def turned(degrees, width, height):
    """Anticlockwise about the centre."""
    cos, sin, cx, cy = *(f(math.radians(degrees)) for f in (math.cos, math.sin)), width / 2, height / 2
    return lambda x, y: (cx + cos * (x - cx) - sin * (y - cy), cy + sin * (x - cx) + cos * (y - cy))


PICTURE = smooth(21, 17)
MOVES = [
    ("rotate", 27.0, turned(27, 17, 21)),
    ("rotate", -11.5, turned(-11.5, 17, 21)),
    ("shear_x", 0.27, lambda x, y: (x + 0.27 * y, y)),
    ("shear_x", -0.3, lambda x, y: (x - 0.3 * y, y)),
    ("shear_y", 0.27, lambda x, y: (x, y + 0.27 * x)),
    ("translate_x", 0.405, lambda x, y: (x + 0.405 * 17, y)),
    ("translate_x", -0.2, lambda x, y: (x - 0.2 * 17, y)),
    ("translate_y", 0.405, lambda x, y: (x, y + 0.405 * 21)),
]


@pytest.mark.parametrize("name, amount, source", MOVES)
def test_moves_of_pixels(name, amount, source):
    np.testing.assert_array_equal(applied(name, PICTURE, amount), warped(PICTURE, source, "nearest"))
    found, expected = applied(name, PICTURE, amount, "bicubic"), warped(PICTURE, source, "bicubic")
    # Pillow cuts the fraction off.
    np.testing.assert_allclose(found, expected - 0.5, atol=0.51 + 0.01)


DRAWS = 6000


@pytest.fixture(scope="module")
def drawn():
    augment, rng = RandAugment.parse("rand-m9-mstd0.5-inc1"), np.random.default_rng(0)
    return [augment.draw(rng) for _ in range(DRAWS)]


def test_each_of_two_is_applied_with_probability_one_half(drawn):
    counts = Counter(len(each) for each in drawn)
    assert [counts[n] / DRAWS for n in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_operators_are_drawn_alike_and_with_replacement(drawn):
    counts = Counter(name for each in drawn for name, _ in each)
    assert set(counts) == set(OPERATORS) and len(OPERATORS) == 15
    assert np.array(list(counts.values())) / DRAWS == pytest.approx(np.full(15, 1 / 15), abs=0.015)
    pairs = [each for each in drawn if len(each) == 2]
    assert np.mean([a[0] == b[0] for a, b in pairs]) == pytest.approx(1 / 15, abs=0.025)


def test_magnitudes_are_normal_and_cut_at_ten(drawn):
    turns = np.array([amount for each in drawn for name, amount in each if name == "rotate"])
    assert np.mean(turns > 0) == pytest.approx(0.5, abs=0.06)
    # N(9, 0.5^2) cut at 10: mean 8.9957, deviation 0.4886; P(10) = P(z > 2) = 0.02275. A rotation is 3 degrees of each.
    magnitude = np.abs(turns) / 3
    assert (magnitude.mean(), magnitude.std()) == pytest.approx((8.9957, 0.4886), abs=0.06)
    assert magnitude.max() == 10 and np.mean(magnitude == 10) == pytest.approx(0.02275, abs=0.02)
    black = [amount for each in drawn for name, amount in each if name == "posterize"]
    assert set(black) <= {0, 1, 2} and 0 in black


def test_without_noise_magnitudes_are_what_is_said():
    augment, rng = RandAugment.parse("rand-n3-inc1-m4"), np.random.default_rng(0)
    amounts = {name: abs(a) for _ in range(200) for name, a in augment.draw(rng)}
    assert amounts["rotate"] == pytest.approx(12) and amounts["shear_x"] == pytest.approx(0.12)
    assert max(len(augment.draw(rng)) for _ in range(50)) == 3


def test_image_in_image_out():
    augment = RandAugment.parse("rand-m9-mstd0.5-inc1")
    array = smooth(24, 20)
    images = [augment(array, np.random.default_rng(i), fill=FILL) for i in range(60)]
    assert all(image.shape == array.shape and image.dtype == np.uint8 for image in images)
    assert 8 < sum(np.array_equal(image, array) for image in images) < 28
    again = augment(array, np.random.default_rng(1), fill=FILL)
    np.testing.assert_array_equal(again, images[1])
    np.testing.assert_array_equal(array, smooth(24, 20))
    nothing = RandAugment(probability=0.0)
    assert nothing(array, np.random.default_rng(0), fill=FILL) is array


def test_operators_follow_each_other():
    augment, array = RandAugment(operations=2, probability=1.0), smooth(24, 20)
    first, second = augment.draw(np.random.default_rng(3))
    expected = array
    for name, amount in (first, second):
        expected = applied(name, expected, amount, "bicubic").astype(np.uint8)
    np.testing.assert_array_equal(augment(array, np.random.default_rng(3), fill=FILL), expected)


def test_fill_is_the_mean_of_the_normalisation():
    assert fill_of((0.485, 0.456, 0.406)) == (124, 116, 104)
    assert fill_of((1.2, 0.0, 0.5)) == (255, 0, 128)


def test_parsing():
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(operations=2, magnitude=9, noise=0.5)
    other = RandAugment.parse("rand-inc1-n3-m5", interpolation="bilinear")
    assert other == RandAugment(operations=3, magnitude=5, noise=0.0, interpolation="bilinear")


@pytest.mark.parametrize(
    "text, why",
    [
        ("m9-inc1", "begins with 'rand'"),
        ("rand-inc1", "magnitude"),
        ("rand-m9", "inc1"),
        ("rand-m9-inc0", "inc1"),
        ("rand-m9-m8-inc1", "twice"),
        ("rand-m9-std0.5-inc1", "'std0.5' is none"),
        ("rand-m9.5-inc1", "'m9.5' is none"),
        ("rand-m9-inc1-", "'' is none"),
        ("rand-m11-inc1", "0..10"),
        ("rand-m9-n0-inc1", "n is at least 1"),
    ],
)
def test_what_is_not_understood(text, why):
    with pytest.raises(ConfigError, match=why):
        RandAugment.parse(text)


def test_options_out_of_range():
    with pytest.raises(ConfigError, match="bicubic"):
        RandAugment(interpolation="bicubc")
    with pytest.raises(ConfigError, match="probability"):
        RandAugment(probability=1.5)
    with pytest.raises(ConfigError, match="mstd"):
        RandAugment(noise=-1)
