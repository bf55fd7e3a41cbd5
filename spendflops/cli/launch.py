"""What `spendflops study launch` does: says what a study costs, asks where that is much, starts workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from spendflops.cli import terms
from spendflops.contracts import conformity, errors, registry
from spendflops.contracts.launcher import Job, Launcher

SLOW = 1e11
"""FLOP/s that are taken to be reached where nobody knows the machine's: too few rather than too many."""


def define(known: flags.FlagValues) -> None:
    """Adds the flags."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("launcher", "local", "launch: local, slurm, or another one that is installed.", **kwargs)
    flags.DEFINE_multi_string("option", [], "launch: an option of the launcher, NAME=VALUE; may be repeated.", **kwargs)
    flags.DEFINE_integer("workers", 0, "launch: how many; 0 leaves it to the launcher.", lower_bound=0, **kwargs)
    flags.DEFINE_float("ask_above", 24.0, "launch: hours of the machine above which it asks first.", **kwargs)
    flags.DEFINE_bool("yes", False, "launch: answers the question.", **kwargs)


def start(known: flags.FlagValues, study: Any, keep: Callable[[], Path]) -> int:
    """Launches the workers of a study.

    Args:
        known: The flags.
        study: What they run.
        keep: Makes the folder with the configuration, once it is decided that there are workers.
    """
    launcher = make(known.launcher, known.option)
    if launcher.here and not known.machine and not known.speeds:
        known.machine = "this"
    from spendflops.study.plan_study import plan_study

    body = plan_study(study, terms=terms.read(known))
    print(told(body))
    if not known.yes:
        _ask(body, known.ask_above)
    folder = keep().resolve()
    command = (sys.executable, "-m", "spendflops", "study", "run", *worker_flags(known, folder))
    job = Job(command=command, directory=Path.cwd(), folder=folder, workers=known.workers)
    code = launcher.launch(job)
    if launcher.here:
        print(f"report: {folder / 'report.html'}")
    return code


def make(name: str, given: Sequence[str]) -> Launcher:
    """A launcher by name, with options as text.

    Raises:
        errors.ConfigError: An option that it does not have, or a value of another type.
    """
    cls = registry.load("launchers", name)
    known = conformity.options("launchers", cls)
    options: dict[str, Any] = {}
    for pair in given:
        option, equals, value = pair.partition("=")
        if not equals or option not in known:
            raise errors.ConfigError(
                f"--option {pair}: {name} has no such option{errors.suggest(option, list(known))}",
                fix=f"NAME=VALUE with one of {', '.join(known)}",
            )
        options[option] = _typed(option, value, type(known[option].default))
    return cls(**options)


def _typed(option: str, value: str, kind: type) -> Any:
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        raise errors.ConfigError(f"--option {option}={value}: not of type {kind.__name__}") from error


def worker_flags(known: flags.FlagValues, folder: Path) -> list[str]:
    """The flags of one worker: the study as it is kept in the folder, and what is not in it."""
    given = [f"--{name}={known[name].value}" for name in ("region", "feature_cache") if known[name].present]
    return [f"--gin_file={folder / 'config.gin'}", f"--workdir={folder}", "--quiet", *given]


def told(body: Mapping[str, Any]) -> str:
    """What a study costs, in a few lines."""
    total = sum(body["totals"].values())
    roles = ", ".join(f"{role} {flops:.4g}" for role, flops in body["totals"].items() if flops)
    lines = [f"{body['runs']} runs, {total:.4g} FLOPs ({roles})"]
    assumed = f"{_assumed(body):.3g} hours at {SLOW:g} FLOP/s, which is assumed, as of a slow processor"
    if "price" not in body:
        lines.append(f"hours and kg of CO2e: unknown ({assumed}); --machine 8xH100@REGION says where the workers run")
        return "\n".join(lines)
    price = body["price"]
    if price["hours"] is None:
        lines.append(f"on {body['machine']}: hours unknown, {price['reason']} ({assumed}); so are kg of CO2e")
        return "\n".join(lines)
    found = price["footprint"]
    energy = "kWh and kg of CO2e unknown"
    if found["kwh"] is not None:
        energy = f"{found['kwh']:.3g} kWh, {found['kg']:.3g} kg of CO2e"
    lines.append(f"on {body['machine']}: {price['hours']:.3g} hours, {energy} ({body['hours_from']})")
    return "\n".join(lines)


def _assumed(body: Mapping[str, Any]) -> float:
    """Hours on a slow processor."""
    return sum(body["totals"].values()) / SLOW / 3600


def _ask(body: Mapping[str, Any], above: float) -> None:
    """Asks whether to go on, where a study takes more than some hours.

    Raises:
        errors.ConfigError: The answer is no, or nobody is there to give one.
    """
    hours, reason = (body["price"]["hours"] if "price" in body else None), f"that is more than {above:g} hours"
    if hours is None:
        hours = _assumed(body)
        reason = f"at {SLOW:g} FLOP/s, as of a slow processor, {reason}"
    if hours <= above:
        return
    if not sys.stdin.isatty():
        raise errors.ConfigError(
            f"not launched: {reason}",
            why="it would be asked whether to go on, and the input is no terminal",
            fix="--yes answers; --ask_above HOURS moves the threshold, --machine says where the workers run",
        )
    if input(f"{reason}: launch? [y/N] ").strip().lower() not in ("y", "yes"):
        raise errors.ConfigError("not launched")
