"""gin, caged: the only package that imports it. ``compose`` puts a configuration together, ``load`` builds it."""

from spendflops.config.compose import Composition, Loaded, compose, load

__all__ = ["Composition", "Loaded", "compose", "load"]
