"""Takes the benchmarks, each in a process of its own, and writes the page from their samples.

python benchmarks/run.py                      # all
python benchmarks/run.py cli_start pipeline   # some
python benchmarks/run.py --quick              # shows that they run, writes nothing
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import render

HERE = Path(__file__).parent
NAMES = (
    "cli_start", "plan_time", "start", "host_overhead", "bare_step", "checkpoint_pause", "pipeline", "step_speed",
    "time_law", "images", "evaluators", "spend_less", "report",
)  # fmt: skip


def main() -> int:
    """The command line; the exit code is 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(NAMES)}")
    failed = False
    for name in options.names or NAMES:
        print(f"-- {name}", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if options.quick else [])]
        failed |= subprocess.run(command, check=False).returncode != 0
    if not options.quick:
        render.main()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
