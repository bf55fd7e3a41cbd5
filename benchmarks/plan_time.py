"""Seconds of `spendflops plan` for MAE on ViT-H/14, a process a sample."""

from __future__ import annotations

import subprocess
import sys

import harness

COMMAND = ("plan", "--objective", "mae", "--backbone", "vit_h14", "--dataset", "shapes", "--budget", "1e21", "--json")


def main() -> None:
    """Times the whole process."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    call = [sys.executable, "-m", "spendflops", *COMMAND]
    rounds = 1 if quick else 5
    samples = [
        harness.seconds(lambda: subprocess.run(call, check=True, stdout=subprocess.DEVNULL)) for _ in range(rounds)
    ]
    case = harness.Case(name="plan of ViT-H/14 MAE", unit="s", samples=samples, goal="seconds")
    harness.finish("plan_time", [case], quick=quick, before=before)


if __name__ == "__main__":
    main()
