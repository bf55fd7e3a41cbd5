"""Runs that are killed, stopped, refused or broken, as real processes: the same command goes on, bit for bit."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys

import pytest
from enginelib import Process, call, environment, outcome, reached, recipe, rows, wasted, write_gin

from spendflops import config
from spendflops.cli.main import main
from spendflops.contracts.errors import ConfigError, DataError, Preempted
from spendflops.engine import loop
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.loop import run_recipe
from spendflops.engine.rundir import RunDir, locked

STEPS, EVERY = 40, 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """An uninterrupted run: its folder and its flags."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ["--gin_file", write_gin(folder, steps=STEPS, every=EVERY)]
    code, _, errors = call("train", *flags, "--workdir", folder / "run", cache=cache)
    assert code == 0, errors
    return folder / "run", flags


def finish(flags, workdir, cache):
    code, _, errors = call("train", *flags, "--workdir", workdir, cache=cache)
    assert code == 0, errors


def ended(workdir):
    return json.loads((workdir / "status.json").read_text())


def test_a_killed_run_goes_on_bit_for_bit(whole, tmp_path, cache):
    expected, flags = whole
    process = Process("train", *flags, "--workdir", tmp_path, "--quiet", cache=cache)
    code, _ = process.until(lambda: reached(tmp_path) >= 11).stop(signal.SIGKILL)
    assert code == -signal.SIGKILL
    last = reached(tmp_path)
    finish(flags, tmp_path, cache)
    assert outcome(tmp_path) == outcome(expected)
    # Steps after the last checkpoint were done twice, and are counted once as wasted.
    kept = last - last % EVERY
    assert wasted(tmp_path) in ([(kept, last)], [(kept - EVERY, last)], [])
    result = json.loads((tmp_path / "result.json").read_text())
    lost = sum(b - a for a, b in wasted(tmp_path))
    assert result["flops"]["wasted"] == lost * rows(tmp_path / "ledger.jsonl")[0]["flops"]
    assert ended(tmp_path)["state"] == "finished"


def test_a_terminated_run_saves_and_goes_on_bit_for_bit(whole, tmp_path, cache):
    expected, flags = whole
    process = Process("train", *flags, "--workdir", tmp_path, cache=cache)
    code, text = process.until(lambda: reached(tmp_path) >= 3).stop(signal.SIGTERM)
    assert code == 75 and "everything is saved" in text and "goes on from here" in text
    said = ended(tmp_path)
    assert (said["state"], said["exit_code"]) == ("stopped", 75)
    assert (said["step"], said["steps"]) == (reached(tmp_path), STEPS) and said["stage"]
    finish(flags, tmp_path, cache)
    assert outcome(tmp_path) == outcome(expected)
    assert wasted(tmp_path) == []


def test_a_run_that_goes_on_says_from_where(tmp_path, monkeypatch):
    run_dir = RunDir.open(tmp_path, {})
    assert run_dir.where() == {}
    run_dir.status(state="running", pid=1, stage="mae", step=3, steps=9)
    said = []
    monkeypatch.setattr(RunDir, "status", lambda self, **fields: said.append(fields))
    monkeypatch.setattr(loop, "run_stage", _preempt)
    with pytest.raises(Preempted):
        run_recipe(recipe(budget="9 steps"), tmp_path, quiet=True)
    where = {"stage": "mae", "step": 3, "steps": 9}
    assert [each["state"] for each in said] == ["running", "stopped"]
    assert all(each | where == each for each in said)


def _preempt(*_):
    raise Preempted("SIGTERM")


@pytest.mark.slow
def test_an_interrupted_run_saves_and_goes_on(whole, tmp_path, cache):
    expected, flags = whole
    process = Process("train", *flags, "--workdir", tmp_path, cache=cache)
    code, text = process.until(lambda: reached(tmp_path) >= 3).stop(signal.SIGINT)
    assert code == 130 and "everything is saved" in text
    finish(flags, tmp_path, cache)
    assert outcome(tmp_path) == outcome(expected) and wasted(tmp_path) == []


@pytest.mark.slow
def test_five_kills_at_random_moments_leave_no_trace(whole, tmp_path, cache):
    expected, flags = whole
    dice = random.Random(0)
    for attempt in range(5):
        aim = dice.randint(7 * attempt, 7 * attempt + 6)
        process = Process("train", *flags, "--workdir", tmp_path, "--quiet", cache=cache)
        process.until(lambda aim=aim: reached(tmp_path) >= aim)
        process.stop(signal.SIGKILL)
    finish(flags, tmp_path, cache)
    assert outcome(tmp_path) == outcome(expected)
    # Every attempt that lost steps has one row; together the rows and the run are all the steps that were done.
    attempts = [r["note"] for r in rows(tmp_path / "ledger.jsonl") if r["kind"] == "wasted"]
    assert len(attempts) == len(set(attempts)) and len(attempts) <= 5


@pytest.mark.slow
def test_a_second_process_on_the_same_folder_is_refused(whole, tmp_path, cache):
    _, flags = whole
    first = Process("train", *flags, "--workdir", tmp_path, "--quiet", cache=cache)
    first.until(lambda: reached(tmp_path) >= 1)
    first.process.send_signal(signal.SIGSTOP)
    code, _, text = call("train", *flags, "--workdir", tmp_path, cache=cache)
    first.process.send_signal(signal.SIGCONT)
    assert code == 2 and "is in use by process" in text and str(first.process.pid) in text
    assert first.process.wait(timeout=90) == 0


CORRUPT = {
    "a file is gone": lambda files: files[0].unlink(),
    "a file is cut": lambda files: files[0].write_bytes(files[0].read_bytes()[:100]),
    "a byte is flipped": lambda files: files[0].write_bytes(_flipped(files[0].read_bytes())),
}


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", CORRUPT)
def test_a_broken_checkpoint_gives_way_to_the_one_before(damage, tmp_path):
    wanted = recipe(budget="12 steps", checkpoint_every=4)
    run_recipe(wanted, tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    (tmp_path / "broken" / "result.json").unlink()
    newest = tmp_path / "broken" / "checkpoints" / "mae" / "12"
    # The largest files hold the arrays.
    files = sorted((f for f in newest.rglob("*") if f.is_file()), key=lambda f: -f.stat().st_size)
    CORRUPT[damage](files)
    run_recipe(wanted, tmp_path / "broken", quiet=True)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    assert wasted(tmp_path / "broken") == [(8, 12)]


def test_a_half_written_checkpoint_is_not_there(tmp_path):
    wanted = recipe(budget="12 steps", checkpoint_every=4)
    run_recipe(wanted, tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    folder = tmp_path / "half" / "checkpoints" / "mae"
    (folder / "12").rename(folder / "12.orbax-checkpoint-tmp-1234")
    run_recipe(wanted, tmp_path / "half", quiet=True)
    assert outcome(tmp_path / "half") == outcome(tmp_path / "whole")


def test_no_readable_checkpoint_at_all_is_an_error_that_names_them(tmp_path):
    wanted = recipe(budget="4 steps", checkpoint_every=4)
    run_recipe(wanted, tmp_path, quiet=True)
    (tmp_path / "result.json").unlink()
    for file in (tmp_path / "checkpoints" / "mae" / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no checkpoint in .* can be read\n  why: step 4: "):
        run_recipe(wanted, tmp_path, quiet=True)


def test_another_configuration_in_a_folder_is_refused_with_the_difference(whole, tmp_path, capsys):
    folder, _ = whole
    other = write_gin(tmp_path, steps=STEPS, every=EVERY, lr=5e-3)
    assert main(["train", "--gin_file", str(other), "--workdir", str(folder)]) == 2
    text = capsys.readouterr().err
    assert "holds a run of another configuration" in text
    assert '-    "lr": 0.001' in text and '+    "lr": 0.005' in text, text


def test_a_finished_run_is_not_run_again(whole):
    folder, flags = whole
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    loaded = config.load(config.compose(gin_files=[str(flags[1])]), root="Recipe")
    assert run_recipe(loaded.object, folder)["stages"][0]["steps"] == STEPS
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def outcome_of_checkpoint(workdir):
    with contextlib.closing(Checkpoints(workdir / "checkpoints" / "mae")) as checkpoints:
        return int(checkpoints.restore_raw()["step"])


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 700 KB, where the system lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("cannot mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_loses_nothing(whole, small_disk, tmp_path, cache):
    expected, flags = whole
    filler = small_disk / "filler"
    # Room for the first checkpoints, then none.
    process = Process("train", *flags, "--workdir", small_disk / "run", cache=cache)
    process.until(lambda: reached(small_disk / "run") >= EVERY + 1)
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    text, _ = process.process.communicate(timeout=90)
    assert process.process.returncode == 3, text
    assert "No space left on device" in text and "make room" in text and "Traceback" not in text
    filler.unlink()
    shutil.copytree(small_disk / "run", tmp_path / "run")
    finish(flags, tmp_path / "run", cache)
    assert outcome(tmp_path / "run") == outcome(expected)


def test_a_full_disk_in_one_process(small_disk):
    with pytest.raises(DataError, match=r"cannot write .*\n  why: No space left on device"):
        run_recipe(recipe(budget="400 steps", checkpoint_every=4, log_every=1), small_disk / "run", quiet=True)
    # What was saved before can be read.
    assert outcome_of_checkpoint(small_disk / "run") % 4 == 0


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        run_recipe(recipe(), tmp_path / "file" / "run", quiet=True)


def test_a_read_only_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("cannot mount a disk")
    try:
        with pytest.raises(DataError, match=r"cannot write .*\n  why: Read-only file system"):
            run_recipe(recipe(), folder / "run", quiet=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_process_that_is_gone_leaves_no_lock(tmp_path):
    hold = "import pathlib, sys, time\nfrom spendflops.engine.rundir import locked\n"
    hold += "with locked(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)\n"
    options = {"env": environment(), "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], **options)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"in use by process .*:{holder.pid}"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path), pytest.raises(ConfigError, match="in use"), locked(tmp_path):
        pass
