"""Signals that ask a run to save and leave, inside a study that is asked as well."""

import os
import signal
import subprocess
import sys
import time

import pytest
from enginelib import environment

from spendflops.engine.stopping import StopRequest


@pytest.mark.parametrize("error", [None, ValueError("the run broke")])
def test_a_signal_at_the_end_of_a_run_ends_the_study_too(error):
    with StopRequest().listening() as study:
        try:
            with StopRequest().listening():
                os.kill(os.getpid(), signal.SIGTERM)
                if error:
                    raise error
        except ValueError:
            pass
        assert study.signal == signal.SIGTERM and study.error("1 of 2 rows").exit_code == 75


def test_a_run_begins_with_what_its_study_was_told():
    with StopRequest().listening() as study:
        os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest().listening() as run:
            assert run.signal == study.signal == signal.SIGTERM


def test_runs_one_after_the_other_tell_each_other_nothing():
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopRequest().listening():
            os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest().listening() as later:
            assert later.signal is None
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("seconds", [0.8, 1.1, 1.5, 2.0])  # it imports, reads its configuration, builds the model
def test_before_a_run_listens_the_exit_code_is_75_too(seconds, tmp_path):
    words = ["train", "--objective", "mae", "--backbone", "vit_nano", "--dataset", "shapes", "--budget", "1e15"]
    words += ["--gin", "mae/Stage.batch_size = 8"]
    command = [sys.executable, "-m", "spendflops", *words, "--workdir", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.terminate()
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "the same command goes on" in text and "Traceback" not in text


COLLECTING = """
import gc, os, signal, sys
from spendflops.cli import main
signal.signal(signal.SIGTERM, main._leave)
gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
gc.collect()
"""


def test_a_signal_in_a_callback_that_can_raise_nothing_ends_the_process_as_well():
    process = subprocess.run([sys.executable, "-c", COLLECTING], env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.returncode == 75 and "Exception ignored" not in process.stderr
