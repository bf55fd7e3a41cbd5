"""The flags that name a machine: how FLOPs become hours, kWh and kg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags

from spendflops.contracts import errors

if TYPE_CHECKING:
    from spendflops.study.terms import Terms


def define(known: flags.FlagValues) -> None:
    """Adds the flags."""
    kwargs = {"flag_values": known}
    flags.DEFINE_string("machine", None, "32xTPUv3@europe-west1, 8xH100, this: hours, kWh and kg there.", **kwargs)
    flags.DEFINE_float("utilisation", None, "Part of the machine's peak; 0.4, a guess, if not given.", **kwargs)
    flags.DEFINE_multi_string("speeds", [], "Folder of finished runs: time by a law through their steps.", **kwargs)
    flags.DEFINE_enum("basis", "estimate", ["estimate", "mlco2"], "How hours become kg.", **kwargs)
    flags.DEFINE_float("watts", None, "Power of the whole machine, where it is known better.", **kwargs)


def read(known: flags.FlagValues) -> Terms | None:
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
