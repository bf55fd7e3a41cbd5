"""The one vector an image that evaluators of frozen features read."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Features

FEATURES = ("summary", "class", "mean_tokens")
"""``summary``: what the backbone pools, ``class``: the class token, ``mean_tokens``: the mean over patch tokens. Class
and patch tokens are those after the backbone's last norm."""


def check_feature(name: str) -> str:
    """``name``, if it is one of :data:`FEATURES`.

    Raises:
        ConfigError: It is none.
    """
    if name not in FEATURES:
        raise ConfigError(f"unknown feature {name!r}{suggest(name, FEATURES)}", fix=f"use one of {list(FEATURES)}")
    return name


def feature_of(features: Features, name: str) -> Float[Array, "B D"]:
    """The feature called ``name``, in float32.

    Raises:
        ConfigError: A class token of a model that has none.
    """
    if name == "class":
        if not features.prefix.shape[1]:
            raise ConfigError(
                "feature 'class' needs a class token",
                why="the backbone has no prefix tokens",
                fix="feature = 'summary' or 'mean_tokens'",
            )
        return features.prefix[:, 0].astype(jnp.float32)
    if name == "mean_tokens":
        return features.tokens.astype(jnp.float32).mean(axis=1)
    return features.summary.astype(jnp.float32)
