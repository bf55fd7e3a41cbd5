"""Which vector of a backbone's features is meant."""

import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Features
from spendflops.parts.features import FEATURES, check_feature, feature_of

RNG = np.random.default_rng(0)
TOKENS, PREFIX, SUMMARY = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 9, 4), (2, 3, 4), (2, 4)))


def features(prefix=PREFIX, dtype=jnp.float32):
    tokens, prefix, summary = (jnp.asarray(x, dtype) for x in (TOKENS, prefix, SUMMARY))
    return Features(tokens=tokens, prefix=prefix, summary=summary)


def test_each_is_what_its_name_says():
    np.testing.assert_array_equal(feature_of(features(), "summary"), SUMMARY)
    np.testing.assert_array_equal(feature_of(features(), "class"), PREFIX[:, 0])
    np.testing.assert_allclose(feature_of(features(), "mean_tokens"), TOKENS.mean(axis=1), rtol=1e-5, atol=1e-7)


def test_float32_whatever_the_model_computes_in():
    for name in FEATURES:
        assert feature_of(features(dtype=jnp.bfloat16), name).dtype == jnp.float32
    # The mean is taken in float32, too.
    want = np.asarray(jnp.asarray(TOKENS, jnp.bfloat16), np.float32).mean(axis=1)
    np.testing.assert_allclose(feature_of(features(dtype=jnp.bfloat16), "mean_tokens"), want, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="no prefix tokens"):
        feature_of(features(PREFIX[:, :0]), "class")
    with pytest.raises(ConfigError, match="did you mean 'mean_tokens'"):
        check_feature("mean_token")
    assert check_feature("class") == "class"
