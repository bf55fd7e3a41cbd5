"""What a run shows and writes while it runs."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from spendflops.engine.metrics import MetricsLog


@pytest.fixture
def log(tmp_path):
    (tmp_path / "logs").mkdir()
    made = MetricsLog(tmp_path, quiet=False)
    made.console = Console(file=io.StringIO(), width=300, highlight=False)
    yield made
    made.close()


def rows(log):
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_rows_carry_steps_examples_flops_and_rates(log):
    stage = log.stage("mae", steps=100, flops_per_step=7, examples_per_step=8)
    stage.row(10, {"loss": 0.5, "monitor": 0.25}, flops=70)
    stage.row(30, {"loss": 0.25, "monitor": 0.25}, flops=210)
    first, second = rows(log)
    assert (first["step"], first["examples"], first["flops"], first["loss"]) == (10, 80, 70, 0.5)
    # The first interval holds the start of the readers.
    assert first["examples_per_second"] is None and second["examples_per_second"] > 0
    assert second["flops_per_second"] / second["examples_per_second"] == pytest.approx(7 / 8)
    text = log.console.file.getvalue()
    assert "mae 30/100 (30%)" in text and "ETA" in text and "monitor 0.25" in text and "loss 0.25" in text


def test_rows_of_steps_that_are_done_again_are_dropped_and_half_lines_too(log):
    for stage, step in (("a", 10), ("a", 20), ("b", 10)):
        log.write({"stage": stage, "step": step})
    with open(log.path, "a") as file:
        file.write('{"stage": "b", "st')
    log.rewind("a", 15)
    assert [(r["stage"], r["step"]) for r in rows(log)] == [("a", 10), ("b", 10)]
    log.rewind("a", 0)
    assert [(r["stage"], r["step"]) for r in rows(log)] == [("b", 10)]


def test_tables_are_written_once_and_shown(log):
    for _ in range(2):
        log.table("init.txt", ["one [x]", "two"], show=["one [x]"])
    assert (log.folder / "logs" / "init.txt").read_text() == "one [x]\ntwo\n"
    assert log.console.file.getvalue() == "one [x]\n" * 2


def test_a_run_that_breaks_off_gives_the_terminal_back(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    log = MetricsLog(tmp_path, quiet=False)
    log.console = Console(file=io.StringIO(), width=200, force_terminal=True)
    log.stage("mae", steps=100, flops_per_step=1, examples_per_step=1).row(10, {"loss": 1.0}, flops=1)
    bar = log.bar
    assert bar.live.is_started
    log.close()
    assert not bar.live.is_started and "\x1b[?25h" in log.console.file.getvalue()  # the cursor is back


def test_events_are_what_tensorboard_reads(log):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log.stage("mae", steps=10, flops_per_step=1, examples_per_step=1).row(5, {"loss": 0.5}, flops=5)
    log.close()
    events = EventAccumulator(str(log.folder / "events")).Reload()
    [value] = events.Scalars("mae/loss")
    assert (value.step, value.value) == (5, 0.5)


@pytest.mark.parametrize(("waited", "said"), [(0.5, 1), (0.0, 0)])
def test_a_run_whose_model_waits_for_data_says_once_what_helps(log, waited, said):
    stage = log.stage("mae", steps=100, flops_per_step=7, examples_per_step=8)
    for step in (10, 20, 30):
        time.sleep(0.02)
        stage.waited += waited * 0.02
        stage.row(step, {"loss": 0.5}, flops=step * 7)
    text = log.console.file.getvalue()
    assert text.count("waits for data") == said
    assert not said or "what helps" in text
