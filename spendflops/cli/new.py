"""spendflops new objective NAME [--package FOLDER]

In an empty folder: a whole distribution with a method that works, its preset and its test. In a folder with a
setup.cfg: the same files, and the lines in setup.cfg. Also `new dataset NAME` and `new evaluator NAME`. Nothing is
overwritten.
"""

from __future__ import annotations

import configparser
import dataclasses
import keyword
import re
import string
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from spendflops.contracts import errors, registry

KINDS = {"objective": ("objectives", "methods"), "dataset": ("datasets", "data"), "evaluator": ("evaluators", "")}
"""Kind -> entry-point group, and the folder of its presets if it comes with one."""
TEMPLATES = Path(__file__).with_name("templates")


def define(known: flags.FlagValues) -> None:
    """The flags of this verb."""
    flags.DEFINE_string("package", ".", "Folder of the distribution.", flag_values=known)


@dataclasses.dataclass(frozen=True)
class Home:
    """Where the files of a distribution go.

    Attributes:
        package: Import name.
        source, gin, tests: Folders.
        ships_gin: Whether the folder of presets is declared already.
    """

    package: str
    source: Path
    gin: Path
    tests: Path
    ships_gin: bool


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Writes the files and says what to do next."""
    if len(rest) != 2 or rest[0] not in KINDS:
        near = errors.suggest(rest[0], list(KINDS)) if rest else ""
        kinds = ", ".join(KINDS)
        raise errors.ConfigError(f"new takes a kind and a name{near}", fix=f"spendflops new KIND NAME, KIND of {kinds}")
    kind, name = rest
    folder = Path(known.package)
    group = KINDS[kind][0]
    _check_name(group, name)
    config = folder / "setup.cfg"
    fresh = not config.exists()
    home = _fresh(folder, name) if fresh else _existing(folder, config)
    written = write(kind, name, folder, home, config, fresh=fresh)
    for path in written:
        print(f"wrote {path}")
    test = next(path for path in written if path.name == f"test_{name}.py")
    print(f"\nnext:\n  pip install -e {folder}\n  spendflops check {group}.{name}\n  pytest {test}")
    return 0


def write(kind: str, name: str, folder: Path, home: Home, config: Path, *, fresh: bool) -> list[Path]:
    """Writes everything or nothing and returns the paths.

    Raises:
        errors.ConfigError: A file is there already.
    """
    group, preset = KINDS[kind]
    words = {
        "kind": kind,
        "group": group,
        "name": name,
        "package": home.package,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "distribution": home.package.replace("_", "-"),
    }
    files = {home.source / f"{name}.py": f"{kind}.py", home.tests / f"test_{name}.py": f"{kind}_test.py"}
    if preset:
        files[home.gin / preset / f"{name}.gin"] = f"{kind}.gin"
    if fresh:
        files |= {config: "setup.cfg", folder / "pyproject.toml": "pyproject.toml"}
        files[home.source / "__init__.py"] = "package.py"
        # The declared folder of presets must be there, even for a kind without one.
        files |= {} if preset else {home.gin / "README": "presets"}
    read = {path: (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8") for path, name in files.items()}
    made = {path: string.Template(text).substitute(words) for path, text in read.items()}
    if there := [path for path in made if path.exists()]:
        raise errors.ConfigError(
            f"{there[0]} is there already", why="nothing is overwritten", fix="choose another name, or remove it"
        )
    if not fresh:
        text = _insert(
            config.read_text(encoding="utf-8"),
            "options.entry_points",
            f"spendflops.{group}",
            f"{name} = {home.package}.{name}:{words['cls']}",
        )
        if preset and not home.ships_gin:
            text = _insert(text, "options.entry_points", "spendflops.gin", f"{home.package} = {home.package}.gin")
            text = _insert(text, "options.package_data", home.package, "gin/*/*.gin")
        made[config] = text
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(made)


def _check_name(group: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise errors.ConfigError(
            f"{name!r} cannot be a name", fix="lower-case letters, digits and _, as in barlow_twins"
        )
    rival = next((e for e in registry.entries((group,)) if e.name == name), None)
    if rival is not None:
        raise errors.ConfigError(
            f"{rival.selector} is installed already", why=f"{rival.distribution} offers it", fix="choose another name"
        )


def _fresh(folder: Path, name: str) -> Home:
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
    if others:
        raise errors.ConfigError(
            f"{folder.resolve()} has no setup.cfg and is not empty",
            why=f"it holds {others[0]}",
            fix="start in an empty folder, or in one whose setup.cfg lists packages",
        )
    package = f"spendflops_{name}"
    source = folder / package
    return Home(package, source, source / "gin", folder / "tests", ships_gin=True)


def _existing(folder: Path, config: Path) -> Home:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(config.read_text(encoding="utf-8"))
    except configparser.Error as error:
        raise errors.ConfigError(f"{config} cannot be read", why=str(error)) from error

    def lines(section: str, key: str) -> list[str]:
        text = parser.get(section, key, fallback="")
        return [line.strip() for line in re.split(r"[\n,]", text) if line.strip()]

    plugins = [v for g in registry.GROUPS for v in lines("options.entry_points", f"spendflops.{g}")]
    packages = [v.partition("=")[2].strip().partition(".")[0] for v in plugins] or lines("options", "packages")
    if not packages or packages[0].startswith("find"):
        raise errors.ConfigError(f"{config} lists no package", fix="add `packages = my_package` under [options]")
    package = packages[0].partition(".")[0]
    places = dict(part.replace(" ", "").split("=") for part in lines("options", "package_dir"))
    source = folder / places.get(package, str(Path(places.get("", ".")) / package))
    if not source.is_dir():
        raise errors.ConfigError(f"the package {package!r} of {config} is not in {source}")
    declared = [v.partition("=")[2].strip() for v in lines("options.entry_points", "spendflops.gin")]
    inside = next((v for v in declared if v.partition(".")[0] == package), None)
    gin = source.joinpath(*(inside or "x.gin").split(".")[1:])
    # A checkout of spendflops itself keeps its presets beside the packages.
    own = inside is None and (folder / "gin" / "methods").is_dir()
    mirror = folder / "tests" / "plugins"
    return Home(
        package,
        source,
        folder / "gin" if own else gin,
        mirror if mirror.is_dir() else folder / "tests",
        ships_gin=own or inside is not None,
    )


def _insert(text: str, section: str, key: str, line: str) -> str:
    """Adds a line to a multi-line value of a setup.cfg; comments and order stay."""
    lines = text.rstrip("\n").split("\n")
    header = f"[{section}]"
    if header not in lines:
        return "\n".join([*lines, "", header, f"{key} =", f"    {line}", ""])
    begin = lines.index(header)
    end = next((i for i in range(begin + 1, len(lines)) if lines[i].startswith("[")), len(lines))
    found = next((i for i in range(begin + 1, end) if re.match(rf"{re.escape(key)}\s*=", lines[i])), None)
    if found is None:
        place = max(i for i in range(begin, end) if lines[i].strip() and not lines[i].startswith("#")) + 1
        added = [f"{key} =", f"    {line}"]
    else:
        place = next((i for i in range(found + 1, end) if not lines[i][:1].isspace()), end)
        added = [] if line in (text.strip() for text in lines[found:place]) else [f"    {line}"]
    return "\n".join([*lines[:place], *added, *lines[place:], ""])
