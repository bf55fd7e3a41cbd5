"""Counters of energy: joules by hand from a tree like that of the kernel, and boards that are not there."""

import types

import pytest

from spendflops.accounts.energy import TAKEN, Counter, Meter


class Boards:
    """NVML with boards that have drawn some millijoules."""

    def __init__(self, **millijoules):
        self.millijoules = millijoules

    def nvmlInit(self):
        pass

    def nvmlShutdown(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index):
        return list(self.millijoules)[index]

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H200"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.millijoules[handle] is None:
            raise RuntimeError("Not Supported")
        return self.millijoules[handle]


class Mixed(Boards):
    def nvmlDeviceGetName(self, handle):
        return f"NVIDIA {handle}"


def zone(root, name, what, microjoules, wraps=262_143_328_850):
    folder = root / name
    folder.mkdir(parents=True)
    for file, value in (("name", what), ("energy_uj", microjoules), ("max_energy_range_uj", wraps)):
        (folder / file).write_text(f"{value}\n")
    return folder


@pytest.fixture
def meter(tmp_path):
    made = []

    def make(kind="cpu", devices=1, **options):
        options = {"environ": {}, "powercap": tmp_path / "powercap", "locks": tmp_path, **options}
        made.append(Meter(kind, devices, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_counter_that_wraps_around():
    values = iter([90, 95, 3, 50])
    counter = Counter("RAPL", lambda: next(values), per_joule=10, wraps=100)
    assert [counter.joules() for _ in range(3)] == [0.5, 1.3, 6.0]


def test_a_counter_that_does_not_wrap_does_not_go_backwards():
    values = iter([90, 3])
    counter = Counter("NVML", lambda: next(values), per_joule=1000)
    with pytest.raises(OSError, match="went backwards"):
        counter.joules()


def test_packages_and_memory_of_the_host_and_not_their_parts(meter, tmp_path):
    root = tmp_path / "powercap"
    package = zone(root, "intel-rapl:0", "package-0", 1_000_000)
    memory = zone(root, "intel-rapl:0:1", "dram", 5_000_000)
    for name, what in (("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        zone(root, name, what, 7)
    found = meter()
    assert found.complete and found.missing == {}
    (package / "energy_uj").write_text("4000000")
    (memory / "energy_uj").write_text("5500000")
    assert found.joules() == {"RAPL intel-rapl:0 package-0": 3.0, "RAPL intel-rapl:0:1 dram": 0.5}


def test_no_counter_is_a_reason_and_not_a_zero(meter):
    found = meter()
    assert (found.counters, found.joules(), found.complete) == ({}, {}, False)
    assert "no zone of a processor" in found.missing["RAPL"]


def test_a_counter_that_cannot_be_read_is_a_reason(meter, tmp_path):
    folder = zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()
    found = meter()
    assert "it cannot be read" in found.missing["RAPL intel-rapl:0 package-0"] and not found.complete


def test_each_counter_of_a_host_is_one_process_s(meter, tmp_path):
    zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 1)
    first, second = meter(), meter()
    assert first.complete and not second.complete
    assert second.missing == {"RAPL intel-rapl:0 package-0": TAKEN} and second.joules() == {}
    first.close()
    assert meter().complete


def test_boards_that_cuda_shows_and_no_other(meter):
    boards = Boards(a=1000, b=2000, c=3000)
    found = meter("NVIDIA H200", 2, nvml=boards, environ={"CUDA_VISIBLE_DEVICES": "2, 0"})
    assert found.complete and "RAPL" in found.missing  # the host is not measured, the devices are
    boards.millijoules.update(a=2500, b=9999, c=3010)
    assert found.joules() == {"NVML GPU-a": 1.5, "NVML GPU-c": 0.01}


@pytest.mark.parametrize(
    ("chosen", "devices"), [("GPU-b", 1), ("GPU-a,GPU-c", 2), ("1,-1,0", 1), (None, 3), ("", 0), ("-1", 0)]
)
def test_forms_of_cuda_visible_devices(meter, chosen, devices):
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    found = meter("NVIDIA H200", devices, nvml=Boards(a=1, b=2, c=3), environ=environ)
    assert len(found.counters) == devices and "NVML" not in found.missing


@pytest.mark.parametrize(
    ("boards", "environ", "devices", "reason"),
    [
        (Boards(a=1, b=2), {}, 1, "it sees 2 boards where JAX sees 1"),
        (Boards(a=1), {"CUDA_VISIBLE_DEVICES": "MIG-7"}, 1, "a part of a board"),
        (Mixed(a=1, b=2), {"CUDA_VISIBLE_DEVICES": "1"}, 1, "CUDA_DEVICE_ORDER"),
    ],
)
def test_boards_that_cannot_be_told_apart_are_not_counted(meter, boards, environ, devices, reason):
    found = meter("NVIDIA H200", devices, nvml=boards, environ=environ)
    assert reason in found.missing["NVML"] and not found.complete and found.counters == {}


def test_a_board_without_a_counter_is_missing_with_the_reason(meter):
    found = meter("Tesla K80", 2, nvml=Boards(a=1, b=None))
    assert list(found.counters) == ["NVML GPU-a"] and not found.complete
    assert "Not Supported" in found.missing["NVML GPU-b"]


def test_a_counter_that_is_lost_later_is_not_taken_for_what_it_said_last(meter):
    boards = Boards(a=1, b=1)
    found = meter("NVIDIA H200", 2, nvml=boards)
    boards.millijoules.update(a=None, b=1001)
    assert found.joules() == {"NVML GPU-b": 1.0} and not found.complete
    assert "then not: Not Supported" in found.missing["NVML GPU-a"]


def test_devices_without_a_known_counter(meter):
    found = meter("TPU v3", 8)
    assert not found.complete and "not known" in found.missing["TPU v3"]


def test_the_library_may_be_missing(meter, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert "pip install" in meter("NVIDIA H200", 1).missing["NVML"]
    broken = types.SimpleNamespace(nvmlInit=lambda: 1 / 0)
    assert "division" in meter("NVIDIA H200", 1, nvml=broken).missing["NVML"]
