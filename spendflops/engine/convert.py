"""Weights of others into our form, and ours into others': the work of ``spendflops import`` and ``export``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors, registry
from spendflops.contracts.layout import Layout, Target
from spendflops.contracts.types import DatasetInfo
from spendflops.engine import card
from spendflops.engine.bare import UNKNOWN, Bare
from spendflops.engine.describe import describe
from spendflops.engine.load import Model, spec_of
from spendflops.engine.rundir import environment
from spendflops.engine.state import Definition, define, flatten
from spendflops.parts.nn.positions import resize_matrix
from spendflops.weights import files, folder, layout

OWN = "spendflops"
"""The name of our form, beside those of the layouts."""
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype("bfloat16")}


def layouts(name: str | None = None) -> dict[str, Layout]:
    """The layouts that are installed, by name, or one of them."""
    names = [name] if name else sorted({e.name for e in registry.entries(("layouts",))})
    return {n: registry.load("layouts", n)() for n in names}


def target_of(definition: Definition) -> Target:
    """A model, as layouts see it."""
    shapes = {p: tuple(x.shape) for part in (definition.params, definition.stats) for p, x in flatten(part).items()}
    return Target(shapes=shapes, model=definition.example, bare=isinstance(definition.example, Bare))


def import_file(
    path: str | os.PathLike[str],
    *,
    backbone: Callable[..., Any],
    objective: Callable[..., Any] | None = None,
    info: DatasetInfo | None = None,
    out: str | os.PathLike[str],
    using: str | None = None,
    weights: str | None = None,
    resize: str | None = None,
    flops: int | None = None,
) -> list[str]:
    """Reads a file into a model and writes it as a folder of our own.

    Args:
        path: File, or a folder with ``model.safetensors``.
        backbone: Factory, a class with its options bound.
        objective: Likewise; None for the backbone alone.
        info: Of the data that the objective is for: how many classes there are.
        out: The folder to make.
        using: Name of a layout; None for the one that fits.
        weights: ``"online"`` or ``"teacher"``, of files that hold both.
        resize: Name of a rule that resamples tables of positions for the backbone's image size.
        flops: Spent on these weights; None for unknown.

    Returns:
        Lines that say what was done.

    Raises:
        errors.DataError: The file does not fit, or is not read at all.
        errors.ConfigError: An unknown layout or rule, a folder that is there already.
    """
    if resize is not None:
        resize_matrix(resize, 4, 4)  # an unknown rule is an error now
    folder.check_vacant(out)
    content = files.open_file(path)
    given = info or DatasetInfo(name=UNKNOWN, features={})
    definition = define(backbone, objective or Bare, info=given)
    target = target_of(definition)
    found = layout.choose(layouts(using), content, target, weights=weights, resize=resize)
    if content.values:
        found.ignore("no tensors", *content.values)
    values, notes = layout.read(found, content, target, resize=resize)
    dtypes = sorted({content.tensors[key].dtype.name for _, keys in found.taken.values() for key in keys})
    source = {
        "file": content.path.name,
        "sha256": content.digest(),
        "layout": found.name,
        "kind": content.kind,
        "dtypes": dtypes,
        "resized": resize if any(note.startswith("resized") for note in notes) else None,
        "ignored": {reason: len(keys) for reason, keys in found.ignored.items()},
    }
    config = {
        "backbone": describe(backbone),
        "objective": None if objective is None else describe(objective),
        "info": dataclasses.asdict(given),
        "input": dataclasses.asdict(spec_of(definition)),
        "weights": found.weights,
        "step": None,
        "flops": flops,
        "source": source,
        "versions": environment()["packages"],
    }
    folder.write(out, values, config)
    count = sum(value.size for value in values.values())
    return [
        f"{content.path.name}: {content.kind}, layout {found.name} ({found.layout.title})"
        + (f"; {', '.join(found.also)} would read the same" if found.also else ""),
        f"taken     {len(found.taken)} tensors, {count:,} values, {', '.join(dtypes)}"
        + (" made float32 without loss" if dtypes != ["float32"] else ""),
        *notes,
        *(f"ignored   {len(keys)}: {reason} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
          for reason, keys in found.ignored.items()),
        f"FLOPs spent on them: {'unknown' if flops is None else f'{flops:,}'}",
    ]  # fmt: skip


def export(
    model: Model, *, using: str, out: str | os.PathLike[str], dtype: str = "float32",
    run: str | os.PathLike[str] | None = None,
) -> list[str]:  # fmt: skip
    """Writes a model in a layout: a safetensors file, or a folder with it, a ``config.json`` and a model card.

    Args:
        model: From :func:`spendflops.engine.load.load`.
        using: Name of the layout, or ``"spendflops"`` for our own form.
        out: A name that ends with ``.safetensors``, or a folder.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        run: The run directory that it comes from, for the FLOPs and the CO2e of its card; None for imported weights.

    Returns:
        Lines that say what was done.

    Raises:
        errors.ConfigError: An unknown layout or dtype, a backbone that the layout has no names for, something there.
        errors.DataError: The disk does not take it.
    """
    values = {p: np.asarray(x) for part in jax.device_get(model.values) for p, x in flatten(part).items()}
    facts = {"weights": model.weights, **{k: model.origin[k] for k in ("step", "flops", "source")}}
    known = {"weights": model.weights, "step": facts["step"], "FLOPs spent": facts["flops"]}
    said = [", ".join(f"{name}: {'unknown' if value is None else value}" for name, value in known.items())]
    if using == OWN:
        described = {k: model.origin[k] for k in ("backbone", "objective", "info")}
        versions = {"input": dataclasses.asdict(model.spec), "versions": environment()["packages"]}
        folder.write(out, values, {**described, **facts, **versions})
        return [f"{out}: {len(values)} tensors in our form", *said, _card(model, Path(out), using, run)]
    if dtype not in DTYPES:
        raise errors.ConfigError(f"unknown dtype {dtype!r}{errors.suggest(dtype, list(DTYPES))}")
    chosen, path, target = layouts(using)[using], Path(out), target_of(model.definition)
    arrays, left = layout.export(chosen, values, target)
    single = path.suffix == ".safetensors"
    file = path if single else path / files.NAMES[0]
    if file.exists() or (path.exists() and path.is_dir() == single):
        raise errors.ConfigError(f"{file} is there already", fix="choose another --out, or remove it")
    facts |= {"layout": using, "dtype": dtype, "left_out": left}
    cast = {key: _cast(value, DTYPES[dtype], key) for key, value in arrays.items()}
    files.save(file, cast, {OWN: json.dumps(facts, sort_keys=True)})
    if not single:
        fields: Mapping[str, Any] = {**chosen.config(target), OWN: facts}
        files.write_text(path / "config.json", json.dumps(fields, indent=1, sort_keys=True))
        said.append(_card(model, path, using, run))
    parts = sorted({name.split("/")[0] for name in left})
    without = [f"left out  {len(left)} tensors of {', '.join(parts)}: the layout has no names for them"] if left else []
    rounded = sum(bool((cast[key] != value).any()) for key, value in arrays.items())
    said += [f"rounded   {rounded} tensors to {dtype}"] if rounded else []
    return [f"{file}: {len(arrays)} tensors, {dtype}, layout {using} ({chosen.title})", *said, *without]


def _card(model: Model, path: Path, using: str, run: str | os.PathLike[str] | None) -> str:
    """Writes the model card, unless somebody's is there, and says which."""
    file = path / card.FILE
    if file.exists():
        return f"{file} is there already: it stays as it is"
    files.write_text(file, card.text(model.origin, None if run is None else Path(run), layout=using))
    return f"{file}: the model card"


def _cast(value: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if not np.isfinite(cast.astype(np.float32)).all():
        raise errors.ConfigError(f"{key} does not fit into {dtype}", fix="--dtype float32 or bfloat16")
    return cast
