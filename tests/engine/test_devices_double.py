"""Eight devices equal one to 1e-12, in float64, for every method: negatives, batch statistics and centres are global.

One process with eight virtual devices takes two steps twice: with the batch split over all of them, and on the first.
"""

from __future__ import annotations

import enginelib
import jax
import numpy as np
import pytest

from spendflops.contracts import registry
from spendflops.engine import sharding
from spendflops.engine.optim import sgd
from spendflops.engine.state import create, flatten
from spendflops.engine.step import train_step
from spendflops.testing.model import Subject

METHODS = ("supervised", "clip", "simclr", "byol", "dino", "mae", "simmim")
EIGHT = "--xla_force_host_platform_device_count=8"
RUN = """
import json, sys
from test_devices_double import difference
print(json.dumps({name: difference(name) for name in sys.argv[1:]}))
"""


def difference(method):
    """How far two steps on eight devices are from those on one, relative to how far they went.

    Steps of SGD, which are linear in the gradient: Adam would divide rounding by rounding wherever a gradient is zero.
    """
    cls = registry.load("objectives", method)
    subject = Subject(cls, options=getattr(cls, "kit_options", {}), batch_size=16)
    optimizer = sgd(lr=0.1, momentum=0.5)
    step = jax.jit(train_step(subject.definition, optimizer))
    wide = jax.tree.map(
        lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else np.asarray(x),
        create(subject.definition, optimizer, jax.random.key(0)),
    )
    call = {"key": jax.random.key(1), "steps": np.int32(100)}

    def run(place):
        state, fixed = place(wide, batch=False), place(call, batch=False)
        for batch in subject.batches[:2]:
            state, _ = step(state, place(batch, batch=True), fixed)
        return {f"{k}/{p}": np.asarray(x) for k in ("params", "stats", "ema") for p, x in flatten(state[k]).items()}

    one = run(lambda tree, *, batch: jax.device_put(tree, jax.devices()[0]))
    eight = run(sharding.place)
    assert jax.device_count() == 8 and all(x.dtype == np.float64 for x in one.values())
    start = {f"{k}/{p}": x for k in ("params", "stats", "ema") for p, x in flatten(wide[k]).items()}
    return max(_norm(one, eight, kind) / _norm(one, start, kind) for kind in ("params", "stats", "ema") if wide[kind])


def _norm(a, b, kind):
    return float(np.sqrt(sum(np.sum(np.square(a[p] - b[p])) for p in a if p.startswith(f"{kind}/"))))


@pytest.mark.parametrize("methods", [("simclr",), pytest.param(METHODS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_eight_devices_equal_one_in_float64(methods):
    found = enginelib.python(RUN, *methods, XLA_FLAGS=EIGHT, JAX_ENABLE_X64="1", timeout=900)
    assert set(found) == set(methods)
    for method, error in found.items():
        assert error < 1e-12, method
