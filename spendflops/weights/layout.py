"""The rules of a layout at work: a file's tensors into a model's, and back. Strict in both directions."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.layout import BACKBONE, Layout, Rule, Target
from spendflops.weights.files import Content, Tensor

SHOWN = 12
"""Lines of an error."""


@dataclasses.dataclass(kw_only=True)
class Match:
    """What a layout makes of a file, found on names and shapes: nothing is read for it.

    Attributes:
        name, layout: The layout.
        weights: "online" or "teacher", where the file or the user says it.
        taken: Path -> (rule, keys in the file).
        constants: Key -> (what it must hold, its path).
        ignored: Reason -> keys.
        problems: What does not fit, of names and shapes, beside
        unknown: keys without a rule, as the layout would spell them, and in the file; and
        missing: names that the model needs and the file does not have.
        added: What the layout's names have at the beginning, in the place of
        before: what the file has there.
        known: How many keys have names of this layout.
        also: Other layouts that have the same names and are read in the same way.
    """

    name: str
    layout: Layout
    weights: str | None = None
    taken: dict[str, tuple[Rule, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    constants: dict[str, tuple[np.ndarray, str]] = dataclasses.field(default_factory=dict)
    ignored: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    unknown: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    added: str = ""
    before: str = ""
    known: int = 0
    also: list[str] = dataclasses.field(default_factory=list)

    @property
    def misfits(self) -> int:
        """How much does not fit."""
        return len(self.problems) + len(self.unknown)

    def spelt(self, name: str) -> str:
        """A name of the layout as the file would have it."""
        return self.before + name.removeprefix(self.added)

    def ignore(self, reason: str, *keys: str) -> None:
        """Notes keys that are of no use."""
        self.ignored.setdefault(reason, []).extend(keys)


def choose(
    layouts: Mapping[str, Layout], content: Content, target: Target, *, weights: str | None, resize: str | None
) -> Match:
    """The layout that fits a file and a model.

    Args:
        layouts: Those to try, by name.
        content: The file.
        target: The model.
        weights: "online" or "teacher", of files that hold both.
        resize: Name of the rule that resamples tables of positions for the model's image size.

    Raises:
        errors.DataError: None fits: all that does not, on both sides; or several do, in different ways.
    """
    found = [match(name, layout, content, target, weights=weights, resize=resize) for name, layout in layouts.items()]
    # Of layouts with the same names, the one that asks for the least.
    best = min(found, key=lambda m: (m.misfits > 0, -m.known, m.misfits, len(m.layout.expects), m.name))
    if (best.known < len(content.tensors) / 2 and len(found) > 1) or not content.tensors:
        raise errors.DataError(
            f"{content.path} has no layout that is known here",
            why=f"its keys are {', '.join(list(content.tensors)[:4]) or 'none'}, ...; known are "
            + ", ".join(f"{name} ({layout.title})" for name, layout in layouts.items()),
            fix="convert it, or write a layout: an entry point of the group spendflops.layouts",
        )
    if best.misfits:
        raise _misfit(content, best, _told(content, best), "give the model and the layout that the file was made with")
    rivals = [m for m in found if not m.misfits and _sources(m) != _sources(best)]
    if rivals:
        raise errors.DataError(
            f"{content.path} can be read as {best.name} and as {rivals[0].name}", fix=f"choose: --layout {best.name}"
        )
    best.also = [m.name for m in found if m is not best and not m.misfits]
    odd = _differences(best.layout, target)
    odd += _config_differences("", best.layout.config(target), content.config)
    if odd:
        raise _misfit(content, best, odd, "give the backbone these options; no tensor shows them")
    return best


def _sources(found: Match) -> dict[str, Any]:
    return {path: (rule.transform.name, keys) for path, (rule, keys) in found.taken.items()}


def _told(content: Content, found: Match) -> list[str]:
    """All problems, with the nearest missing name of each key that no rule knows."""
    lines, missing = [], [found.spelt(name) for name in found.missing]
    for original in found.unknown.values():
        near = errors.suggest(original, missing).replace("?", ", which is missing?")
        lines.append(f"{original} {content.tensors[original].shape} in the file: no rule{near}")
    return lines + found.problems


def _misfit(content: Content, found: Match, problems: list[str], fix: str) -> errors.DataError:
    # Sixteen blocks too many are one problem, not two hundred.
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(re.sub(r"([./])\d+(?=[./])", r"\1*", problem), []).append(problem)
    lines = [f"{g[0]}{f'  (and {len(g) - 1} more like it)' if len(g) > 1 else ''}" for g in groups.values()]
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return errors.DataError(
        f"{content.path} does not fit the model: {len(problems)} differences, read as {found.name!r}",
        why="\n    ".join([found.layout.title, *lines[:SHOWN], *more]),
        fix=fix,
    )


def match(
    name: str, layout: Layout, content: Content, target: Target, *, weights: str | None, resize: str | None
) -> Match:
    """Reads a file's names and shapes by one layout; see :func:`choose`."""
    found = Match(name=name, layout=layout, weights=weights)
    keys = _canonical(layout, content.tensors, found)
    left = dict(keys)
    for rule in layout.rules:
        spots: dict[tuple, dict[str, str]] = {}
        for pattern in rule.theirs:
            for key in list(left):
                if (fit := _pattern(pattern).fullmatch(key)) is not None:
                    spots.setdefault(tuple(fit.groupdict().items()), {})[pattern] = left.pop(key)
        for numbers, parts in spots.items():
            found.known += len(parts)
            _place(found, rule, dict(numbers), parts, content.tensors, target, resize)
    for key, original in left.items():
        reason = next((reason for expression, reason in layout.ignored if re.fullmatch(expression, key)), None)
        if reason is not None:
            found.known += 1
            found.ignore(reason, original)
        else:
            found.unknown[key] = original
    _need(found, target, keys)
    if not found.misfits and (lost := [path for path in target.shapes if path not in found.taken]):
        found.problems.append(f"{lost[0]} of the model: the layout gives its tensor to another")
    return found


def _canonical(layout: Layout, tensors: Mapping[str, Tensor], found: Match) -> dict[str, str]:
    """Key without the places that files wrap their weights in -> key in the file."""
    roots = [root for root in layout.roots if any(key.startswith(root.prefix) for key in tensors)]
    root = next((root for root in roots if found.weights in (None, root.weights)), None)
    if roots and root is None:
        there = ", ".join(r.weights or r.prefix.rstrip(".") for r in roots)
        found.problems.append(f"the file has no {found.weights} weights, but {there}")
        root = roots[0]
    prefix = found.before = root.prefix if root else ""
    found.weights = root.weights if root and root.weights else found.weights
    inside = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
    for begin in layout.prefixes:
        if all(key.startswith(begin) for key in inside):
            found.before += begin
            inside = {key.removeprefix(begin): original for key, original in inside.items()}
    if layout.trunk and not any(key.startswith(layout.trunk) for key in inside):
        found.added = layout.trunk
        inside = {f"{layout.trunk}{key}": original for key, original in inside.items()}
    for key in [key for key in tensors if not key.startswith(prefix)]:
        other = next((r for r in roots if key.startswith(r.prefix)), None)
        if other is not None:
            found.known += 1
            found.ignore(f"other weights of the file ({other.weights or other.prefix.rstrip('.')})", key)
        elif key in inside:
            found.problems.append(f"{key} and {inside[key]} in the file have one name")
        else:
            inside[key] = key
    return inside


def _place(
    found: Match, rule: Rule, numbers: dict[str, str], parts: dict[str, str], tensors: Mapping[str, Tensor],
    target: Target, resize: str | None,
) -> None:  # fmt: skip
    """Finds the place in the model of the tensors that belong together by a rule."""
    path, there = rule.ours.format(**numbers), ", ".join(parts.values())
    absent = [pattern.format(**numbers) for pattern in rule.theirs if pattern not in parts]
    shape = target.shapes.get(path)
    if target.bare and not path.startswith(BACKBONE):
        found.ignore(f"for {path.split('/')[0]}, which a backbone without an objective does not have", *parts.values())
    elif absent:
        others = ", ".join(map(found.spelt, absent))
        found.problems.append(f"{there} in the file belongs with {others}, which is not there")
        found.missing += absent
    elif shape is None:
        value = rule.constant(target) if rule.constant else None
        if value is None:
            found.problems.append(f"{there} {tensors[there.split(', ')[0]].shape} in the file: the model has no {path}")
        else:
            found.constants[there] = (value, path)
    else:
        keys = tuple(parts[pattern] for pattern in rule.theirs)
        try:
            empty = [np.broadcast_to(np.False_, tensors[key].shape) for key in keys]
            made = rule.transform.forward(*empty).shape
        except (ValueError, IndexError) as error:
            found.problems.append(f"{there} {[tensors[key].shape for key in keys]} in the file: {error}")
            return
        table = rule.resize is not None and made[-1:] == tuple(shape)[-1:]
        if path in found.taken:
            found.problems.append(f"{there} and {', '.join(found.taken[path][1])} in the file both make {path}")
        elif made == tuple(shape) or (table and resize is not None):
            found.taken[path] = (rule, keys)
        else:
            hint = ", another image size: give that, or --resize RULE" if table else ""
            found.problems.append(f"{there} in the file makes {path} {made}, the model has {tuple(shape)}{hint}")


def _need(found: Match, target: Target, keys: Mapping[str, str]) -> None:
    """Notes what the model needs and the file does not have; what it has and does not fit is noted already."""
    for path in (path for path in target.shapes if path not in found.taken):
        fits = [(rule, fit) for rule in found.layout.rules if (fit := _pattern(rule.ours).fullmatch(path))]
        names = [t.format(**fit.groupdict()) for rule, fit in fits for t in rule.theirs]
        if not any(name in keys for name in names):
            absent = f"needs {', '.join(map(found.spelt, names))}" if names else "the layout has no name for it"
            found.problems.append(f"{path} {tuple(target.shapes[path])} of the model: {absent}")
            found.missing += names


@functools.cache
def _pattern(text: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(text)))


def _differences(layout: Layout, target: Target) -> list[str]:
    """Options of the model that no tensor shows and that files of this layout have otherwise."""
    odd = []
    for name, wanted in layout.expects.items():
        if target.bare and not name.startswith("backbone."):
            continue
        wanted = wanted(target) if callable(wanted) else wanted
        try:
            value = target.attribute(name)
        except AttributeError:
            value = "absent"
        if value != wanted:
            odd.append(f"{name} is {value!r}, such files need {wanted!r}")
    return odd


def _config_differences(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    odd = []
    for name in (name for name in ours if name in theirs):
        if isinstance(ours[name], Mapping) and isinstance(theirs[name], Mapping):
            odd += _config_differences(f"{where}{name}.", ours[name], theirs[name])
        elif ours[name] != theirs[name] and name not in ("architectures", "model_type", "image_size"):
            odd.append(f"config.json has {where}{name} = {theirs[name]!r}, the model {ours[name]!r}")
    return odd


def read(
    found: Match, content: Content, target: Target, *, resize: str | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The model's values, float32, by path, and what there is to say about them.

    Raises:
        errors.DataError: Values that are not finite or not of float32, a fixed table that is another one.
    """
    values, lines = {}, []
    for path, (rule, keys) in found.taken.items():
        value = rule.transform.forward(*(_float32(content, key) for key in keys))
        shape = tuple(target.shapes[path])
        if value.shape != shape and rule.resize is not None and resize is not None:
            try:
                value, old = rule.resize(value, target, resize), value.shape
            except ValueError as error:
                raise errors.DataError(f"{', '.join(keys)} cannot be resized: {error}") from error
            lines.append(f"resized   {path} {old} to {shape} by {resize}")
        values[path] = np.array(value, np.float32, order="C")
    for key, (wanted, path) in found.constants.items():
        _compare(content, key, wanted, path)
        lines.append(f"compared  {key} {wanted.shape}: as it must be")
    return values, lines


def _float32(content: Content, key: str) -> np.ndarray:
    tensor = content.tensors[key]
    if not floating(tensor.dtype):
        raise errors.DataError(f"{key} in {content.path} is {tensor.dtype}", why="weights are floating point")
    value = tensor.read()
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    if not np.isfinite(single).all() or (value.dtype == np.float64 and (single != value).any()):
        what = "is float64 and loses precision" if np.isfinite(value.astype(np.float64)).all() else "is not finite"
        raise errors.DataError(f"{key} in {content.path} {what}", fix="give a file of finite float32 or float16 values")
    return single


def floating(dtype: np.dtype) -> bool:
    """Whether a dtype is one of floating point, bfloat16 among them."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _compare(content: Content, key: str, wanted: np.ndarray, path: str) -> None:
    value, dtype = _float32(content, key), content.tensors[key].dtype
    if value.shape != wanted.shape or np.abs(value - wanted).max() > 4 * float(ml_dtypes.finfo(dtype).eps):
        shapes = f"{value.shape}, not {wanted.shape}" if value.shape != wanted.shape else "with other values"
        raise errors.DataError(
            f"{key} in {content.path} is not the fixed tensor that this model has there: {shapes}",
            why=f"the model has no parameter {path} that could take it",
            fix="give the file's image size, or let the model have that parameter (positions = 'learned')",
        )


def export(layout: Layout, values: Mapping[str, np.ndarray], target: Target) -> tuple[dict[str, np.ndarray], list[str]]:
    """A model's values in a layout, and the paths that it has no names for.

    Raises:
        errors.ConfigError: A part of the backbone has no name in the layout, or an option that no tensor shows is not
            the one of such files.
    """
    odd = _differences(layout, target)
    if odd:
        raise errors.ConfigError(f"the model is none of {layout.title}", why="; ".join(odd))
    arrays: dict[str, np.ndarray] = {}
    left = dict(values)
    for rule in layout.rules:
        fits = {path: fit for path in left if (fit := _pattern(rule.ours).fullmatch(path))}
        for path, fit in fits.items():
            names = [pattern.format(**fit.groupdict()) for pattern in rule.theirs]
            arrays.update(zip(names, rule.transform.backward(left.pop(path)), strict=True))
        if rule.constant and rule.ours not in target.shapes and (value := rule.constant(target)) is not None:
            arrays[rule.theirs[0]] = value
    missing = [path for path in left if path.startswith(BACKBONE)]
    if missing:
        raise errors.ConfigError(
            f"{missing[0]} has no name in the layout, and {len(missing) - 1} more",
            why=f"it is for {layout.title}",
            fix="choose a layout that has all parts of this backbone",
        )
    if not any(path not in left and not path.startswith(BACKBONE) for path in values):
        arrays = {key.removeprefix(layout.trunk): value for key, value in arrays.items()}
    return {key: np.array(value, np.float32, order="C") for key, value in arrays.items()}, list(left)
