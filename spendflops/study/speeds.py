"""Steps that finished runs have timed, from their ledgers: what the law between FLOPs and time is fitted to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from spendflops.accounts import machines
from spendflops.accounts.ledger import Ledger
from spendflops.accounts.speed import Speed
from spendflops.contracts import errors
from spendflops.engine.rundir import read_json


def timed(folders: Sequence[str | os.PathLike[str]]) -> tuple[list[Speed], machines.Host]:
    """The training programs of runs and studies, and the machine on which they were timed.

    Args:
        folders: Run directories, or folders of studies.

    Raises:
        errors.DataError: A folder without finished runs; runs of several machines.
    """
    speeds: list[Speed] = []
    hosts: dict[machines.Host, Path] = {}
    for folder in folders:
        runs = list(_runs(Path(folder)))
        if not runs:
            raise errors.DataError(
                f"there is no finished run in {folder}", fix="give a run directory, or the folder of a study"
            )
        for run in runs:
            hosts.setdefault(_host(run), run)
            speeds += _speeds(run)
    if len(hosts) > 1:
        told = "; ".join(f"{path.name}: {h.devices} x {h.kind}, {h.cores} cores" for h, path in hosts.items())
        raise errors.DataError("these runs were timed on different machines", why=told, fix="fit each machine alone")
    return speeds, next(iter(hosts))


def _runs(folder: Path) -> Iterator[Path]:
    for path in (folder, *sorted((folder / "rows").glob("*"))):
        if (path / "result.json").exists():
            yield path


def _host(run: Path) -> machines.Host:
    found = read_json(run / "environment.json") or {}
    devices = found.get("devices") or ["unknown"]
    return machines.Host(kind=devices[0], devices=len(devices), cores=found.get("cores") or 1)


def _speeds(run: Path) -> Iterator[Speed]:
    rows = [r for r in Ledger(run / "ledger.jsonl").entries if r.kind == "productive" and r.role != "evaluate"]
    for program in dict.fromkeys(row.program for row in rows):
        # Not what another run has timed, from whose trunk this one went on.
        mine = [row for row in rows if row.program == program and row.seconds and row.calls and not row.cached]
        calls = sum(row.calls for row in mine)
        if calls and mine[0].flops:
            seconds = sum(row.seconds or 0.0 for row in mine)
            yield Speed(method=program.removesuffix("/train"), flops=mine[0].flops, seconds=seconds / calls)
