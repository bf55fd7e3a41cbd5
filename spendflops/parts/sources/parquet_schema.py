"""The columns of a parquet table: which of them hold images, labels and captions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spendflops.contracts.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = "fetch the file again, or write it again"
IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes")
LABELS = ("label", "cls")
CAPTIONS = ("txt", "caption", "text")
"""Names of columns that are taken for images, labels and captions, the first that is there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Which columns hold what.

    Attributes:
        image: A struct with ``bytes``, or binary.
        label: Integers or names; None for none.
        caption: Texts; None for none.
        mask: Label maps, as ``image``; None for none.
        classes: Names of the classes, where the schema has them.
        downloads: Whether the table is img2dataset's, with a row for every address.
    """

    image: str
    label: str | None
    caption: str | None
    mask: str | None
    classes: tuple[str, ...]
    downloads: bool


def pyarrow() -> Any:
    """The package, with ``compute`` and ``parquet``.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "reading parquet needs the package pyarrow", why=str(error), fix="pip install 'spendflops[parquet]'"
        ) from error
    return pyarrow


def find_layout(
    path: str, *, image: str = "auto", label: str = "auto", caption: str = "auto", mask: str = "none"
) -> Layout:
    """Which columns of a table hold what.

    Args:
        path: A table.
        image: A column; "auto" finds it by type and by name.
        label: A column, "auto", or "none".
        caption: A column, "auto", or "none".
        mask: A column, or "none".

    Raises:
        DataError: Unreadable, a column that is not there or not of such a type, no image.
        ConfigError: Several columns may be meant.
    """
    _, schema = read_footer(path)
    named: dict[str, str | None] = {
        what: _column(path, schema, name, what, fits)
        for what, name, fits in (
            ("image", image, _is_image),
            ("label", label, _is_label),
            ("caption", caption, _is_text),
            ("mask", mask, _is_image),
        )
        if name != "auto" and (name != "none" or what == "image")
    }
    known = _hugging_face(schema)
    if "image" not in named:
        found = [c for c in known["Image"] if _is_image(schema.field(c).type) and c != mask]
        found = found or [field.name for field in schema if _is_struct(field.type) and field.name != mask]
        found = found or [c for c in IMAGES if c in schema.names and _is_image(schema.field(c).type)][:1]
        named["image"] = _only(path, schema, found, "image")
    if "label" not in named:
        found = [c for c in known["ClassLabel"] if _is_label(schema.field(c).type)]
        found = found or [c for c in LABELS if c in schema.names and _is_label(schema.field(c).type)][:1]
        named["label"] = _only(path, schema, found, "label") if found and label == "auto" else None
    if "caption" not in named:
        found = [c for c in CAPTIONS if c in schema.names and _is_text(schema.field(c).type)]
        named["caption"] = found[0] if found and caption == "auto" else None
    named.setdefault("mask", None)
    return Layout(
        **named,
        classes=known["ClassLabel"].get(named["label"] or "", ()),
        downloads={"key", "status", "error_message"} <= set(schema.names),
    )


def check_columns(path: str, schema: pa.Schema, layout: Layout) -> None:
    """Raises a DataError where a table does not have the columns of ``layout``, or other classes."""
    for what, fits in (("image", _is_image), ("label", _is_label), ("caption", _is_text), ("mask", _is_image)):
        if (column := getattr(layout, what)) is not None:
            _column(path, schema, column, what, fits)
    if layout.downloads:
        _column(path, schema, "status", "status", _is_text)
    own = _hugging_face(schema)["ClassLabel"].get(layout.label or "", ())
    if own != layout.classes:
        raise DataError(
            f"{path} has other classes than the first table",
            why=f"{len(own)} and {len(layout.classes)} of them: the same label would mean two things",
            fix="take it out, or give the classes and write the labels of all tables by them",
        )


def read_footer(path: str) -> tuple[pa.FileMetaData, pa.Schema]:
    """The metadata of a table, and its columns.

    Raises:
        DataError: Unreadable.
    """
    pa = pyarrow()
    try:
        footer = pa.parquet.read_metadata(path)
        return footer, footer.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        raise DataError(f"table {path} cannot be read", why=str(error), fix=AGAIN) from error


def _hugging_face(schema: pa.Schema) -> dict[str, dict[str, tuple[str, ...]]]:
    """Type -> column -> names, of the images and classes that the metadata of the schema declare."""
    found: dict[str, dict[str, tuple[str, ...]]] = {"Image": {}, "ClassLabel": {}}
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        for column, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") in found and column in schema.names:
                found[feature["_type"]][column] = tuple(str(name) for name in feature.get("names") or ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # notes of some other writer
    return found


def _column(path: str, schema: pa.Schema, name: str, what: str, fits: Callable[[pa.DataType], bool]) -> str:
    if name not in schema.names:
        raise DataError(
            f"table {path} has no column {name!r}{suggest(name, schema.names)}",
            why=f"it has {', '.join(schema.names)}",
            fix=f"name the column of the {what}, or take the table out",
        )
    if not fits(schema.field(name).type):
        raise DataError(f"table {path}: column {name!r} is {schema.field(name).type}, which holds no {what}")
    return name


def _only(path: str, schema: pa.Schema, found: Sequence[str], what: str) -> str:
    if not found:
        raise DataError(
            f"table {path} has no column of images",
            why=f"it has {', '.join(f'{field.name}: {field.type}' for field in schema)}",
            fix="name it: image='COLUMN'; a sidecar of tar shards has none, read those as webdataset",
        )
    if len(found) > 1:
        raise ConfigError(
            f"table {path} has {len(found)} columns that may be the {what}: {', '.join(found)}",
            fix=f"choose one: {what}={found[0]!r}" + ("" if what == "image" else f", or {what}='none'"),
        )
    return found[0]


def _is_binary(kind: pa.DataType) -> bool:
    return pyarrow().types.is_binary(kind) or pyarrow().types.is_large_binary(kind)


def _is_struct(kind: pa.DataType) -> bool:
    at = kind.get_field_index("bytes") if pyarrow().types.is_struct(kind) else -1
    return at >= 0 and _is_binary(kind.field(at).type)


def _is_image(kind: pa.DataType) -> bool:
    return _is_binary(kind) or _is_struct(kind)


def _is_text(kind: pa.DataType) -> bool:
    kinds = pyarrow().types
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _is_label(kind: pa.DataType) -> bool:
    return pyarrow().types.is_integer(kind) or _is_text(kind)
