"""The contract of layouts: what a class must have, and how it looks at a model."""

from __future__ import annotations

import types

import pytest

from spendflops.contracts import conformity, errors, registry
from spendflops.contracts.layout import Layout, Rule, Target


def test_a_layout_without_rules_is_none():
    class Empty(Layout):
        title = "nothing"

    with pytest.raises(errors.PluginError, match="lacks rules"):
        conformity.check_signature("layouts", "empty", Empty)

    class Whole(Empty):
        rules = (Rule(theirs=("a",), ours="backbone/a"),)

    conformity.check_signature("layouts", "whole", Whole)


def test_attributes_by_dotted_names():
    inner = types.SimpleNamespace(heads=3)
    target = Target(shapes={}, model=types.SimpleNamespace(blocks=[inner]), bare=True)
    assert target.attribute("blocks.0.heads") == 3
    for name in ("blocks.1.heads", "blocks.0.width", "blocks.0.heads.0", "nothing"):
        with pytest.raises(AttributeError):
            target.attribute(name)


def test_layouts_are_listed_apart_from_the_four_interfaces():
    assert "layouts" not in registry.GROUPS and "layouts" in registry.OTHER_GROUPS
    assert registry.entries(("layouts",)) and not [e for e in registry.entries() if e.group == "layouts"]
