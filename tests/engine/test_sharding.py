"""Where a tensor lives: the rule, and that a program keeps to it."""

from __future__ import annotations

import enginelib
import pytest
from enginelib import recipe, stage
from jax.sharding import PartitionSpec as P

from spendflops.contracts import errors
from spendflops.engine.build import build
from spendflops.engine.describe import describe
from spendflops.engine.sharding import Mesh, check_batch

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
RULE = """
import json
from spendflops.engine.sharding import Mesh
where = lambda shape, **m: str(Mesh(**m).of(shape).spec)
four = {"fsdp": 4, "min_size": 64}
print(json.dumps({
    "ways": [Mesh(fsdp=n).ways for n in (1, 2, 3, 5, 8, 100)],
    "longest": where((8, 24, 16), **four), "first of equals": where((16, 16), **four),
    "divisible": where((12, 30), **four), "small": where((8, 7), **four), "just large": where((8, 8), **four),
    "odd": where((33, 5), **four), "copies": where((1024, 1024)), "scalar": where((), fsdp=8, min_size=1),
    "bytes": Mesh(**four).of((8, 24)).shard_shape((8, 24)),
    "rows": Mesh(**four).split.shard_shape((16, 3)), "grid": list(Mesh(**four).split.mesh.shape.values()),
}))
"""
STEP = """
import json, re
import jax, numpy as np
from enginelib import stage
from spendflops.engine.build import build_stage
from spendflops.engine.sharding import Mesh
built = build_stage(stage("mae", batch_size=16, mesh=Mesh(fsdp=8, min_size=64)))
state = built.init.compile()(jax.random.key(0))
placed = lambda tree: [x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)]
sharded = [s.sharding == x.sharding for s, x in zip(*map(jax.tree.leaves, (built.train.args[0], state)))]
batch = {n: np.zeros(s.shape, s.dtype) for n, s in built.inputs.items()}
inputs = jax.device_put((batch, {"key": jax.random.key(0), "steps": np.int32(3)}),
                        jax.tree.map(lambda s: s.sharding, built.train.args[1:]))
before = state
state, metrics = built.train.compile()(state, *inputs)
kept = [s.sharding == x.sharding for s, x in zip(*map(jax.tree.leaves, (built.train.args[0], state)))]
big = lambda tree: sum(not r for r in placed(tree))
micro = build_stage(stage("mae", batch_size=16, accumulate=2)).train.compile().as_text()
batch_moves = [line for line in micro.splitlines() if re.search("all-to-all|collective-permute|all-gather", line)]
print(json.dumps({"init": all(sharded), "step": all(kept), "params": big(state["params"]), "opt": big(state["opt"]),
    "metrics": all(placed(metrics)), "donated": all(x.is_deleted() for x in jax.tree.leaves(before["params"])),
    "moves": [m[:200] for m in batch_moves]}))
"""


def test_the_longest_axis_that_divides_evenly_is_divided():
    found = enginelib.python(RULE, **EIGHT)
    assert found["ways"] == [1, 2, 2, 4, 8, 8]
    assert found["longest"] == str(P(None, "fsdp")) and found["first of equals"] == str(P("fsdp"))
    assert found["divisible"] == str(P("fsdp")) and found["just large"] == str(P("fsdp"))
    assert {found[name] for name in ("small", "odd", "copies", "scalar")} == {str(P())}
    assert found["bytes"] == [8, 6] and found["rows"] == [2, 3] and found["grid"] == [2, 4]


def test_a_program_keeps_the_state_where_it_is_and_moves_no_rows():
    """The state is made divided, stays so and gives its memory away; micro-batches are made of rows at hand."""
    found = enginelib.python(STEP, **EIGHT)
    assert found["init"] and found["step"] and found["metrics"] and found["donated"]
    assert found["params"] > 5 and found["opt"] == 2 * found["params"]
    assert found["moves"] == []


def test_the_mesh_is_no_part_of_what_a_run_is():
    one, eight = (recipe(stage(mesh=mesh)) for mesh in (Mesh(), Mesh(fsdp=8, min_size=64)))
    assert describe(one) == describe(eight)
    assert build(one).stages[0] is not build(eight).stages[0]


@pytest.mark.parametrize("options", [{"fsdp": 0}, {"min_size": 0}])
def test_a_mesh_of_nothing_is_refused(options):
    with pytest.raises(errors.ConfigError, match="at least 1"):
        Mesh(**options)


def test_a_batch_that_cannot_be_shared_is_refused():
    check_batch(8, parts=4)
    for size, parts, words in ((0, 1, "batch_size 0"), (6, 4, "in 4 micro-batches"), (8, 0, "accumulate = 0")):
        with pytest.raises(errors.ConfigError, match=words):
            check_batch(size, parts=parts)
