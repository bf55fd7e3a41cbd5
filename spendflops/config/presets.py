"""Where presets are: gin files of models, methods, data sets, evaluators, recipes and studies.

Searched in this order: the folder of the including file, the working directory (and its ``gin`` folder), the folders
that distributions declare, ours. A distribution declares a folder inside its own package as an entry point of the group
``spendflops.gin``: ``mine = my_package.gin`` is the folder ``gin`` in the package ``my_package``. It is found without an
import.
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
    for file in importlib.metadata.files("spendflops") or ():
        for folder in Path(str(file.locate())).resolve().parents:
            if folder.parts[-3:] == ("share", "spendflops", OWN):
                return folder
    return None


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
                why=f"looked for {', '.join(map(str, roots)) or f'a package {package!r}'}",
                fix="the value of a `spendflops.gin` entry point is package.folder; wheels need it as package data",
            )
        found[entry.distribution] = folder
    return found


def _folders(folder: Path | None) -> list[tuple[Path, str, bool]]:
    """(folder, how messages call its files, whether it is a library) in the order of the search."""
    own = own_folder()
    libraries = [(path, f"{name}:", True) for name, path in declared().items()]
    libraries += [(own, f"{OWN}/", True)] if own else []
    near = [(path, "", False) for path in ([folder] if folder else [])] + [(Path(), "", False), (Path(OWN), "", False)]
    roots = {path.resolve() for path, _, _ in libraries}
    # Started in a checkout, its gin folder is still the library.
    return [item for item in near if item[0].resolve() not in roots] + libraries


def resolve(file: str, *, folder: Path | None = None) -> tuple[Path, str, bool] | None:
    """(path, how messages call it, whether it is of a library) of a file by its name, or None.

    Raises:
        errors.ConfigError: Two distributions offer a preset of that name, and nothing nearer does.
    """
    library = {path.resolve(): prefix for path, prefix, is_library in _folders(None) if is_library}
    if Path(file).is_absolute():
        return _shown(Path(file), library) if Path(file).is_file() else None
    found = [(root / file, prefix) for root, prefix, _ in _folders(folder) if (root / file).is_file()]
    if not found:
        return None
    rivals = [prefix for _, prefix in found if prefix not in ("", f"{OWN}/")]
    if found[0][1] in rivals and len(rivals) > 1:
        offers = ", ".join(prefix.rstrip(":") for prefix in rivals)
        raise errors.ConfigError(
            f"the preset {file} is offered by {len(rivals)} distributions",
            why=offers,
            fix="include it by its path, or uninstall one of them",
        )
    return _shown(found[0][0], library)


def _shown(path: Path, library: dict[Path, str]) -> tuple[Path, str, bool]:
    for root, prefix in library.items():
        if path.resolve().is_relative_to(root):
            return path, prefix + path.resolve().relative_to(root).as_posix(), True
    return path, path.as_posix(), False


def searched(folder: Path | None = None) -> list[str]:
    """The folders of the search, to print."""
    return [str(path) for path, _, _ in _folders(folder)]


def names(kind: str) -> list[str]:
    """Names of all presets of a kind (``methods``, ``models`` ...)."""
    return sorted({file.stem for root, _, _ in _folders(None) for file in (root / kind).glob("*.gin")})


def relative_names() -> list[str]:
    """All presets, as ``include`` names them."""
    return sorted(f"{kind}/{name}.gin" for kind in (*KINDS.values(), "recipes", "studies") for name in names(kind))
