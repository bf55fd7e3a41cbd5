"""Runs that are killed again and again, compared in every bit with runs that nobody has disturbed: ``make campaign``.

Every attempt is a process of its own, forked from one that has imported everything and computed nothing. A chain is one
run directory, killed some times and then left to finish; parameters, optimiser, EMA copies, metrics, scores and the
productive rows of the ledger must be those of the run that was never killed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import faults
import jax
from enginelib import knn, outcome, recipe, rows, stage
from spendflops_plugins.byol import BYOL

from spendflops.contracts.errors import SpendflopsError
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import InitFrom

RESULT = Path(__file__).with_name("result.json")
STEPS, EVERY = 24, 5


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
    """Runs a recipe in a process of its own, with a fault: its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            if fault is not None:
                fault(dice)
            run_recipe(make(), workdir, quiet=True)
            code = 0
        except SpendflopsError as error:
            code = error.exit_code
            if code != 75:
                print(error, file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def compared(make, labels, workdir):
    """What a run must reproduce; read in a process of its own, since this one computes nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = repr([outcome(workdir, label) for label in labels])
            os.write(writer, hashlib.sha256(found.encode()).hexdigest().encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


def chain(name, workdir, cache, expected, *, kills, dice, kinds):
    """One run that is killed some times: what each attempt was, and whether it ended as it should."""
    make, labels = RECIPES[name]
    attempts = []
    for kind in kinds[:kills]:
        fault = getattr(faults, kind)
        code = attempt(make, workdir, cache, fault, random.Random(dice.random()))
        attempts.append({"fault": kind, "code": code})
        if code == 0:
            break
        assert code in (-signal.SIGKILL, 75), f"{name}, {kind}: ended with {code}"
    code = attempt(make, workdir, cache)
    wasted = [row["last"] - row["first"] for row in rows(workdir / "ledger.jsonl") if row["kind"] == "wasted"]
    equal = code == 0 and compared(make, labels, workdir) == expected
    return {"recipe": name, "attempts": attempts, "wasted_steps": sum(wasted), "code": code, "equal": equal}


def campaign(folder, *, kills, a_chain=4, seed=0, say=print):
    """Kills runs until so many kills have hit: a summary and all chains."""
    dice, cache, chains, hits = random.Random(seed), folder / "cache", [], 0
    expected = {}
    for name, (make, labels) in RECIPES.items():
        assert attempt(make, folder / name, cache) == 0
        expected[name] = compared(make, labels, folder / name)
        assert expected[name]
    # Each recipe goes through all of them.
    kinds = {name: collections.deque(fault.__name__ for fault in faults.FAULTS) for name in RECIPES}
    started = time.time()
    while hits < kills:
        name = list(RECIPES)[len(chains) % len(RECIPES)]
        wanted = min(a_chain, kills - hits)
        options = {"kills": wanted, "dice": dice, "kinds": list(kinds[name])}
        done = chain(name, folder / f"chain{len(chains)}", cache, expected[name], **options)
        chains.append(done)
        kinds[name].rotate(-len(done["attempts"]))
        hits += sum(attempt["code"] != 0 for attempt in done["attempts"])
        told = ", ".join(f"{a['fault']} {a['code']}" for a in done["attempts"])
        say(f"{hits:4}/{kills} {name}: {told}: {'equal' if done['equal'] else 'DIFFERENT'}")
    counted = collections.Counter(f"{c['recipe']}: {a['fault']}" for c in chains for a in c["attempts"] if a["code"])
    return {
        "kills": hits,
        "by_fault": dict(sorted(counted.items())),
        "chains": chains,
        "different": sum(not c["equal"] for c in chains),
        "seconds": round(time.time() - started, 1),
        "steps": STEPS,
        "checkpoint_every": EVERY,
        "packages": {p: importlib.metadata.version(p) for p in ("spendflops", "jax", "jaxlib", "orbax-checkpoint")},
    }


def main():
    """Runs the campaign and keeps what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="of the runs, which are kept; by default one that goes")
    given = parser.parse_args()
    with contextlib.nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        result = campaign(Path(folder), kills=given.kills, seed=given.seed)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['kills']} kills in {len(result['chains'])} runs, {result['different']} different: {given.out}")
    return 1 if result["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
