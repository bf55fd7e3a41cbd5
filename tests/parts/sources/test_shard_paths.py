"""Which tars a path, a pattern or a list stands for."""

import os

import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.parts.sources import shard_paths
from spendflops.parts.sources.shard_paths import find_shards
from tests.parts.shardlib import fill, pack, refuses, source


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def test_shards_are_found_by_folder_pattern_braces_and_list(folder):
    every = tuple(str(folder / f"{i:05d}.tar") for i in range(3))
    (folder / "._00000.tar").write_bytes(b"")
    assert (
        find_shards(folder) == find_shards(f"{folder}/*.tar") == find_shards(f"{folder}/{{00000..00002}}.tar") == every
    )
    assert find_shards(f"{folder}/0000?.*") == find_shards(f"{folder}/0000{{0..2}}.tar") == every
    assert find_shards(f"{folder}/{{00002,00000}}.tar") == find_shards(list(every[::-2])) == (every[0], every[2])
    assert find_shards(every[1]) == every[1:2]
    assert find_shards([f"{folder}/00000.tar", f"{folder}/{{00001..00002}}.tar"]) == every
    source(folder)
    assert find_shards(folder) == every, "what is stored beside shards is no shard"


def test_numbers_of_braces(tmp_path):
    for name in ("8", "9", "10", "08", "09", "a1-0", "a1-1", "a2-0", "a2-1", "{8..10}", "[x]0"):
        pack(tmp_path / f"{name}.tar", [])
    found = {
        p: [os.path.basename(s)[:-4] for s in find_shards(f"{tmp_path}/{p}.tar")]
        for p in ("{8..9}", "{08..10}", "a{1..2}-{0..1}", "[x]*")
    }
    assert found["{8..9}"] == ["8", "9"] and found["{08..10}"] == ["08", "09", "10"]
    assert found["a{1..2}-{0..1}"] == ["a1-0", "a1-1", "a2-0", "a2-1"] and found["[x]*"] == ["[x]0"]
    for number in range(11):
        pack(tmp_path / f"n{number}.tar", [])
    assert len(find_shards(f"{tmp_path}/n{{0..10}}.tar")) == 11, "a zero alone pads nothing"
    assert find_shards(tmp_path / "{8..10}.tar") == (str(tmp_path / "{8..10}.tar"),), "a file of that very name"


def test_what_is_not_there_is_counted(folder):
    refuses(lambda: find_shards(f"{folder}/{{00000..00009}}.tar"), "7 of 10 shards are missing", "00003.tar")
    refuses(lambda: find_shards(f"{folder}/{{0,9}}*.tar"), "1 of 2 shards are missing", "9*.tar")
    refuses(lambda: find_shards(f"{folder}/x*.tar"), "there is no shard")
    refuses(lambda: find_shards(folder / "00007.tar"), "there is no shard")
    refuses(lambda: find_shards([folder, folder / "00000.tar"]), "00000.tar is named twice")
    refuses(lambda: find_shards(f"{folder}/{{5..1}}.tar"), "backwards", error=ConfigError)
    (folder / "empty").mkdir()
    refuses(lambda: find_shards(folder / "empty"), "no tar shards", "it is empty")
    (folder / "00003.tar.gz").write_bytes(b"")
    refuses(lambda: find_shards(folder), "compressed shards", "00003.tar.gz")


def test_a_range_that_would_fill_the_memory(folder, monkeypatch):
    monkeypatch.setattr(shard_paths, "MOST_SHARDS", 1000)
    refuses(lambda: find_shards(f"{folder}/{{0..99999999999}}.tar"), "more than 1,000 shards", error=ConfigError)
