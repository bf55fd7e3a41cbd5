"""Runs the bash blocks of a Markdown file, word for word.

    python tests/docs/fenced.py README.md --root .                    # all blocks, in the root of a checkout
    python tests/docs/fenced.py CONTRIBUTING.md --empty DIR           # those of one section, in a new, empty folder

Each block is a script of its own (`bash -euo pipefail`), all of them run in the same folder, in order, and the first
that fails ends the run. A block after the line `<!-- not run: REASON -->` is shown with its reason and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

SECTION = "A method in thirty minutes"
"""The section that runs in an empty folder."""

_HEADING = re.compile(r"(#+)\s+(.*?)\s*$")
_SKIPPED = re.compile(r"<!--\s*not run:\s*(.+?)\s*-->\s*$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of bash.

    Attributes:
        line: Of the opening fence, from 1.
        section: Headings above it, outermost first.
        script: The text between the fences.
        skipped: Why it is not run; empty if it is.
    """

    line: int
    section: tuple[str, ...]
    script: str
    skipped: str = ""


def blocks(text: str) -> list[Block]:
    """The bash blocks of a Markdown text.

    Raises:
        ValueError: A fence that is never closed, or a `not run` comment that no bash block follows.
    """
    found, headings, reason = [], [], ""
    fence, opened, script = "", 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if opened:
            if line.strip() == "```":
                if fence == "bash":
                    found.append(Block(line=opened, section=tuple(headings), script="\n".join(script), skipped=reason))
                    reason = ""
                opened = 0
            else:
                script.append(line)
            continue
        heading, skipped = _HEADING.match(line), _SKIPPED.match(line)
        if reason and line.strip() and not line.startswith("```bash"):
            raise ValueError(f"line {number}: a bash block must follow the comment `not run: {reason}`")
        if line.startswith("```"):
            fence, opened, script = line[3:].strip(), number, []
        elif heading:
            headings = [*headings[: len(heading[1]) - 1], heading[2]]
        elif skipped:
            reason = skipped[1]
    if opened:
        raise ValueError(f"line {opened}: the fence is never closed")
    if reason:
        raise ValueError(f"no bash block follows the comment `not run: {reason}`")
    return found


def run(found: list[Block], folder: Path, name: str) -> int:
    """Runs blocks in a folder; gives the number that ran.

    Raises:
        subprocess.CalledProcessError: The first block that fails.
    """
    ran = 0
    for block in found:
        head = f"{name}:{block.line} ({block.section[-1] if block.section else 'no section'})"
        if block.skipped:
            print(f"-- {head}: not run: {block.skipped}", flush=True)
            continue
        print(f"-- {head}\n{block.script}", flush=True)
        started = time.perf_counter()
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.script], cwd=folder, check=True, stdin=subprocess.DEVNULL
        )
        print(f"-- {head}: {time.perf_counter() - started:.1f} s", flush=True)
        ran += 1
    return ran


def main(arguments: list[str]) -> int:
    """The command line; the exit code is that of the block that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--root", type=Path, help="run all blocks here")
    where.add_argument("--empty", type=Path, help=f"run the section {SECTION!r} in this new folder")
    options = parser.parse_args(arguments)
    found = blocks(options.file.read_text(encoding="utf-8"))
    if options.empty is not None:
        found = [block for block in found if SECTION in block.section]
        if options.empty.exists() and any(options.empty.iterdir()):
            parser.error(f"{options.empty} is not empty")
        options.empty.mkdir(parents=True, exist_ok=True)
    if not found:
        parser.error(f"{options.file} has no bash block to run")
    try:
        ran = run(found, options.root or options.empty, options.file.name)
    except subprocess.CalledProcessError as error:
        print(f"failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    print(f"{ran} blocks ran, {len(found) - ran} not run")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
