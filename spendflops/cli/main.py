"""``spendflops VERB [flags]``: one module a verb, imported when it is called. No jax before that."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from absl import flags

from spendflops.contracts import errors

VERBS = {
    "study": "run methods x budgets x seeds with their baselines; plan, launch, status, retry, report",
    "plan": "print what a run or a study costs, before anything is spent",
    "train": "run one recipe: a method on a model and data, with a FLOP budget",
    "data": "verify, prepare, show or compare data sets",
    "extract": "write the features of your own images from a finished run or from weights",
    "import": "read weights of others (.pth, safetensors) into a folder of our own",
    "export": "write a run or weights in the layout of others",
    "report": "write the report of a study's folder again",
    "recommend": "which method, model, data and length for a budget, from a study, a CSV or a reference",
    "frontier": "all that runs say on a task: front, crossings, laws, sizes, pairs of seeds, ranks, tuning",
    "replay": "write what went into the step at which a run diverged to a file that repeats it",
    "doctor": "look at versions, devices, memory, counters, and how a folder's file system behaves",
    "plugins": "list what is installed; --check imports each",
    "check": "run the conformance kit on a plugin",
    "new": "write the files of a new plugin",
}

HELP = """spendflops: given a fixed FLOP budget, which pre-training method, model and data set should it be spent on?

usage: spendflops VERB [arguments] [--flags]      spendflops VERB --help shows the flags of a verb

{verbs}

exit codes: 0 ok, 1 unexpected, 2 usage or configuration, 3 data, 4 out of memory, 5 diverged,
            75 pre-empted (the same command goes on), 130 interrupted
"""


def run() -> None:
    """The console script."""
    if sys.argv[1:2] in (["study"], ["train"]):
        _start_with_huge_pages()
        signal.signal(signal.SIGTERM, _leave)
    sys.unraisablehook = _beside
    code = main(sys.argv[1:])
    if "spendflops.engine.hosts" in sys.modules:
        sys.modules["spendflops.engine.hosts"].leave(code)
    sys.exit(code)


def _beside(said: sys.UnraisableHookArgs) -> None:
    """Shows an error that cannot be raised where it happened, but for the echoes of one that was.

    Where the disk takes no more, the storage library raises the first error and closes its event loop; each of its
    threads then has an error that it could not tell its own.
    """
    if str(said.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(said)


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends a process that is told to while no run listens: before the first, between two, after the last.

    At once: an exception would be lost in a callback of the garbage collector, or pass through C++ that aborts, and
    there is nothing to save. Files are whole at any moment, as they are after a kill.
    """
    os.write(sys.stderr.fileno(), b"spendflops: stopped while nothing was running\n  fix: the same command goes on\n")
    os._exit(errors.Preempted.exit_code)


def _start_with_huge_pages() -> None:
    """Starts this process once more with huge pages for its heap, where nobody has set glibc's options.

    glibc gives the temporaries of a training step back to the system, and the next step faults them in again, page by
    page; huge pages leave a fifth of the faults. glibc reads the option at the start of a process only.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(arguments: Sequence[str]) -> int:
    """Runs a verb and returns the exit code."""
    try:
        code = _called(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Nobody reads on, as after `| head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _called(arguments: Sequence[str]) -> int:
    verb = arguments[0] if arguments else "--help"
    if verb in ("--help", "-h", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:11}{text}" for name, text in VERBS.items())), end="")
        return 0
    if verb == "--version":
        from spendflops import __version__

        print(__version__)
        return 0
    if verb not in VERBS:
        print(f"spendflops: unknown verb {verb!r}{errors.suggest(verb, list(VERBS))}", file=sys.stderr)
        print(f"  fix: one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(module_of(verb))
    known = flags.FlagValues()
    module.define(known)
    flags.DEFINE_bool("traceback", False, "Show the traceback of an error.", flag_values=known)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=known)
    try:
        rest = known([f"spendflops {verb}", *arguments[1:]])[1:]
    except flags.Error as error:
        print(f"spendflops {verb}: {error}\n  fix: spendflops {verb} --help lists the flags", file=sys.stderr)
        return 2
    if known.help:
        print(f"spendflops {verb}: {VERBS[verb]}\n\n{module.__doc__.strip()}\n\nflags:\n{_flags(known)}")
        return 0
    return _guarded(module, known, rest)


def module_of(verb: str) -> str:
    """The module of a verb; `import` is a word of the language."""
    return f"spendflops.cli.{'import_' if verb == 'import' else verb}"


def _flags(known: flags.FlagValues) -> str:
    lines = []
    for name in sorted(known):
        flag = known[name]
        if name == flag.name:
            default = "" if flag.default in (None, [], False) else f" (default: {flag.default})"
            lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)


def _guarded(module, known: flags.FlagValues, rest: Sequence[str]) -> int:
    try:
        return module.main(known, rest) or 0
    except BrokenPipeError:
        raise
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        _show(error, known, code)
        return code
    except KeyboardInterrupt:
        print("spendflops: interrupted", file=sys.stderr)
        return 130


def _show(error: Exception, known: flags.FlagValues, code: int) -> None:
    text = str(error) if isinstance(error, errors.SpendflopsError) else f"{type(error).__name__}: {error}"
    print(f"spendflops: {text}", file=sys.stderr)
    full = "".join(traceback.format_exception(error))
    if known.traceback:
        print(full, file=sys.stderr)
    hosts = sys.modules.get("spendflops.engine.hosts")
    if hosts and hosts.joined() and not hosts.first():
        return
    workdir = known["workdir"].value if "workdir" in known else None
    if workdir and Path(workdir).is_dir():
        try:
            logs = Path(workdir) / "logs"
            logs.mkdir(exist_ok=True)
            path = logs / f"error-{time.strftime('%Y%m%d-%H%M%S')}.txt"
            path.write_text(full, encoding="utf-8")
            print(f"  full traceback: {path}", file=sys.stderr)
        except OSError:
            pass  # the error itself was shown; its log is a convenience
    elif code == 1 and not known.traceback:
        print("  --traceback shows where", file=sys.stderr)
