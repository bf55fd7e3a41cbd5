"""Timed steps out of the folders of runs: by hand from ledgers written here."""

import json

import pytest

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.accounts.machines import Host
from spendflops.contracts.errors import DataError
from spendflops.study.speeds import timed


def run(folder, *rows, devices=("cpu",), cores=2):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "environment.json").write_text(json.dumps({"devices": list(devices), "cores": cores}))
    ledger = Ledger(folder / "ledger.jsonl")
    for program, calls, flops, seconds, more in rows:
        basics = {"role": "pretrain", "first": 0, "last": calls, "phases": {}, "hardware_flops": None}
        basics |= {"counter": "jaxpr/1", "target": "cpu"}
        ledger.append(
            Entry(**{**basics, "program": program, "calls": calls, "flops": flops, "seconds": seconds, **more})
        )
    return folder


def test_rows_of_a_program_are_one_speed(tmp_path):
    run(
        tmp_path / "a",
        ("mae/train", 10, 100, 5.0, {}),
        ("mae/train", 30, 100, 5.0, {}),
        ("mae/train", 99, 100, 1.0, {"kind": "wasted"}),
        ("mae/train", 40, 100, 70.0, {"cached": 40}),
        ("finetune/train", 5, 70, 10.0, {"role": "transfer"}),
        ("mae/predict/x/test", 5, 70, 10.0, {"role": "evaluate"}),
        ("probe/train", 5, 0, 10.0, {}),
        ("late/train", 5, 7, None, {}),
    )
    speeds, host = timed([tmp_path / "a"])
    assert [(s.method, s.flops, s.seconds) for s in speeds] == [("mae", 100, 0.25), ("finetune", 70, 2.0)]
    assert host == Host(kind="cpu", devices=1, cores=2)


def test_a_study_is_its_rows(tmp_path):
    for name, flops in (("a", 1), ("b", 2)):
        run(tmp_path / "rows" / name, ("mae/train", 1, flops, 1.0, {}))
    (tmp_path / "rows" / "c").mkdir()  # not finished
    assert [s.flops for s in timed([tmp_path])[0]] == [1, 2]
    assert [s.flops for s in timed([tmp_path / "rows" / "b", tmp_path])[0]] == [2, 1, 2]


def test_machines_do_not_mix(tmp_path):
    run(tmp_path / "a", ("mae/train", 1, 1, 1.0, {}))
    run(tmp_path / "b", ("mae/train", 1, 1, 1.0, {}), devices=("NVIDIA H200",))
    with pytest.raises(DataError, match=r"different machines(.|\n)*NVIDIA H200"):
        timed([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(DataError, match="no finished run"):
        timed([tmp_path / "nothing"])
