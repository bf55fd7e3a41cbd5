"""Eight devices equal one to 1e-12, in float64, for every method: negatives, batch statistics and centres are global.

One process with eight virtual devices takes two steps on the first of them, and on all: with the state on each, divided
over all, and divided over pairs.
"""

from __future__ import annotations

import enginelib
import jax
import numpy as np
import pytest

from spendflops.contracts import registry
from spendflops.engine import sharding
from spendflops.engine.loop import MODEL
from spendflops.engine.optim import sgd
from spendflops.engine.state import create, flatten
from spendflops.engine.step import train_step
from spendflops.testing.model import Subject

METHODS = ("supervised", "clip", "simclr", "byol", "dino", "mae", "simmim")
EIGHT = "--xla_force_host_platform_device_count=8"
RUN = """
import json, sys
from test_devices_double import differences
print(json.dumps({name: differences(name) for name in sys.argv[1:]}))
"""


def differences(method):
    """How far two steps on eight devices, with the state on each and divided, are from those on one.

    Relative to how far they went. Steps of SGD, which are linear in the gradient: Adam would divide rounding by
    rounding wherever a gradient is zero.
    """
    cls = registry.load("objectives", method)
    subject = Subject(cls, options=getattr(cls, "kit_options", {}), batch_size=16)
    optimizer = sgd(lr=0.1, momentum=0.5)
    step = train_step(subject.definition, optimizer)
    wide = jax.tree.map(
        lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else np.asarray(x),
        create(subject.definition, optimizer, jax.random.key(0)),
    )
    call = {"key": jax.random.key(1), "steps": np.int32(100)}
    assert jax.device_count() == 8

    def run(mesh):
        if mesh is None:
            state, steps = jax.device_put(wide, jax.devices()[0]), jax.jit(step)
        else:
            places = sharding.places(mesh.state(wide))
            state, steps = jax.device_put(wide, places), jax.jit(step, out_shardings=(places, None))
        for batch in subject.batches[:2]:
            state, _ = steps(state, batch if mesh is None else jax.device_put(batch, mesh.split), call)
        found = {f"{kind}/{p}": x for kind in MODEL for p, x in flatten(state[kind]).items()}
        divided = sum(not x.sharding.is_fully_replicated for x in found.values())
        assert divided if mesh and mesh.ways > 1 else not divided
        return {path: np.asarray(x) for path, x in found.items()}

    one = run(None)
    assert all(x.dtype == np.float64 for x in one.values())
    start = {f"{kind}/{p}": x for kind in MODEL for p, x in flatten(wide[kind]).items()}
    found = []
    for mesh in (sharding.Mesh(), sharding.Mesh(fsdp=8, min_size=256), sharding.Mesh(fsdp=2, min_size=256)):
        eight = run(mesh)
        found.append(max(_norm(one, eight, kind) / _norm(one, start, kind) for kind in MODEL if wide[kind]))
    return found


def _norm(a, b, kind):
    return float(np.sqrt(sum(np.sum(np.square(a[p] - b[p])) for p in a if p.startswith(f"{kind}/"))))


@pytest.mark.parametrize("methods", [("simclr",), pytest.param(METHODS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_eight_devices_equal_one_in_float64(methods):
    found = enginelib.python(RUN, *methods, XLA_FLAGS=EIGHT, JAX_ENABLE_X64="1", timeout=900)
    assert set(found) == set(methods)
    for method, off in found.items():
        assert len(off) == 3 and max(off) < 1e-12, method
