"""Given a fixed FLOP budget, which pre-training method, model and data set should it be spent on?

``import spendflops`` imports neither jax nor any plugin: names are resolved when they are used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "Backbone": "spendflops.contracts.backbone",
    "TokenBackbone": "spendflops.contracts.backbone",
    "Objective": "spendflops.contracts.objective",
    "Views": "spendflops.contracts.objective",
    "Group": "spendflops.contracts.objective",
    "Dataset": "spendflops.contracts.dataset",
    "Evaluator": "spendflops.contracts.evaluator",
    "Preprocess": "spendflops.contracts.evaluator",
    "Context": "spendflops.contracts.types",
    "Tokens": "spendflops.contracts.types",
    "Features": "spendflops.contracts.types",
    "Loss": "spendflops.contracts.types",
    "Stat": "spendflops.contracts.types",
    "DatasetInfo": "spendflops.contracts.types",
    "InputSpec": "spendflops.contracts.types",
    "SpendflopsError": "spendflops.contracts.errors",
    "Recipe": "spendflops.engine.recipe",
    "Stage": "spendflops.engine.recipe",
    "Evaluation": "spendflops.engine.recipe",
    "InitFrom": "spendflops.engine.recipe",
    "run_recipe": "spendflops.engine.loop",
    "FeatureCache": "spendflops.engine.feature_cache",
    "load": "spendflops.engine.load",
    "Study": "spendflops.study.grid",
}

__all__ = [*_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'spendflops' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return __all__
