"""The ledger keeps exact integers, survives a half-written line and tells productive from wasted work."""

import json

from spendflops.accounts.ledger import Entry, Ledger


def entry(**changes):
    fields = {
        "program": "mae/train",
        "role": "pretrain",
        "calls": 10,
        "first": 0,
        "last": 10,
        "flops": 2**70 + 1,
        "phases": {"forward": 2**69, "backward": 2**69 + 1},
        "hardware_flops": 2**70 + 3,
        "counter": "jaxpr/1 hlo/1",
        "target": "cpu",
        "seconds": 1.5,
    }
    return Entry(**{**fields, **changes})


def test_integers_stay_exact_over_a_round_trip(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append(entry())
    again = Ledger(path)
    assert again.entries == [entry()]
    assert again.total(role="pretrain") == 10 * (2**70 + 1)
    assert again.phases(role="pretrain")["backward"] == 10 * (2**69 + 1)
    assert again.hardware_total() == 10 * (2**70 + 3)


def test_a_half_written_line_is_dropped_and_the_next_row_is_whole(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append(entry())
    with open(path, "ab") as file:
        file.write(b'{"program": "mae/tr')
    ledger = Ledger(path)
    ledger.append(entry(first=10, last=20))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["first"], r["last"]) for r in rows] == [(0, 10), (10, 20)]
    assert ledger.steps("mae/train") == 20


def test_wasted_work_is_not_productive(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry())
    ledger.append(entry(kind="wasted", first=10, last=14, calls=4))
    assert ledger.steps("mae/train") == 10
    assert ledger.total() == 10 * (2**70 + 1)
    assert ledger.total(kind="wasted") == 4 * (2**70 + 1)
    assert ledger.seconds() == 3.0


def test_what_was_computed_before_is_counted_and_told_apart(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry(cached=4))
    ledger.append(entry(kind="wasted", calls=0, cached=10))
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.total() == 10 * (2**70 + 1) and again.cached() == 4 * (2**70 + 1)
    assert again.total(kind="wasted") == 0


def test_one_uncounted_program_makes_the_hardware_total_unknown(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(entry())
    ledger.append(entry(program="mae/predict", role="evaluate", hardware_flops=None, note="not counted: mystery"))
    assert ledger.hardware_total() is None
    assert ledger.hardware_total(role="pretrain") == 10 * (2**70 + 3)


def test_every_row_states_its_convention(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append(entry())
    assert json.loads(path.read_text())["convention"] == "2 FLOPs a multiply-add, all devices"
