"""Workers of a study: processes that are killed at random and started again, and what came of it.

As a script: ``python workerlib.py FOLDER SEEDS SLOT SECONDS`` runs one worker on the study of ``SEEDS`` seeds. Its runs
take about ``SECONDS`` and train nothing; with ``real`` for the seconds they train.
"""

from __future__ import annotations

import collections
import hashlib
import json
import random
import signal
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
from spendflops.study.status import status
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


def failing(seeds):
    """Seeds whose rows break: no transfer starts from their two methods, and the one from nothing breaks as well."""
    return sum(seed % 10 == 7 for seed in range(seeds))


def rows(seeds):
    """How many rows that is."""
    return 2 * seeds + 3 * (2 + seeds) - 2 * failing(seeds)


def fails(recipe):
    """Some rows break."""
    return recipe.seed % 10 == 7


def train(folder):
    """A run, which notes if it had ended before."""
    train = launch.run_recipe

    def run(recipe, workdir, **options):
        look(folder, workdir)
        if fails(recipe):
            raise errors.DivergedError("it diverged")
        return train(recipe, workdir, **options)

    return run


def look(folder, workdir):
    """Notes a run that begins though it has ended."""
    if (workdir / "result.json").exists() or (workdir / failures.FILE).exists():
        note(folder, "doubled", workdir.name)


def pretend(folder, seconds):
    """What stands for a run: it takes its time, and notes who did it."""

    def run(recipe, workdir, **options):
        workdir.mkdir(parents=True, exist_ok=True)
        with locked(workdir):
            look(folder, workdir)
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
        "stages": [{"examples": 16, "epochs": 1.0, "steps": 2, "available": 16, "parameters": 1}],
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
    launch.run_recipe = train(folder) if seconds is None else pretend(folder, seconds)
    # What every worker does before its first row would take longer than the rows.
    launch.build = lambda recipe: None
    launch.preflight.check_data = lambda *recipes: None
    for name in ("later", "notes", "overlaps"):
        setattr(beforehand, name, lambda *_: ())
    mine = claims.Claims(folder, every=0.2, patience=3.0 if seconds is not None else 10.0)
    report = Launch(study=study(seeds), folder=folder, quiet=True, claims=mine, poll=0.2).run()
    told = sorted((row.run_id, row.status, [score.value for score in row.scores]) for row in report.rows)
    note(folder, "reports", json.dumps(told))


def command(folder, seeds, slot, seconds, cache=None):
    """Starts a worker."""
    text = [sys.executable, __file__, str(folder), str(seeds), str(slot), "real" if seconds is None else str(seconds)]
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} if cache else {}
    return subprocess.Popen(text, env=enginelib.environment(**kept), stdout=subprocess.DEVNULL)


def campaign(folder, *, seeds, workers, seconds, kills, between, cache=None, limit=600.0):
    """Runs a study with workers of which one is killed or told to stop now and then, and started again.

    Args:
        folder: Of the study, new.
        seeds: Of :func:`study`.
        workers: How many.
        seconds: What a run takes on average; None trains.
        kills: How many at most.
        between: From how many seconds to how many between two of them.
        cache: Where executables are kept.
        limit: Seconds after which it is given up.

    Returns:
        ``ended``: how those ended that got a signal, ``(its name, exit code)``; ``codes`` of those that came to their
        end; ``seconds`` of all.
    """
    dice, started = random.Random(0), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    pool = [command(folder, seeds, slot, seconds, cache) for slot in range(workers)]
    ended = []
    try:
        while any(process.poll() is None for process in pool):
            assert time.monotonic() < started + limit, "the workers do not come to an end"
            pause(dice.uniform(*between), pool)
            victim, number = dice.randrange(workers), dice.choice((signal.SIGKILL, signal.SIGTERM))
            if len(ended) < kills and pool[victim].poll() is None and busy(folder):
                pool[victim].send_signal(number)
                ended.append((number.name, pool[victim].wait(timeout=limit)))
                pool[victim] = command(folder, seeds, victim, seconds, cache)
        codes = [process.wait() for process in pool]
        return {"ended": ended, "codes": codes, "seconds": round(time.monotonic() - started, 1)}
    finally:
        for process in pool:
            process.kill()


def pause(seconds, pool):
    """Waits, or until all have come to their end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in pool):
        time.sleep(0.05)


def busy(folder):
    """Whether the workers have got to the rows."""
    return (folder / "rows").exists()


# A worker that does not listen yet is ended by SIGTERM, one that is about to leave has done all.
ENDS = {"SIGKILL": (-signal.SIGKILL, 0), "SIGTERM": (75, -signal.SIGTERM, 0)}


def told(folder, seeds, found):
    """What came of :func:`campaign`, counted.

    Returns:
        ``rows`` that there must be, those that ``finished`` and ``failed``, ``lost`` (not ended, or missing in the
        report), ``doubled`` (begun again after they had ended), ``takeovers`` of claims whose worker was gone and
        ``returns`` to rows that a worker had given back, ``kills`` by signal and by exit code, ``equal_reports`` of all
        workers, ``problems``: how workers ended that should not.
    """
    reports = [json.loads(line) for line in lines(folder / "reports")]
    states = {run_id: state for run_id, state, _ in (reports[0] if reports else ())}
    there = {path.parent.name for name in ("result.json", failures.FILE) for path in folder.glob(f"rows/*/{name}")}
    both = there & set(states)
    doubled = lines(folder / "doubled") + [p.parent.name for p in folder.glob("rows/*/result.json") if fell(p.parent)]
    doubled += [name for report in reports for name, count in repeated(report) if count > 1]
    counts, workers = status(folder).counts, len(found["codes"])
    bad = [f"{name}: {code}" for name, code in found["ended"] if code not in ENDS[name]]
    bad += [f"left alone: {code}" for code in found["codes"] if code]
    claimed = [released(path) for path in sorted((folder / "claims").iterdir())]
    kinds = collections.Counter(f"{name}, ended with {code}" for name, code in found["ended"])
    return {
        "rows": rows(seeds),
        "workers": workers,
        "finished": counts["finished"],
        "failed": counts["failed"],
        "lost": rows(seeds) - len(both),
        "doubled": len(doubled),
        "kills": len(found["ended"]),
        "by_signal": dict(sorted(kinds.items())),
        "takeovers": sum(not given_back for one in claimed for given_back in one[:-1]),
        "returns": sum(given_back for one in claimed for given_back in one[:-1]),
        "equal_reports": len(reports) >= workers and all(report == reports[0] for report in reports),
        "problems": bad,
        "seconds": found["seconds"],
    }


def lines(path):
    """Of a log; none where there is none."""
    return path.read_text().splitlines() if path.exists() else []


def fell(folder):
    """Whether a row has failed."""
    return (folder / failures.FILE).exists()


def repeated(report):
    """Run id and how often a report has it."""
    return collections.Counter(run_id for run_id, _, _ in report).items()


def released(folder):
    """Whether each claim on a row was given back, in their order; one whose worker died as it made it was not."""
    numbers = sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    return [bool(text) and json.loads(text)["released"] for text in (path.read_text() for path in numbers)]


def outcomes(folder):
    """Run id -> digest of all that a row must reproduce, of those that have a result."""
    found = {}
    for path in sorted(folder.glob("rows/*/result.json")):
        (label,) = (p.stem for p in (path.parent / "checkpoints").glob("*.progress"))
        found[path.parent.name] = hashlib.sha256(repr(enginelib.outcome(path.parent, label)).encode()).hexdigest()
    return found


if __name__ == "__main__":
    try:
        seconds = None if sys.argv[4] == "real" else float(sys.argv[4])
        work(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], seconds)
    except errors.SpendflopsError as error:
        sys.exit(error.exit_code)
