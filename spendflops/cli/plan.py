"""spendflops plan --objective mae --backbone vit_b16 --dataset shapes --budget 3e18 --machine 8xH100@europe-west4

With --machine also hours, kWh and kg of CO2e: at a stated part of the machine's peak (--utilisation), or by a power law
through steps that finished runs have timed on this machine (--speeds, then --machine this). --root Study plans a whole
study: every run that it would make. --target v3:4x8x1 compiles for TPUs that are not here (extra tpu-plan). With
--compile and a machine, or with a target, also whether each step fits into a device's memory, and what would."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.cli import recipe_flags, terms
from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.study.terms import Terms


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    recipe_flags.define(known)
    kwargs = {"flag_values": known}
    flags.DEFINE_bool("compile", False, "Also compile: counter C, memory, and D.", **kwargs)
    flags.DEFINE_string("target", None, "Compile for these TPUs: v3:4x8x1, v5e:4x4; implies --compile.", **kwargs)
    flags.DEFINE_bool("strict", False, "With --compile: fail where C and B differ by over 1 %.", **kwargs)
    flags.DEFINE_bool("json", False, "Print JSON.", **kwargs)
    flags.DEFINE_enum("root", "Recipe", ["Recipe", "Study"], "What the gin file describes.", **kwargs)
    terms.define(known)


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Prints what a run or a study costs."""
    if rest:
        raise errors.ConfigError(f"plan takes flags only, not {rest[0]!r}")
    priced = terms.read(known)
    base = None if known.gin_file else "recipes/pretrain.gin"
    loaded = recipe_flags.load(known, known.root, base)
    from spendflops.study.report import planned

    with _without_collecting():
        body = (_study if known.root == "Study" else _recipe)(known, loaded.object, priced)
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


def _recipe(known: flags.FlagValues, recipe: Any, priced: Terms | None) -> dict[str, Any]:
    from spendflops.engine.build import build
    from spendflops.study.plan import cautions, check_counters, plan

    target = None
    if known.target is not None:
        from spendflops.engine.target import named

        target = named(known.target)
    built = build(recipe)
    notes = cautions(built, known.objective or "run")
    body = {**plan(built, compiled=known.compile, target=target, terms=priced), "notes": notes}
    if target is not None or (known.compile and priced is not None):
        from spendflops.study import fit

        place = fit.of_target(target) if target is not None else fit.of_machine(priced.machine)
        body["fit"] = fit.report(built, place)
    if known.strict:
        check_counters(body["programs"])
    return body


def _study(known: flags.FlagValues, study: Any, priced: Terms | None) -> dict[str, Any]:
    if known.compile or known.strict or known.target is not None:
        raise errors.ConfigError(
            "--compile, --target and --strict are for one recipe", fix="plan the recipe of one row"
        )
    from spendflops.study.plan_study import plan_study

    return plan_study(study, terms=priced)
