"""spendflops plan --objective mae --backbone vit_b16 --dataset shapes --budget 3e18 --machine 8xH100@europe-west4

With --machine also hours, kWh and kg of CO2e: at a stated part of the machine's peak (--utilisation), or by a power law
through steps that finished runs have timed on this machine (--speeds, then --machine this). --root Study plans a whole
study: every run that it would make."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.cli import recipe_flags
from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.study.terms import Terms


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    kwargs = {"flag_values": known}
    flags.DEFINE_bool("compile", False, "Also compile: counter C, memory, and D.", **kwargs)
    flags.DEFINE_bool("strict", False, "With --compile: fail where C and B differ by over 1 %.", **kwargs)
    flags.DEFINE_bool("json", False, "Print JSON.", **kwargs)
    flags.DEFINE_enum("root", "Recipe", ["Recipe", "Study"], "What the gin file describes.", **kwargs)
    flags.DEFINE_string("machine", None, "32xTPUv3@europe-west1, 8xH100, this: hours, kWh and kg there.", **kwargs)
    flags.DEFINE_float("utilisation", None, "Part of the machine's peak; 0.4, a guess, if not given.", **kwargs)
    flags.DEFINE_multi_string("speeds", [], "Folder of finished runs: time by a law through their steps.", **kwargs)
    flags.DEFINE_enum("basis", "estimate", ["estimate", "mlco2"], "How hours become kg.", **kwargs)
    flags.DEFINE_float("watts", None, "Power of the whole machine, where it is known better.", **kwargs)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints what a run or a study costs."""
    if rest:
        raise errors.ConfigError(f"plan takes flags only, not {rest[0]!r}")
    terms = _terms(known)
    base = None if known.gin_file else "recipes/pretrain.gin"
    loaded = recipe_flags.load(known, known.root, base)
    from spendflops.study.report import planned

    with _without_collecting():
        body = (_study if known.root == "Study" else _recipe)(known, loaded.object, terms)
    if known.json:
        print(json.dumps(body, indent=1))
        return 0
    for line in loaded.chosen:
        print(line)
    print(planned.study(body) if known.root == "Study" else planned.recipe(body, known.objective or "run"))
    return 0


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Tracing makes millions of objects that stay: looking for garbage among them takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _recipe(known: flags.FlagValues, recipe: Any, terms: Terms | None) -> dict[str, Any]:
    from spendflops.engine.build import build
    from spendflops.study.plan import cautions, check_counters, plan

    built = build(recipe)
    notes = cautions(built, known.objective or "run")
    body = {**plan(built, compiled=known.compile, terms=terms), "notes": notes}
    if known.strict:
        check_counters(body["programs"])
    return body


def _study(known: flags.FlagValues, study: Any, terms: Terms | None) -> dict[str, Any]:
    if known.compile or known.strict:
        raise errors.ConfigError("--compile and --strict are for one recipe", fix="plan the recipe of one row")
    from spendflops.study.plan_study import plan_study

    return plan_study(study, terms=terms)


def _terms(known: flags.FlagValues) -> Terms | None:
    """How FLOPs become hours and kg; None where no machine is named."""
    if not known.machine and not known.speeds:
        for name in ("utilisation", "watts"):
            if known[name].value is not None:
                raise errors.ConfigError(f"--{name} without --machine", fix="--machine 8xH100, or --machine this")
        return None
    from spendflops.accounts import machines, utilisation
    from spendflops.accounts.figures import given
    from spendflops.study.terms import Terms

    options: dict[str, Any] = {"basis": known.basis, "watts": known.watts}
    if known.utilisation is not None:
        utilisation.check(known.utilisation)
        options["utilisation"] = given(known.utilisation)
    wanted = known.machine or "this"
    if not known.speeds:
        host = None
        if wanted.strip().lower().startswith("this"):
            from spendflops.engine.host import this_host

            host = this_host()
        return Terms(machine=machines.parse(wanted, here=host), **options)
    if not wanted.strip().lower().startswith("this") or known.utilisation is not None:
        raise errors.ConfigError(
            "--speeds is about the machine on which these runs ran",
            why="their time says nothing of another one, and needs no utilisation",
            fix="--machine this, or this@REGION, and no --utilisation",
        )
    from spendflops.accounts.speed import fit
    from spendflops.study.speeds import timed

    speeds, host = timed(known.speeds)
    found = fit(speeds)
    if found.law is None:
        raise errors.ConfigError(found.reason, fix="more runs, or --machine and --utilisation")
    return Terms(machine=machines.parse(wanted, here=host), law=found.law, **options)
