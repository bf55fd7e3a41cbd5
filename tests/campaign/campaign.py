"""Kills runs in the middle of whatever they do, and compares what came of them with runs that nobody has disturbed.

``make campaign``: first single runs. Every attempt is a process of its own, forked from one that has imported
everything and computed nothing. A chain is one run directory, killed some times and then left to finish; parameters,
optimiser, EMA copies, metrics, scores and the productive rows of the ledger must be those of the run that was never
killed, in every bit. An attempt that is told to stop must leave with 75 and a checkpoint of the step it had reached.

Then a study of 304 tiny runs by four workers that are killed at random: no row lost, none twice, and each in every bit
that of a study that one worker runs undisturbed (``tests/study/workerlib.py``).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

import faults
import jax
import workerlib
from enginelib import knn, outcome, recipe, stage
from spendflops_plugins.byol import BYOL

from spendflops.contracts.errors import ConfigError, SpendflopsError
from spendflops.engine import rundir
from spendflops.engine.checkpoint import DIGEST
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom

RESULT = Path(__file__).with_name("result.json")
STEPS, EVERY = 24, 5
CODE = ("spendflops", "plugins", "tests", "setup.cfg", "constraints")


def one_stage():
    """A method with an EMA teacher and batch statistics."""
    return recipe(stage(objective=small_byol(), name="byol"), **length())


def two_stages():
    """MAE, then supervised from its weights."""
    first = stage("mae", share=0.5)
    second = stage("supervised", share=0.5, init=(InitFrom(stage="mae"),))
    return recipe(first, second, **length())


def small_byol():
    """With narrow heads."""
    return functools.partial(BYOL, hidden_dim=16, output_dim=8)


def length():
    """Of all runs."""
    return {"budget": f"{STEPS} steps", "checkpoint_every": EVERY, "log_every": 3, "evaluations": (knn(),)}


RECIPES = {"one stage": (one_stage, ("byol",)), "two stages": (two_stages, ("mae", "supervised"))}


def attempt(make, workdir, cache, fault=None, dice=None):
    """Runs a recipe in a process of its own, with a fault: (its exit code, negative for a signal; where it was).

    Where is ``"inside"``, ``"past"`` the place that it is named after, or ``""`` if it did not come.
    """
    witness = workdir.with_suffix(".witness")
    witness.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            if fault is not None:
                faults.WITNESS = witness
                fault(dice)
            run_recipe(make(), workdir, quiet=True)
            code = 0
        except SpendflopsError as error:
            code = error.exit_code
            if code != faults.STOPPED:
                print(error, file=sys.stderr)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, witness.read_text() if witness.exists() else ""


def apart(function):
    """What a function gives, as JSON, in a process of its own, since this one computes nothing; None if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as file:
                json.dump(function(), file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = file.read()
    os.waitpid(child, 0)
    return json.loads(found) if found else None


def digest(workdir, labels):
    """Of all that a run must reproduce."""
    return hashlib.sha256(repr([outcome(workdir, label) for label in labels]).encode()).hexdigest()


def wasted(workdir):
    """How many steps were done again, in all stages."""
    path = workdir / "ledger.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else ()
    found = [json.loads(line) for line in whole]
    return sum(row["calls"] for row in found if row["kind"] == "wasted" and row["note"].startswith("attempt"))


def saved(workdir, labels):
    """What is wrong with a run that was told to stop: its last stage has a whole checkpoint of the step it reached."""
    told = json.loads((workdir / "status.json").read_text())
    if (told["state"], told["exit_code"]) != ("stopped", faults.STOPPED):
        return f"its status is {told}"
    folder = workdir / "checkpoints"
    label = [label for label in labels if (folder / f"{label}.progress").exists()][-1]
    reached = int((folder / f"{label}.progress").read_text().split()[1])
    steps = [int(path.parent.name) for path in folder.glob(f"{label}/*/{DIGEST}")]
    return "" if reached == max(steps, default=0) > 0 else f"{label} reached {reached}, its checkpoints are {steps}"


def chain(name, workdir, cache, expected, *, kills, dice, bag):
    """One run that is killed some times: what each attempt was, and whether it ended as it should."""
    make, labels = RECIPES[name]
    attempts, problems, code, before = [], [], None, 0
    while code != 0:
        last = sum(bool(a["where"]) for a in attempts) >= kills
        fault = None if last else drawn(bag, dice)
        stopped, before = code == faults.STOPPED, wasted(workdir)
        code, where = attempt(make, workdir, cache, fault, random.Random(dice.random()))
        called = fault.__name__ if fault else "none"
        if code not in (faults.FAULTS[fault] if where else (0,)):
            problems.append(f"{called}: ended with {code}")
        if code == faults.STOPPED and (wrong := saved(workdir, labels)):
            problems.append(f"{called}: {wrong}")
        if stopped and wasted(workdir) != before:
            problems.append(f"{called}: lost steps of an attempt that had saved them")
        if fault and not where:
            bag.append(fault)  # the run came to its end before: the next one takes its turn
        if fault:
            attempts.append({"fault": called, "code": code, "where": where})
        if problems:
            break
    equal = code == 0 and apart(lambda: digest(workdir, labels)) == expected
    told = {"wasted_steps": wasted(workdir), "code": code, "problems": problems, "equal": equal}
    return {"recipe": name, "attempts": attempts, **told}


def drawn(bag, dice):
    """The next fault: all in random order, again and again."""
    if not bag:
        bag += dice.sample(list(faults.FAULTS), len(faults.FAULTS))
    return bag.pop()


def kill_runs(folder, *, kills, a_chain=4, seed=0, say=print):
    """Kills runs until so many faults have come: a summary and all chains."""
    dice, cache, chains, hits = random.Random(seed), folder / "cache", [], 0
    expected, started = {}, time.monotonic()
    for name, (make, labels) in RECIPES.items():
        assert attempt(make, folder / name, cache)[0] == 0
        expected[name] = apart(lambda labels=labels, name=name: digest(folder / name, labels))
        assert expected[name]
    # Each recipe goes through all of them.
    bags = {name: [] for name in RECIPES}
    while hits < kills:
        name = list(RECIPES)[len(chains) % len(RECIPES)]
        options = {"kills": min(a_chain, kills - hits), "dice": dice, "bag": bags[name]}
        done = chain(name, folder / f"chain{len(chains)}", cache, expected[name], **options)
        chains.append(done)
        hits += sum(bool(a["where"]) for a in done["attempts"])
        told = ", ".join(f"{a['fault']} {a['code']}" for a in done["attempts"])
        ended = "; ".join(done["problems"]) or ("equal" if done["equal"] else "DIFFERENT")
        say(f"{hits:4}/{kills} {name}: {told}: {ended}", flush=True)
    came = [(c["recipe"], a["fault"], a["where"]) for c in chains for a in c["attempts"] if a["where"]]
    hit, inside = collections.Counter(c[:2] for c in came), collections.Counter(c[:2] for c in came if c[2] == "inside")
    return {
        "kills": hits,
        "different": sum(not c["equal"] for c in chains),
        "problems": sum(len(c["problems"]) for c in chains),
        "wasted_steps": sum(c["wasted_steps"] for c in chains),
        "seconds": round(time.monotonic() - started, 1),
        "seed": seed,
        "steps": STEPS,
        "checkpoint_every": EVERY,
        "by_fault": {f"{r}: {f}": {"came": hit[r, f], "inside": inside[r, f]} for r, f in sorted(hit)},
        "chains": chains,
    }


def study_under_kills(folder, *, seeds, kills, workers=4, between=(3.0, 9.0)):
    """A study of real runs whose workers are killed, compared with one that a single worker runs undisturbed."""
    options = {"seeds": seeds, "seconds": None, "cache": folder / "cache", "limit": 3600.0}
    quiet = workerlib.campaign(folder / "quiet", workers=1, kills=0, between=between, **options)
    killed = workerlib.campaign(folder / "killed", workers=workers, kills=kills, between=between, **options)
    expected, found = (apart(lambda name=name: workerlib.outcomes(folder / name)) or {} for name in ("quiet", "killed"))
    undisturbed = workerlib.told(folder / "quiet", seeds, quiet)
    equal = sum(found.get(name) == value for name, value in expected.items())
    return {
        **workerlib.told(folder / "killed", seeds, killed),
        "different": max(undisturbed["finished"], len({*expected, *found})) - equal,
        "undisturbed": {name: undisturbed[name] for name in ("rows", "finished", "failed", "lost", "seconds")},
    }


def machine():
    """Of which code, when and where: bits depend on the versions, times on the machine."""
    if not Path(rundir.__file__).is_relative_to(RESULT.parents[2]):
        raise ConfigError(f"what is imported is {rundir.__file__}", fix="install this checkout, or set PYTHONPATH")
    return {
        "commit": git("rev-parse", "HEAD"),
        # What this campaign is about to write is no change of what it tries.
        "changed": bool(git("status", "--porcelain", "--", *CODE, f":!{RESULT}")),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in rundir.PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
    }


def git(*words):
    """What git says of the checkout; None where there is none."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(RESULT.parents[2]), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None


def write(path, result):
    """As JSON, a chain a line."""
    text = json.dumps({**result, "runs": {**result["runs"], "chains": []}}, indent=1)
    chains = ",\n".join(f"   {json.dumps(chain)}" for chain in result["runs"]["chains"])
    path.write_text(text.replace('"chains": []', f'"chains": [\n{chains}\n  ]') + "\n", encoding="utf-8")


def failed(result):
    """What went wrong, in lines; none if nothing did."""
    runs, study = result["runs"], result["study"]
    bad = {
        "runs that ended otherwise than undisturbed": runs["different"],
        "attempts that left as they should not": runs["problems"],
        "rows lost": study["lost"],
        "rows doubled": study["doubled"],
        "rows that ended otherwise than undisturbed": study["different"],
        "workers that came to another report, or to none": not study["equal_reports"],
        "workers that ended as they should not": len(study["problems"]),
    }
    return [f"{what}: {int(count)}" for what, count in bad.items() if count]


def main():
    """Runs the campaign and keeps what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=130, help="of single runs: by default five a fault and recipe")
    parser.add_argument(
        "--seeds", type=int, default=62, help="of the study: 5 rows each and 6 more, but those that fail"
    )
    parser.add_argument("--worker_kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the dice")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="of the runs, which are kept; by default one that goes")
    given = parser.parse_args()
    result = machine()
    with contextlib.nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        result["runs"] = kill_runs(Path(folder), kills=given.kills, seed=given.seed)
        result["study"] = study_under_kills(Path(folder), seeds=given.seeds, kills=given.worker_kills)
    write(given.out, result)
    runs, study = result["runs"], result["study"]
    print(f"{runs['kills']} kills in {len(runs['chains'])} runs; {study['kills']} of {study['workers']} workers on")
    print(f"{study['rows']} rows: {'; '.join(failed(result)) or 'all as undisturbed'}: {given.out}")
    return 1 if failed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
