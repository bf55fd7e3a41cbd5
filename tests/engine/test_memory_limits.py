"""The memory that a process may have: the least of what the machine, its groups and ulimit give."""

from __future__ import annotations

import resource

import pytest

from spendflops.engine import checkup, fitting, host

NONE_V1 = str(2**63 - 4096)


def system(root, groups, files):
    """A root with ``proc/self/cgroup`` and files below ``sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def of_groups(root):
    return {
        limit.source.rpartition("cgroup/")[2]: limit.size
        for limit in host.memory_limits(root)
        if "group" in limit.source
    }


def test_groups_of_version_2_and_those_around_them(tmp_path):
    files = {"slurm/job_7/step_0/memory.max": "max", "slurm/job_7/memory.max": 4000, "slurm/memory.max": 9000}
    root = system(tmp_path, "0::/slurm/job_7/step_0\n", files | {"other/memory.max": 1})
    assert of_groups(root) == {"slurm/job_7/memory.max": 4000, "slurm/memory.max": 9000}


def test_groups_of_version_1(tmp_path):
    files = {"memory/job/memory.limit_in_bytes": 5000, "memory/memory.limit_in_bytes": NONE_V1}
    root = system(tmp_path, "5:devices:/x\n4:cpu,memory:/job\n0::/\n", files)
    assert of_groups(root) == {"memory/job/memory.limit_in_bytes": 5000}


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    assert of_groups(system(tmp_path, "0::/\n", {"memory.max": 700})) == {"memory.max": 700}
    # Without a namespace of its own it is told a path that it cannot see.
    (tmp_path / "proc/self/cgroup").write_text("0::/docker/abc\n")
    assert of_groups(tmp_path) == {"memory.max": 700}


def test_a_system_without_groups(tmp_path):
    assert [limit.source for limit in host.memory_limits(tmp_path)] == ["this machine"]


def test_ulimit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda what: (12345, resource.RLIM_INFINITY))
    assert host.Limit(size=12345, source="ulimit -v") in host.memory_limits(tmp_path)


def test_the_least_is_what_fits_and_what_the_doctor_shows(tmp_path, monkeypatch):
    least = host.Limit(size=3000, source="its group, /sys/fs/cgroup/memory.max")
    monkeypatch.setattr(host, "memory_limits", lambda: [host.Limit(size=9000, source="this machine"), least])
    monkeypatch.setattr(fitting, "memory_limits", host.memory_limits)
    assert fitting.memory() == least and host.this_host().memory == 3000
    (shown,) = (f for f in checkup.checkup(tmp_path) if f.name == "bytes that a process may have")
    assert shown.value == 3000 and shown.note.endswith("set by its group, /sys/fs/cgroup/memory.max")


@pytest.mark.parametrize("text", ["", "nonsense", "4:memory"])
def test_odd_lists_of_groups_are_no_limit(tmp_path, text):
    assert of_groups(system(tmp_path, text, {})) == {}
