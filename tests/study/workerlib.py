"""Workers of a study whose runs train nothing: processes that are killed at random and started again.

As a script: ``python workerlib.py FOLDER SEEDS SLOT SECONDS`` runs one worker on the study of ``SEEDS`` seeds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import enginelib
from enginelib import knn, stage

from spendflops.contracts import errors
from spendflops.engine.rundir import locked, write_atomically
from spendflops.study import beforehand, claims, failures, launch
from spendflops.study.grid import Study
from spendflops.study.launch import Launch
from spendflops.study.transfers import Transfer


def study(seeds):
    """Two methods, and a transfer from every row whose settings are chosen first: (3 x 3 + 2) a seed or method."""
    tuned = stage("supervised", role="transfer", length="1 epoch")
    transfer = Transfer(stage=tuned, candidates={"low": tuned, "high": tuned}, evaluations=(knn(),))
    return Study(
        title="Many",
        question="Which?",
        methods={method: (stage(method),) for method in ("mae", "simclr")},
        budgets=("2 steps",),
        seeds=tuple(range(seeds)),
        evaluations=(knn(),),
        primary="knn",
        transfers={"tuned": transfer},
    )


def rows(seeds):
    """How many rows that is."""
    return 2 * seeds + 3 * (2 + seeds)


def fails(recipe):
    """Some rows break."""
    return recipe.seed % 10 == 7


def pretend(folder, seconds):
    """What stands for a run: it takes its time, and notes who did it."""

    def run(recipe, workdir, **options):
        workdir.mkdir(parents=True, exist_ok=True)
        with locked(workdir):
            if (workdir / "result.json").exists() or (workdir / failures.FILE).exists():
                note(folder, "doubled", workdir.name)
            time.sleep(random.uniform(0, 2 * seconds))
            if fails(recipe):
                raise errors.DivergedError("it diverged")
            result = outcome(recipe, workdir)
            write_atomically(workdir / "result.json", json.dumps(result))
            return result

    return run


def note(folder, name, text):
    """A line of a log that all workers write."""
    with open(folder / name, "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def outcome(recipe, workdir):
    """A result whose score follows from the run's name."""
    role = recipe.stages[0].role
    flops = {"prior": 10 if role == "transfer" else 0, "pretrain": 0, "transfer": 0, "evaluate": 1, "wasted": 0}
    flops |= {role: 10, "cached": 0}
    seconds = {"prior": 0.0, "pretrain": 0.0, "transfer": 0.0, "evaluate": 0.0}
    score = {
        "evaluation": recipe.evaluations[0].label,
        "protocol": "knn-v1",
        "primary": "accuracy",
        "values": {"accuracy": len(workdir.name) / 100},
        "data": {"query": "kit:test"},
        "unit": "%",
        "spread": "",
        "higher_is_better": True,
    }
    return {
        "stages": [{"examples": 16, "epochs": 1.0, "steps": 2, "available": 16}],
        "scores": [score],
        "flops": flops,
        "seconds": seconds,
        "phases": {"pretrain": {}, "transfer": {}},
        "hardware_flops": {"pretrain": None, "transfer": None},
        "devices": ["cpu"],
    }


def work(folder, seeds, slot, seconds):
    """One worker, on a machine of its own: nobody else can know that its process is gone."""
    claims.socket.gethostname = lambda: f"machine{slot}"
    launch.run_recipe = pretend(folder, seconds)
    launch.build = lambda recipe: None
    launch.preflight.check_data = lambda *recipes: None
    for name in ("later", "notes", "overlaps"):
        setattr(beforehand, name, lambda *_: ())
    mine = claims.Claims(folder, every=0.2, patience=3.0)
    report = Launch(study=study(seeds), folder=folder, quiet=True, claims=mine, poll=0.2).run()
    told = sorted((row.run_id, row.status, [score.value for score in row.scores]) for row in report.rows)
    note(folder, "reports", json.dumps(told))


def command(folder, seeds, slot, seconds):
    """Starts a worker."""
    text = [sys.executable, __file__, str(folder), str(seeds), str(slot), str(seconds)]
    return subprocess.Popen(text, env=enginelib.environment(), stdout=subprocess.DEVNULL)


def campaign(folder, *, seeds, workers, seconds, kills, between):
    """Runs a study with workers of which one is killed now and then and started again; gives how many were."""
    dice, end = random.Random(0), time.monotonic() + 600
    pool = [command(folder, seeds, slot, seconds) for slot in range(workers)]
    killed = 0
    try:
        while any(process.poll() is None for process in pool):
            assert time.monotonic() < end, "the workers do not come to an end"
            time.sleep(dice.uniform(*between))
            victim = dice.randrange(workers)
            if killed < kills and pool[victim].poll() is None and busy(folder):
                pool[victim].kill()
                pool[victim].wait()
                pool[victim] = command(folder, seeds, victim, seconds)
                killed += 1
        return killed, [process.wait() for process in pool]
    finally:
        for process in pool:
            process.kill()


def busy(folder):
    """Whether the workers have got to the rows."""
    return (folder / "rows").exists()


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
