"""The conformance kit: named checks that every plugin passes, ours and everybody else's.

In a test module, one line for each plugin:

    import spendflops.testing

    test_mae = spendflops.testing.objective_tests("mae", decoder_dim=16)

Without pytest: ``spendflops check objectives.mae``. Names of checks are stable. A plugin class may have two attributes
for it: ``expected_failures = {"check": "why"}`` turns failures into visible expected ones (and is an error once the
check holds), ``kit_options = {"option": value}`` makes it small enough to be checked in seconds.

Not checked: that the loss is the right one. That needs a test against an independent, slow computation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spendflops.testing.kit import Check, CheckFailed, Outcome, Skipped, checks, tests

__all__ = [
    "Check",
    "CheckFailed",
    "Outcome",
    "Skipped",
    "backbone_tests",
    "checks",
    "dataset_tests",
    "evaluator_tests",
    "objective_tests",
]


def objective_tests(
    plugin: str | type,
    *,
    backbone: Callable[..., Any] | None = None,
    views: Any = None,
    dataset: Any = None,
    batch_size: int = 8,
    devices: int | None = None,
    **options: Any,
) -> Callable[..., None]:
    """A parametrised test function for an objective.

    Args:
        plugin: Name, ``name@distribution``, ``package.module:Class`` or the class.
        backbone: Factory ``(*, rngs) -> Backbone``; by default the plugin ``vit``, one block of width 32.
        views: Instead of the objective's own with their defaults.
        dataset: Gives the samples; by default random images with labels, masks, captions and boxes.
        batch_size: Examples a batch.
        devices: Also compares with this many virtual CPU devices, in a process of its own; or set the environment
            variable ``SPENDFLOPS_KIT_DEVICES``.
        options: The plugin's own.
    """
    given = {"backbone": backbone, "views": views, "dataset": dataset, "batch_size": batch_size, "devices": devices}
    return tests("objectives", plugin, given, options)


def backbone_tests(plugin: str | type, *, batch_size: int = 2, **options: Any) -> Callable[..., None]:
    """A parametrised test function for a backbone; ``options`` are its own."""
    return tests("backbones", plugin, {"batch_size": batch_size}, options)


def dataset_tests(
    plugin: str | type, *, splits: tuple[str, ...] = (), limit: int = 64, **options: Any
) -> Callable[..., None]:
    """A parametrised test function for a data set.

    Args:
        plugin: As in :func:`objective_tests`.
        splits: To look at; by default those whose size is known.
        limit: Samples of a split to look at, evenly spaced.
        options: The plugin's own.
    """
    return tests("datasets", plugin, {"splits": splits, "limit": limit}, options)


def evaluator_tests(
    plugin: str | type, *, dataset: Any = None, predict: Callable[..., Mapping] | None = None, **options: Any
) -> Callable[..., None]:
    """A parametrised test function for an evaluator.

    Args:
        plugin: As in :func:`objective_tests`.
        dataset: Gives the samples, with splits "train" and "test".
        predict: ``(batch, quality) -> predictions`` in place of those that the kit makes from the labels and masks in
            the batch; quality is "perfect", "noisy" or "worst".
        options: The plugin's own.
    """
    return tests("evaluators", plugin, {"dataset": dataset, "predict": predict}, options)
