"""The flags that name a recipe or a study: names first, gin second."""

from __future__ import annotations

from typing import Any

from absl import flags

from spendflops.accounts import regions


def define(known: flags.FlagValues) -> None:
    """Adds the flags."""
    kwargs = {"flag_values": known}
    flags.DEFINE_multi_string("gin_file", [], "A gin file; may be repeated, later files win.", **kwargs)
    flags.DEFINE_multi_string("gin", [], 'A gin binding, e.g. "mae/Stage.batch_size = 256"; may be repeated.', **kwargs)
    flags.DEFINE_string("objective", None, "Method: a preset or a plugin, e.g. mae.", **kwargs)
    flags.DEFINE_string("backbone", None, "Model: a preset or a plugin, e.g. vit_b16.", **kwargs)
    flags.DEFINE_string("dataset", None, "Data: a preset, a plugin, or name:path, e.g. folder:photos.", **kwargs)
    flags.DEFINE_string("eval_dataset", None, "Data to score on, in the same form.", **kwargs)
    flags.DEFINE_string("budget", None, "3e18, '3 EFLOP', '250000 steps', '100 epochs', '2h@1xH200'.", **kwargs)
    flags.DEFINE_integer("seed", None, "Seed of everything random.", **kwargs)
    flags.DEFINE_string("workdir", None, "Run directory; the same command again goes on there.", **kwargs)
    flags.DEFINE_bool("quiet", False, "Show no progress.", **kwargs)


def define_region(known: flags.FlagValues) -> None:
    """Adds ``--region``, for verbs that run something."""
    text = "Where this machine stands, for the CO2e: europe-west1, eu-north-1, DE, ..."
    flags.DEFINE_string("region", regions.WORLD, text, flag_values=known)


def load(known: flags.FlagValues, root: str, base: str | None = None) -> Any:
    """The loaded configuration; what was chosen for each name is in its ``chosen``."""
    from spendflops import config

    bindings = list(known.gin)
    if known.seed is not None:
        bindings.append(f"Study.seeds = ({known.seed},)" if root == "Study" else f"Recipe.seed = {known.seed}")
    if known.budget is not None and root == "Study":
        bindings.append(f"Study.budgets = ({known.budget!r},)")
    composition = config.compose(
        objective=known.objective,
        backbone=known.backbone,
        dataset=known.dataset,
        eval_dataset=known.eval_dataset,
        budget=None if root == "Study" else known.budget,
        gin_files=known.gin_file,
        bindings=bindings,
        base=base,
    )
    return config.load(composition, root=root)


def define_features(known: flags.FlagValues) -> None:
    """The flag of the verbs that score models."""
    text = "GB of features of scored models that are kept for later evaluations of the same weights; 0 keeps none."
    flags.DEFINE_float("feature_cache", 4.0, text, lower_bound=0, flag_values=known)


def features(known: flags.FlagValues) -> Any:
    """Where features are kept: the folder ``SPENDFLOPS_FEATURES``, or the user's cache; None for an empty name."""
    import os
    from pathlib import Path

    from spendflops.engine.feature_cache import FeatureCache

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spendflops" / "features"
    folder = os.environ.get("SPENDFLOPS_FEATURES", str(default))
    limit = int(known.feature_cache * 10**9)
    return FeatureCache(folder=Path(folder), limit=limit) if folder and limit else None


def use_cache() -> None:
    """Keeps compilations on disk, so that a second run of a program starts at once."""
    import os
    from pathlib import Path

    import jax

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spendflops" / "xla"
    folder = os.environ.get("SPENDFLOPS_CACHE", str(default))
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
