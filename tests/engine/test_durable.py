"""What is written stays when the power goes: the content of a file and its name in the folder."""

import errno
import os

import pytest

from spendflops.accounts import ledger
from spendflops.contracts.errors import DataError
from spendflops.engine.rundir import write_atomically


@pytest.fixture
def synced(monkeypatch):
    """Paths that were made durable, in their order."""
    paths, fsync = [], os.fsync

    def note(descriptor):
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return paths


def test_a_file_is_durable_before_it_has_its_name_and_the_name_after(tmp_path, synced):
    write_atomically(tmp_path / "config.json", "{}")
    content, folder = synced
    assert content.endswith(".tmp") and folder == str(tmp_path)


def test_the_name_of_a_new_ledger_is_durable(tmp_path, synced):
    how = {"phases": {}, "hardware_flops": None, "counter": "jaxpr/1", "target": "cpu"}
    entry = ledger.Entry(program="mae/train", role="pretrain", calls=1, first=0, last=1, flops=2, **how)
    book = ledger.Ledger(tmp_path / "ledger.jsonl")
    book.append(entry)
    book.append(entry)
    assert synced == [str(book.path), str(tmp_path), str(book.path)]


def test_a_folder_that_cannot_be_made_durable_is_told_unless_its_file_system_has_no_such_thing(tmp_path, monkeypatch):
    number = errno.EINVAL

    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    ledger.sync(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        ledger.sync(tmp_path)
    with pytest.raises(DataError, match="cannot write"):
        write_atomically(tmp_path / "config.json", "{}")
