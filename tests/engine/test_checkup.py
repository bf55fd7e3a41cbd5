"""``spendflops doctor``: what is there, what is not and why, and file systems that would lose a run."""

from __future__ import annotations

import json
import os

import pytest

from spendflops.cli.main import main
from spendflops.engine import checkup, disk


def found(folder):
    return {finding.name: finding for finding in checkup.checkup(folder)}


def test_a_good_machine(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "PROBLEM" not in text and "one of many makes a file (O_EXCL): yes" in text and "backend: cpu" in text
    assert main(["doctor", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["part"] for row in rows} == {"versions", "devices", "fast paths", "memory", "energy", "folder"}
    room = next(row["value"] for row in rows if row["name"] == "free bytes")
    assert room == pytest.approx(disk.free(tmp_path), rel=0.1)
    assert not list(tmp_path.iterdir())


def test_wrong_usage(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2 and main(["doctor", "a", "b"]) == 2


def test_what_is_missing_has_a_reason(tmp_path):
    energy = [finding for finding in checkup.checkup(tmp_path) if finding.part == "energy"]
    assert energy and all(finding.value or finding.note for finding in energy)


def test_a_file_system_without_exclusive_creation_is_a_problem(tmp_path, monkeypatch):
    real = os.open
    loose = lambda path, flags, *more, **to: real(path, flags & ~os.O_EXCL, *more, **to)  # noqa: E731
    monkeypatch.setattr(disk.os, "open", loose)
    assert not disk.exclusive(tmp_path)
    finding = found(tmp_path)["one of many makes a file (O_EXCL)"]
    assert finding.ok is False


def test_a_rename_that_is_not_whole_is_a_problem(tmp_path, monkeypatch):
    def copy(source, target):
        content = source.read_bytes()
        target.write_bytes(b"")
        target.write_bytes(content)

    monkeypatch.setattr(disk.os, "replace", copy)
    assert not disk.whole(tmp_path)


def test_a_lock_that_does_not_lock_is_told(tmp_path, monkeypatch):
    assert disk.locks(tmp_path)
    monkeypatch.setattr(disk.fcntl, "flock", lambda file, operation: None)
    assert not disk.locks(tmp_path)


def test_little_room_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(checkup.disk, "free", lambda folder: 10**8)
    assert found(tmp_path)["free bytes"].ok is False


def test_a_folder_that_cannot_be_written_is_a_problem_with_its_reason(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkup.disk, "fsync_seconds", refuse)
    finding = found(tmp_path)["seconds of an fsync"]
    assert finding.ok is False and finding.note.startswith("Read-only file system")
