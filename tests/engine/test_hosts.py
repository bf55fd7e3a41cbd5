"""Several real processes that train one model over TCP: the losses and the order of one, and what they do at an end.

What the processes compute is tiny; what is tested is that they agree, and what they do when one of them is gone.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time

import pytest
from enginelib import call, command, environment, outcome, reached, wasted, write_gin

from spendflops.contracts import errors
from spendflops.engine import hosts
from spendflops.parts.images import EncodedImage
from spendflops.testing.samples import KitData

STEPS, EVERY = 24, 8
SKIPS = ("logs/skipped-mae.json", "result.json")


def port():
    """A port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """``count`` processes that train together."""

    def __init__(self, count, flags, workdir, cache):
        self.workdir = workdir
        told = ("--coordinator", f"127.0.0.1:{port()}", "--num_processes", count)
        self.processes = [
            subprocess.Popen(
                command("train", *flags, "--workdir", workdir, *told, "--process_id", number),
                env=environment(cache),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(count)
        ]

    def until(self, step):
        """Waits until a step is reached."""
        end = time.time() + 150
        while reached(self.workdir) < step:
            assert time.time() < end, "took too long"
            if any(process.poll() is not None for process in self.processes):
                raise AssertionError(self.ended())
            time.sleep(0.005)
        return self

    def send(self, number, process):
        """Sends a signal to one of them."""
        self.processes[process].send_signal(number)
        return self

    def ended(self):
        """Exit codes and output of all."""
        done = [process.communicate(timeout=150)[0] for process in self.processes]
        return [process.returncode for process in self.processes], done


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A run of one process: its folder and its flags."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ["--gin_file", write_gin(folder, steps=STEPS, every=EVERY), "--gin", "Recipe.log_every = 1"]
    code, _, text = call("train", *flags, "--workdir", folder / "run", cache=cache)
    assert code == 0, text
    return folder / "run", flags


def check(folder, expected, *, steps=STEPS):
    """The run of several processes is that of one, but for rounding."""
    one, many = outcome(expected), outcome(folder)
    losses = [[r["loss"] for r in x["metrics"]] for x in (one, many)]
    assert [r["step"] for r in many["metrics"]] == list(range(1, steps + 1))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for x in (one, many):
        assert [(r["first"], r["last"]) for r in x["ledger"]][:3] == [(0, 8), (8, 16), (16, 24)]
    assert [r["flops"] for r in one["ledger"]] == [r["flops"] for r in many["ledger"]]
    assert one["scores"] == many["scores"]
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_as_one_does(count, whole, tmp_path, cache):
    expected, flags = whole
    codes, texts = Job(count, flags, tmp_path / "run", cache).ended()
    assert codes == [0] * count, texts
    check(tmp_path / "run", expected)
    # The first speaks alone.
    assert "run directory" in texts[0] and not any("run directory" in text or "loss" in text for text in texts[1:])
    energy = json.loads((tmp_path / "run" / "result.json").read_text())["energy"]
    assert energy["kwh"] is None and "other hosts: not read" in energy["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_leave_and_the_job_goes_on(victim, whole, tmp_path, cache):
    expected, flags = whole
    job = Job(2, flags, tmp_path / "run", cache).until(11).send(signal.SIGKILL, victim)
    codes, texts = job.ended()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 75, texts
    codes, texts = Job(2, flags, tmp_path / "run", cache).ended()
    assert codes == [0, 0], texts
    check(tmp_path / "run", expected)
    (first, last), *more = wasted(tmp_path / "run")
    assert first == 8 and last >= 11 and not more


@pytest.mark.slow
def test_asked_to_stop_all_stop_after_the_same_step_and_go_on_alone(whole, tmp_path, cache):
    """The signal reaches the second process only; one process takes up what two, with half of the state each, saved."""
    expected, flags = whole
    halves = ["mae/Stage.mesh = @Mesh()", "Mesh.fsdp = 2", "Mesh.min_size = 64"]
    more = [word for binding in halves for word in ("--gin", binding)]
    codes, texts = Job(2, [*flags, *more], tmp_path / "run", cache).until(3).send(signal.SIGTERM, 1).ended()
    assert codes == [75, 75] and "everything is saved" in texts[0], texts
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    code, _, text = call("train", *flags, "--workdir", tmp_path / "run", cache=cache)
    assert code == 0, text
    check(tmp_path / "run", expected)
    assert wasted(tmp_path / "run") == []


class Damaged(KitData):
    """The kit's data with ten images that cannot be decoded."""

    def source(self, split, *, features):
        return _Damaged(super().source(split, features=features))


class _Damaged:
    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        return sample if index % 5 else {**sample, "image": EncodedImage(b"nothing", name=f"{index}.jpg")}


def test_broken_examples_of_all_hosts_are_replaced_as_by_one_process_and_counted_together(tmp_path, cache):
    """One epoch, in which each host meets others of them; the first alone writes them down."""
    text = write_gin(tmp_path, steps=6, every=4, evaluate=False).read_text()
    damaged = text.replace("spendflops.testing.samples:KitData", "test_hosts:Damaged") + "Stage.skip_broken = 10\n"
    (tmp_path / "damaged.gin").write_text(damaged)
    flags = ["--gin_file", tmp_path / "damaged.gin"]
    code, _, text = call("train", *flags, "--workdir", tmp_path / "one", cache=cache)
    assert code == 0, text
    codes, texts = Job(2, flags, tmp_path / "two", cache).ended()
    assert codes == [0, 0], texts
    assert "skipped, 10 of at most 10" in texts[0] and "skipped" not in texts[1]
    found = [[json.loads((tmp_path / run / file).read_text()) for run in ("one", "two")] for file in SKIPS]
    assert found[0][0] == found[0][1] and set(found[0][0]) == {str(index) for index in range(0, 48, 5)}
    assert [each["stages"][0]["skipped"] for each in found[1]] == [10, 10]
    one, two = ([r["loss"] for r in outcome(tmp_path / run)["metrics"]] for run in ("one", "two"))
    assert len(one) == 2 and one == pytest.approx(two, rel=1e-5)


def test_a_second_job_on_the_same_directory_is_refused_as_a_whole(whole, tmp_path, cache):
    _, flags = whole
    flags = [*flags, "--gin", "Recipe.seed = 5"]
    codes, texts = Job(2, flags, whole[0], cache).ended()
    assert codes[0] == 2 and "another configuration" in texts[0], texts
    assert codes[1] in (2, 75), texts


@pytest.mark.parametrize(
    "given",
    [
        {"coordinator": "127.0.0.1:1"},
        {"coordinator": "127.0.0.1:1", "processes": 2},
        {"processes": 2, "process": 0},
        {"coordinator": "auto", "process": 0},
    ],
)
def test_a_job_is_described_as_a_whole(given):
    with pytest.raises(errors.ConfigError, match="coordinator"):
        hosts.join(**given)


def test_one_process_meets_nobody(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    assert not hosts.join() and not hosts.joined() and not hosts.several() and hosts.first()
    assert hosts.agree({"a": 1}) == {"a": 1} and hosts.largest(3) == 3
    assert hosts.stops("stage", 3, None) is None and hosts.stops("stage", 3, 15) == 15
    assert hosts.lost(RuntimeError("Gloo all-reduce failed: Connection reset by peer")) is None
    hosts.leave(3)


def test_a_lost_host_is_told_from_other_errors(monkeypatch):
    monkeypatch.setattr(hosts, "several", lambda: True)
    found = hosts.lost(ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer\nmore"))
    assert found.exit_code == 75 and "Gloo all-reduce failed" in found.why and "more" not in found.why
    assert hosts.lost(ValueError("shapes do not match")) is None
    assert hosts.lost(errors.DataError("Connection reset by peer")) is None
