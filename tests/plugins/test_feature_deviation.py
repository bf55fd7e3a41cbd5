"""The deviation of unit features against a loop, on features whose deviation is known."""

import math

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.feature_deviation import FeatureDeviation

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts.nn.pooling import feature_std

test_kit = spendflops.testing.evaluator_tests(FeatureDeviation)


def cloud(count=40, width=6, seed=0):
    return (np.random.default_rng(seed).standard_normal((count, width)) + 0.3).astype(np.float32)


def run(summary, *, batch_size=7, order=None, tokens=None, **options):
    predictions = {"features": drive.features_of(summary, tokens)}
    data = {"eval": (predictions, {"image": np.zeros((len(summary), 8, 8, 3), np.uint8)})}
    about = drive.info(features=("image",))
    return drive.score(FeatureDeviation(**options), data, about=about, batch_size=batch_size, order=order)


def slow(rows):
    """Equation (1)."""
    units = [[float(v) / math.sqrt(sum(float(w) ** 2 for w in row)) for v in row] for row in rows]
    deviations = []
    for column in zip(*units, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((v - mean) ** 2 for v in column) / len(column)))
    return sum(deviations) / len(deviations)


@pytest.mark.parametrize("shape", [(40, 6), (3, 6), (5, 1)])
def test_against_a_loop(shape):
    rows = cloud(*shape)
    result = run(rows)
    assert result["deviation"] == pytest.approx(slow(rows), rel=1e-12)
    assert result["relative"] == pytest.approx(slow(rows) * math.sqrt(shape[1]), rel=1e-12)
    assert (result["examples"], result["dimensions"]) == shape
    # The monitor of the training methods is the same number.
    assert result["relative"] == pytest.approx(float(feature_std(rows)), rel=1e-5)


def test_batches_order_and_scale_change_nothing():
    rows, want = cloud(), run(cloud())["relative"]
    for batch_size in (1, 16, 40, 64):
        assert run(rows, batch_size=batch_size)["relative"] == want
    assert run(rows, order=np.random.default_rng(1).permutation(40))["relative"] == pytest.approx(want, rel=1e-12)
    scales = 2.0 ** np.random.default_rng(1).integers(-40, 40, (40, 1))
    assert run((rows * scales).astype(np.float32))["relative"] == pytest.approx(want, rel=1e-12)


def test_collapse_and_spread():
    assert run(np.tile(cloud(1), (40, 1)))["relative"] == pytest.approx(0, abs=1e-12)
    assert run(np.zeros((40, 6)))["relative"] == 0
    spikes = run(np.concatenate([np.eye(9), -np.eye(9)]))
    assert spikes["deviation"] == pytest.approx(1 / 3, rel=1e-12) and spikes["relative"] == pytest.approx(1, rel=1e-12)
    sphere = run(np.random.default_rng(0).standard_normal((2000, 16)))
    assert 0.98 < sphere["relative"] < 1


def test_which_feature():
    rows = cloud()
    tokens = rows[:, None] + np.array([-1, 0, 1], np.float32)[None, :, None]
    result = run(np.zeros_like(rows), tokens=tokens, feature="mean_tokens")
    assert result["deviation"] == pytest.approx(slow(tokens.mean(axis=1)), rel=1e-5)
    with pytest.raises(ConfigError, match="needs a class token"):
        run(rows, feature="class")


def test_it_reads_the_image_alone():
    about = drive.info(features=("image",))
    for resize in ("squash", "crop"):
        preprocess = FeatureDeviation(resize=resize).preprocess(role="eval", info=about, spec=drive.SPEC)
        assert preprocess.features == ("image",) and set(preprocess.entries) == {"image"}
        assert preprocess.resize == resize
    with pytest.raises(ConfigError, match="feature_deviation needs image"):
        FeatureDeviation().preprocess(role="eval", info=drive.info(features=("label",)), spec=drive.SPEC)


def test_what_is_refused():
    with pytest.raises(DataError, match="1 example"):
        run(cloud(1))
    for value in (np.nan, np.inf):
        with pytest.raises(DivergedError):
            run(cloud() * value)
    with pytest.raises(ConfigError, match="unknown feature"):
        FeatureDeviation(feature="tokens")


def test_protocol_says_what_changes_the_score():
    assert FeatureDeviation().protocol == "feature_deviation/1:summary:resize=squash"
    assert FeatureDeviation(feature="mean_tokens").protocol == "feature_deviation/1:mean_tokens:resize=squash"
    assert "crop" in FeatureDeviation(resize="crop").protocol
    assert FeatureDeviation().primary == "relative" and FeatureDeviation.unit == ""
