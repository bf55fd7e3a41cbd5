"""RankMe against a singular value decomposition of the whole matrix, on features whose rank is known."""

import drive_evaluator as drive
import numpy as np
import pytest
from spendflops_plugins.rankme import RankMe

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.parts.images import ArrayImage

test_kit = spendflops.testing.evaluator_tests(RankMe)
test_kit_centred = spendflops.testing.evaluator_tests(RankMe, feature="mean_tokens", centre=True)


def cloud(count=50, width=8, rank=8, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, rank)) @ rng.standard_normal((rank, width)) + 0.3).astype(np.float32)


def run(summary, *, batch_size=7, order=None, tokens=None, **options):
    predictions = {"features": drive.features_of(summary, tokens)}
    data = {"eval": (predictions, {"image": np.zeros((len(summary), 8, 8, 3), np.uint8)})}
    about = drive.info(features=("image",))
    return drive.score(RankMe(**options), data, about=about, batch_size=batch_size, order=order)


def slow(rows, epsilon=1e-7):
    """Equation (1), with the singular values of the matrix at once."""
    values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    entropy = 0.0
    for value in values:
        p = value / values.sum() + epsilon
        entropy -= p * np.log(p)
    return float(np.exp(entropy))


@pytest.mark.parametrize("shape", [(50, 8), (8, 8), (5, 8), (2, 8)])
def test_against_the_whole_matrix(shape):
    rows = cloud(*shape)
    result = run(rows)
    assert result["rankme"] == pytest.approx(slow(rows), rel=1e-12)
    assert result["relative"] == pytest.approx(slow(rows) / min(shape), rel=1e-12)
    assert (result["examples"], result["dimensions"]) == shape
    assert run(rows, epsilon=1e-4)["rankme"] == pytest.approx(slow(rows, 1e-4), rel=1e-12)
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    assert run(rows, centre=True)["rankme"] == pytest.approx(slow(centred), rel=1e-12)


def test_batches_order_and_rotation_change_nothing():
    rows, order = cloud(), np.random.default_rng(1).permutation(50)
    want = run(rows)["rankme"]
    for batch_size in (1, 16, 50, 64):
        assert run(rows, batch_size=batch_size)["rankme"] == want
    assert run(rows, order=order)["rankme"] == pytest.approx(want, rel=1e-12)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0]
    assert run(rows @ turn)["rankme"] == pytest.approx(want, rel=1e-5)  # rotated in float32
    assert run(rows * 1024)["rankme"] == want


def test_collapse_and_full_rank():
    one = np.tile(cloud(1), (50, 1))
    assert run(one)["rankme"] == pytest.approx(1, abs=1e-4)
    assert run(np.zeros((50, 8)))["rankme"] == pytest.approx(1, abs=1e-4)
    # The mean is a direction: without it nothing is left.
    assert run(one, centre=True)["rankme"] == pytest.approx(1, abs=1e-4)
    spikes = np.concatenate([np.eye(8), -np.eye(8)])
    assert run(spikes)["rankme"] == pytest.approx(8, rel=1e-4) and run(spikes)["relative"] == pytest.approx(1, rel=1e-4)
    ranks = [run(cloud(rank=rank), centre=True)["rankme"] for rank in (1, 2, 4, 8)]
    assert ranks == sorted(ranks) and all(found <= rank + 1e-3 for found, rank in zip(ranks, (1, 2, 4, 8), strict=True))


def test_which_feature():
    rows = cloud()
    tokens = rows[:, None] + np.array([-1, 0, 1], np.float32)[None, :, None]
    result = run(np.zeros_like(rows), tokens=tokens, feature="mean_tokens")
    assert result["rankme"] == pytest.approx(slow(tokens.mean(axis=1)), rel=1e-5)
    with pytest.raises(ConfigError, match="needs a class token"):
        run(rows, feature="class")


def test_it_reads_the_image_alone():
    preprocess = RankMe().preprocess(role="eval", info=drive.info(features=("image",)), spec=drive.SPEC)
    assert preprocess.features == ("image",)
    assert set(preprocess({"image": ArrayImage(np.zeros((9, 12, 3), np.uint8))})) == {"image"}
    cropped = RankMe(resize="crop").preprocess(role="eval", info=drive.info(features=("image",)), spec=drive.SPEC)
    assert cropped.resize == "crop" and cropped.features == ("image",)
    with pytest.raises(ConfigError, match="rankme needs image"):
        RankMe().preprocess(role="eval", info=drive.info(features=("label",)), spec=drive.SPEC)


def test_what_is_refused():
    with pytest.raises(DataError, match="1 example"):
        run(cloud(1))
    with pytest.raises(DataError, match="0 example"):
        RankMe().result({}, {}, info=drive.info())
    for value in (np.nan, np.inf):
        with pytest.raises(DivergedError):
            run(cloud() * value)
    for options in ({"feature": "tokens"}, {"epsilon": -1e-7}, {"epsilon": 0.1}, {"resize": "no"}):
        with pytest.raises(ConfigError):
            RankMe(**options)


def test_protocol_says_what_changes_the_score():
    assert RankMe().protocol == "rankme/1:summary:raw:eps=1e-07:resize=squash"
    variants = [{"feature": "mean_tokens"}, {"feature": "class"}, {"centre": True}, {"epsilon": 0.0}]
    variants += [{"resize": "crop"}, {"resize": "crop", "crop_fraction": 1.0}]
    assert len({RankMe(**v).protocol for v in [{}, *variants]}) == 7
    assert RankMe.higher_is_better and RankMe.unit == ""
