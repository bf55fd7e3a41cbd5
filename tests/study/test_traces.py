"""What runs said while they trained: read from their folders, thinned without a bias."""

import json
import math

import numpy as np
import pytest

from spendflops.engine.metrics import MetricsLog
from spendflops.study.traces import MOST, Trace, read, thinned


def logged(folder, steps=6, **more):
    log = MetricsLog(folder, quiet=True)
    stage = log.stage("mae", steps=steps, flops_per_step=10**9, examples_per_step=8)
    for step in range(1, steps + 1):
        stage.row(step, {"loss": 1 / step, "lr": 0.1, **more}, flops=step * 10**9)
    return log, stage


def test_losses_and_probes_of_a_run(tmp_path):
    log, stage = logged(tmp_path)
    for step in (3, 6):
        stage.aside(step, {"probe/knn/accuracy": 0.1 * step}, flops=step * 10**9)
    log.close()
    loss, probe = read(tmp_path)
    assert loss == Trace(
        name="loss", stage="mae", flops=[k * 10**9 for k in range(1, 7)], values=[1 / k for k in range(1, 7)]
    )
    assert probe.name == "probe/knn/accuracy" and probe.flops == (3 * 10**9, 6 * 10**9)
    assert probe.values == pytest.approx((0.3, 0.6))


def test_half_a_line_and_what_is_no_number_are_left_out(tmp_path):
    log, _ = logged(tmp_path)
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": "mae", "step": 7, "flops": 7 * 10**9, "loss": math.nan}) + "\n")
        file.write('{"stage": "mae", "st')
    (loss,) = read(tmp_path)
    assert len(loss.values) == 6
    assert read(tmp_path / "nothing") == ()


def test_thinning_keeps_the_ends_the_order_and_the_mean():
    flops = np.arange(1, 5001) * 10**9
    values = 3 * flops.astype(float) ** -0.05
    kept = thinned(list(zip(flops.tolist(), values.tolist(), strict=True)))
    assert len(kept) <= MOST and kept[-1][0] == flops[-1]
    assert [f for f, _ in kept] == sorted(f for f, _ in kept)
    # Each is the mean of what lies between it and the one before.
    for (before, _), (last, value) in zip([(0, 0), *kept], kept, strict=False):
        assert value == pytest.approx(values[(flops > before) & (flops <= last)].mean(), rel=1e-5)
    few = [(3, 1.0), (1, 2.0)]
    assert thinned(few) == [(1, 2.0), (3, 1.0)]
    assert len(thinned([(5, 1.0)] * 100)) == 1
