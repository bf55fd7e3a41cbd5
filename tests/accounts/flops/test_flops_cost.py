"""The value the counters return."""

import json
import subprocess
import sys

import pytest

from spendflops.accounts.flops import PHASES, Cost, Op


def op(flops=10, *, phase="forward", dtype="float32", times=1, rematted=False):
    shapes = "[1] x [1] -> [1]"
    return Op(kind="dot", shapes=shapes, dtype=dtype, phase=phase, flops=flops, times=times, rematted=rematted)


def test_sums_by_phase_and_dtype():
    rows = [op(), op(7, phase="backward", rematted=True, times=3), op(2, dtype="bfloat16")]
    cost = Cost.from_ops(rows, counter="test/1")
    assert cost.phases == {"forward": 12, "backward": 21}
    assert cost.dtypes == {"float32": 31, "bfloat16": 2}
    assert cost.total == 33
    assert cost.rematted == 21  # a part of the total


def test_identical_rows_merge():
    cost = Cost.from_ops([op(), op(times=4), op(3)], counter="test/1")
    assert [(row.flops, row.times) for row in cost.ops] == [(10, 5), (3, 1)]


def test_no_work_is_zero():
    cost = Cost.from_ops([op(times=0)], counter="test/1")
    assert cost.total == 0
    assert cost.phases == {}
    assert cost.ops == ()


def test_unknown_work_has_no_total():
    cost = Cost.from_ops([op()], counter="test/1", unknown=["b", "a", "b"])
    assert cost.total is None
    assert cost.unknown == ("a", "b")
    assert (cost + Cost(counter="test/1")).total is None
    assert (cost * 2).total is None


def test_addition_and_calls():
    step = Cost.from_ops([op(), op(7, phase="backward", rematted=True)], counter="test/1")
    spent = 3 * step + step * 2
    assert spent.phases == {"forward": 50, "backward": 35}
    assert spent.rematted == 35
    assert [row.times for row in spent.ops] == [5, 5]
    assert (step * 0).total == 0


def test_large_numbers_stay_exact():
    calls = 10**9 + 7
    assert (Cost.from_ops([op(137741131806)], counter="test/1") * calls).total == 137741131806 * calls


def test_counters_do_not_mix():
    with pytest.raises(ValueError, match="cannot add"):
        Cost(counter="jaxpr/1") + Cost(counter="hlo/1")


@pytest.mark.parametrize("calls", [1.0, True])
def test_calls_are_ints(calls):
    with pytest.raises(TypeError, match="number of calls"):
        Cost(counter="test/1") * calls


def test_calls_are_not_negative():
    with pytest.raises(ValueError, match="cannot be called -1 times"):
        Cost(counter="test/1") * -1


def test_floats_are_refused():
    with pytest.raises(TypeError, match="Python ints"):
        Cost(counter="test/1", phases={"forward": 1.0}, dtypes={"float32": 1.0})


def test_phases_are_a_closed_set():
    assert PHASES == ("augment", "targets", "forward", "backward", "update", "predict", "other")
    with pytest.raises(ValueError, match="unknown phases"):
        Cost(counter="test/1", phases={"encoder": 1}, dtypes={"float32": 1})


def test_phases_and_dtypes_agree():
    with pytest.raises(ValueError, match="do not add up"):
        Cost(counter="test/1", phases={"forward": 1}, dtypes={"float32": 2})


def test_recomputation_is_taken_out_of_phases_and_dtypes():
    cost = Cost.from_ops([op(7), op(2, rematted=True), op(3, phase="update")], counter="test/1", unknown=["call x"])
    left = cost.without_recomputation()
    assert left.phases == {"forward": 7, "update": 3} and left.rematted == 0 and sum(left.dtypes.values()) == 10
    assert left.counter == cost.counter and left.unknown == cost.unknown
    with pytest.raises(ValueError, match="op table"):
        Cost.from_json(cost.to_json()).without_recomputation()
    plain = Cost.from_json(left.to_json())
    assert plain.without_recomputation() == plain


@pytest.mark.parametrize("ops", [False, True])
def test_json_round_trip(ops):
    cost = Cost.from_ops([op(2**70), op(1, phase="update", rematted=True)], counter="test/1", unknown=["call x"])
    read = Cost.from_json(json.loads(json.dumps(cost.to_json(ops=ops))))
    assert read == (cost if ops else Cost.from_json(cost.to_json()))
    assert read.phases == cost.phases
    assert read.unknown == cost.unknown
    assert ("ops" in cost.to_json(ops=ops)) is ops
    assert cost.to_json()["total"] is None


def test_table_prints_every_row():
    text = Cost.from_ops([op(1200), op(3, rematted=True)], counter="test/1", unknown=["call x"]).table()
    assert "1,200" in text
    assert "forward (remat)" in text
    assert text.endswith("unknown: call x")


def test_costs_are_read_without_jax():
    code = "import sys, spendflops.accounts.flops as f; f.Cost, f.count_hlo; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
