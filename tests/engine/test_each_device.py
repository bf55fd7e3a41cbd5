"""``Context.each``: every device selects and loops among its own examples, with the results of one device."""

from __future__ import annotations

import dataclasses
import re

import enginelib
import jax
import numpy as np

from spendflops.engine import sharding
from spendflops.testing.model import context

EIGHT = "--xla_force_host_platform_device_count=8"


def largest_halved(x, bound):
    """A selection, and a loop whose length depends on the data: what XLA does not split by itself."""
    best, places = jax.lax.top_k(x, 5)
    return jax.lax.while_loop(lambda y: y.max() > bound, lambda y: y / 2, best), places


def measured():
    """What one device and eight give for a batch of 16, what eight give for 3, and how they talk with each other."""
    x = np.random.default_rng(0).normal(0, 4, (16, 40)).astype(np.float32)
    bound = np.linspace(0.1, 2, 16, dtype=np.float32)
    wanted = jax.tree.map(np.asarray, jax.vmap(largest_halved)(x, bound))

    def mapped(mesh):
        ctx = dataclasses.replace(context(), mesh=mesh)
        return jax.jit(lambda *args: ctx.each(largest_halved, *args))

    split = jax.device_put((x, bound), sharding.Mesh().split)
    found = {"devices": jax.device_count()}
    for name, mesh in (("vmap", None), ("each", sharding.Mesh().devices)):
        text = mapped(mesh).lower(*split).compile().as_text()
        found[name] = sorted(set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", text)))
    for count, args in ((16, split), (3, (x[:3], bound[:3]))):
        given = mapped(sharding.Mesh().devices)(*args)
        found[count] = all(np.array_equal(a, b[:count]) for a, b in zip(given, wanted, strict=True))
    return found


RUN = """
import json, sys
import test_each_device
print(json.dumps(test_each_device.measured()))
"""


def test_devices_keep_to_their_examples():
    found = enginelib.python(RUN, XLA_FLAGS=EIGHT)
    assert found == {"devices": 8, "vmap": ["all-gather", "all-reduce"], "each": [], "16": True, "3": True}
