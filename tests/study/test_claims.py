"""One of many workers gets a row, and what a dead one has left is taken over once, whatever the clocks say."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spendflops.study import claims as claiming
from spendflops.study.claims import Claims

PATIENCE = 60.0


class Clock:
    """A monotonic clock that the test turns."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def never():
    raise AssertionError("lost")


def worker(folder, clock=None, **options):
    return Claims(folder, **{"every": 5.0, "patience": PATIENCE, "clock": clock or Clock(), **options})


def watch(observer, clock, name="row", seconds=PATIENCE, step=5.0):
    """Looks again and again for some seconds, and gives the claim if there was one."""
    end = clock.now + seconds
    while clock.now < end:
        claim = observer.take(name, lost=never)
        if claim is not None:
            return claim
        clock.now += step
    return None


def elsewhere(folder, number=1, name="row", **changes):
    """Makes the holder of a claim a process of another machine."""
    path = folder / "claims" / name / str(number)
    body = json.loads(path.read_text())
    body["process"] |= {"boot": "another", **changes}
    path.write_text(json.dumps(body))


def at_once(tasks):
    """Runs functions in threads that start together."""
    gate = threading.Barrier(len(tasks))

    def run(task):
        gate.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def test_one_of_many_workers_gets_a_name(tmp_path):
    workers = [worker(tmp_path) for _ in range(16)]
    for name in map(str, range(20)):
        taken = at_once([lambda w=w, name=name: w.take(name, lost=never) for w in workers])
        (held,) = [claim for claim in taken if claim is not None]
        assert worker(tmp_path).take(name, lost=never) is None
        held.release()
        with worker(tmp_path).take(name, lost=never) as again:
            assert again.path.name == "2"


def test_a_claim_without_beats_is_taken_over_once(tmp_path):
    for attempt in range(20):
        name = f"row{attempt}"
        worker(tmp_path).take(name, lost=lambda: None).release()
        elsewhere(tmp_path, name=name)
        path = tmp_path / "claims" / name / "1"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"released": False}))
        clock = Clock()
        observers = [worker(tmp_path, clock) for _ in range(8)]
        for _ in range(int(PATIENCE / 5)):
            assert not any(observer.take(name, lost=never) for observer in observers)
            clock.now += 5.0
        taken = at_once([lambda o=o, name=name: o.take(name, lost=never) for o in observers])
        (held,) = [claim for claim in taken if claim is not None]
        # One that still believes in the first claim takes nothing away from the new one.
        assert watch(observers[0], clock, name, seconds=PATIENCE - 5) is None
        held.release()


def test_beats_keep_a_claim_however_long_it_takes_and_whatever_clocks_do(tmp_path, monkeypatch):
    clock = Clock()
    observer = worker(tmp_path, clock)
    with worker(tmp_path).take("row", lost=never) as claim:
        for hours in (0, 24, -48, 1e6, -1e6):
            monkeypatch.setattr(claiming.time, "time", lambda hours=hours: 1.7e9 + 3600 * hours)
            claim.beat()
            elsewhere(tmp_path)
            assert watch(observer, clock, seconds=PATIENCE - 5) is None
        os.utime(claim.path, (0, 0))
        claim.beat()
        elsewhere(tmp_path)
        assert watch(observer, clock, seconds=PATIENCE - 5) is None


def test_who_was_stopped_together_with_the_others_hears_them_again_first(tmp_path):
    clock = Clock()
    observer = worker(tmp_path, clock)
    with worker(tmp_path).take("row", lost=never):
        elsewhere(tmp_path)
        assert observer.take("row", lost=never) is None
        clock.now += 86400
        assert observer.take("row", lost=never) is None


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path):
    hold = "import pathlib, sys, time\nfrom spendflops.study.claims import Claims\n"
    hold += "Claims(pathlib.Path(sys.argv[1])).take('row', lost=print)\nprint('held', flush=True)\ntime.sleep(60)\n"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert worker(tmp_path).take("row", lost=never) is None
    holder.kill()
    holder.wait()
    # The same number may be another process by now, and a machine with the same name another machine.
    elsewhere(tmp_path, started="0", boot=claiming.this_process()["boot"], pid=os.getpid())
    assert worker(tmp_path).holder("row").gone
    elsewhere(tmp_path, started="0")
    assert worker(tmp_path).take("row", lost=never) is None
    elsewhere(tmp_path, started="0", boot=claiming.this_process()["boot"])
    with worker(tmp_path).take("row", lost=never) as claim:
        assert claim.path.name == "2"


def test_who_has_lost_a_claim_is_told_and_writes_nothing_into_it_any_more(tmp_path):
    told = threading.Event()
    first = worker(tmp_path, every=0.05).take("row", lost=told.set)
    elsewhere(tmp_path)
    (tmp_path / "claims" / "row" / "2").write_text("")
    assert told.wait(10) and first.lost
    before = first.path.read_text()
    first.release()
    assert first.path.read_text() == before and worker(tmp_path).holder("row").number == 2


@pytest.mark.parametrize("content", ["", "{", '{"beats": 3'])
def test_a_claim_whose_worker_died_while_making_it(tmp_path, content):
    (tmp_path / "claims" / "row").mkdir(parents=True)
    (tmp_path / "claims" / "row" / "1").write_text(content)
    clock = Clock()
    observer = worker(tmp_path, clock)
    assert watch(observer, clock, seconds=PATIENCE - 5) is None
    claim = watch(observer, clock, seconds=20)
    assert claim.path.name == "2"
    claim.release()


def test_beats_go_on_while_the_worker_is_busy(tmp_path):
    with worker(tmp_path, every=0.02).take("row", lost=never):
        before, end = worker(tmp_path).holder("row").beats, time.monotonic() + 10
        while worker(tmp_path).holder("row").beats < before + 3:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_disk_that_is_away_for_a_moment_does_not_end_the_beats(tmp_path, monkeypatch):
    away, told = threading.Event(), threading.Event()
    numbers = claiming._numbers

    def flickering(folder):
        if threading.current_thread().name == "claim row" and not away.is_set():
            away.set()
            raise OSError(errno.ESTALE, "stale file handle")
        return numbers(folder)

    monkeypatch.setattr(claiming, "_numbers", flickering)
    first = worker(tmp_path, every=0.02).take("row", lost=told.set)
    assert away.wait(10)
    (tmp_path / "claims" / "row" / "2").write_text("")
    assert told.wait(10) and first.lost
    first.release()
