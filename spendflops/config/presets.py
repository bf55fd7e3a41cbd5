"""Where presets are: gin files of models, methods, data sets, evaluators, recipes and studies.

Searched in this order: the folder of the including file, the working directory and its ``gin`` folder, the folders that
distributions declare, ours. A distribution declares a folder of its own package as an entry point of the group
``spendflops.gin``: ``mine = my_package.gin`` is the folder ``gin`` in ``my_package``. It is found without an import.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import spendflops
from spendflops.contracts import errors, registry

KINDS = {"objectives": "methods", "backbones": "models", "datasets": "data", "evaluators": "evaluators"}
"""Folder of the presets of each group of plugins."""
OWN = "gin"


def own_folder() -> Path | None:
    """Our presets: beside the package in a checkout, under ``share/spendflops/gin`` in a wheel."""
    checkout = Path(spendflops.__file__).resolve().parent.parent / OWN
    # In site-packages the folder of that name is the gin library.
    if checkout.is_dir() and not (checkout / "__init__.py").exists():
        return checkout
    files = importlib.metadata.files("spendflops") or ()
    folders = (folder for file in files for folder in Path(str(file.locate())).resolve().parents)
    return next((folder for folder in folders if folder.parts[-3:] == ("share", "spendflops", OWN)), None)


def declared() -> dict[str, Path]:
    """The folders that other distributions declare, by distribution.

    Raises:
        errors.PluginError: A declared folder that is not there.
    """
    found = {}
    for entry in registry.entries(("gin",)):
        package, *inner = entry.value.split(".")
        spec = importlib.util.find_spec(package)
        roots = [Path(root).joinpath(*inner) for root in (spec.submodule_search_locations or ())] if spec else []
        folder = next((root for root in roots if root.is_dir()), None)
        if folder is None:
            raise errors.PluginError(
                f"{entry.distribution} {entry.version} declares presets in {entry.value!r}, which is no folder",
                fix="the value of a `spendflops.gin` entry point is package.folder; wheels need it as package data",
            )
        found[entry.distribution] = folder
    return found


def _libraries() -> dict[Path, str]:
    """Library folders, and how messages begin the names of their files."""
    own = own_folder()
    found = {path.resolve(): f"{name}:" for name, path in declared().items()}
    return {**found, own: f"{OWN}/"} if own else found


def searched(folder: Path | None = None) -> list[Path]:
    """The folders of the search, in order; ``folder`` is the including file's."""
    libraries = list(_libraries())
    near = [path for path in (folder, Path(), Path(OWN)) if path is not None]
    return [path for path in near if path.resolve() not in libraries] + libraries


def resolve(file: str, *, folder: Path | None = None) -> tuple[Path, str, bool] | None:
    """(path, how messages call it, whether it is a library's) of a file by its name, or None.

    Raises:
        errors.ConfigError: Two distributions offer it, and nothing nearer does.
    """
    libraries = _libraries()
    found = [root / file for root in searched(folder) if (root / file).is_file()]
    homes = [next((root for root in libraries if path.resolve().is_relative_to(root)), None) for path in found]
    rivals = [libraries[home] for home in homes if home and libraries[home] != f"{OWN}/"]
    if len(rivals) > 1 and homes[0] is not None:
        raise errors.ConfigError(
            f"{len(rivals)} distributions offer the preset {file}",
            why=", ".join(rival.rstrip(":") for rival in rivals),
            fix="include it by its path, or uninstall one of them",
        )
    if not found:
        return None
    path, home = found[0], homes[0]
    return path, libraries[home] + path.resolve().relative_to(home).as_posix() if home else str(path), bool(home)


def names(kind: str) -> list[str]:
    """Names of all presets of a kind (``methods``, ``models`` ...)."""
    return sorted({file.stem for root in searched() for file in (root / kind).glob("*.gin")})


def missing(file: str, folder: Path | None = None) -> dict[str, str]:
    """The parts of an error about a file that is not there."""
    known = [f"{kind}/{name}.gin" for kind in (*KINDS.values(), "recipes", "studies") for name in names(kind)]
    what = f"there is no gin file {file!r}{errors.suggest(file, known)}"
    return {"what": what, "why": "searched: " + ", ".join(map(str, searched(folder)))}
