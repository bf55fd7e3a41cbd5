"""Seconds until the command line answers, beside an empty Python, a process a sample, in turns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness

SPENDFLOPS = str(Path(sys.executable).with_name("spendflops"))
COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], ""),
    "spendflops --help": ([SPENDFLOPS, "--help"], "under 0.3 s"),
    "spendflops plugins": ([SPENDFLOPS, "plugins"], "under 0.5 s"),
    "import spendflops": ([sys.executable, "-c", "import spendflops"], ""),
}


def main() -> None:
    """Times whole processes; the first round, which reads files into memory, is left out."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(3 if quick else 21):
        for name, (call, _) in COMMANDS.items():
            taken = harness.seconds(lambda call=call: subprocess.run(call, check=True, stdout=subprocess.DEVNULL))
            samples[name].append(taken)
    cases = [
        harness.Case(name=name, unit="s", samples=samples[name][1:], goal=goal) for name, (_, goal) in COMMANDS.items()
    ]
    harness.finish("cli_start", cases, quick=quick, before=before)


if __name__ == "__main__":
    main()
