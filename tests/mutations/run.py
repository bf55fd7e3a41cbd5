"""Guards have mutations: each row of the table removes one guard in a scratch copy, and its test must then fail.

python tests/mutations/run.py [WORD ...]     # only the rows whose name has one of the words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from table import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(w in m.name for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "tree"
        copy_tree(scratch)
        bad = [m.name for m in chosen if not caught(m, scratch)]
    print(f"{len(chosen) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad else 0


def copy_tree(target: Path) -> None:
    """What git would commit, as it is in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def caught(mutation: Mutation, scratch: Path) -> bool:
    """Whether the test passes on the tree as it is and fails without the guard."""
    path = scratch / mutation.file
    original = path.read_text()
    if original.count(mutation.old) != 1:
        print(f"STALE   {mutation.name}: {mutation.file} has the guard's text {original.count(mutation.old)} times")
        return False
    if not passes(mutation, scratch):
        print(f"BROKEN  {mutation.name}: {mutation.test} fails without any mutation")
        return False
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        survived = passes(mutation, scratch)
    finally:
        path.write_text(original)
    print(f"{'SURVIVED' if survived else 'caught'}  {mutation.name}")
    return not survived


def passes(mutation: Mutation, scratch: Path) -> bool:
    environment = {**os.environ, "PYTHONPATH": f"{scratch}:{scratch / 'plugins'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
    return subprocess.run(command, cwd=scratch, env=environment, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
