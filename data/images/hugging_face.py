"""Hugging Face data sets as a source: from the hub, or from a folder of `save_to_disk`. Needs the extra `hf`."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ...schemas.errors import SourceError, UnreadableImage
from .entries import Entry, Source, check_size, read_file, shown_name

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")  # in the order of preference
LABEL_COLUMNS = ("label", "labels", "class", "target", "cls", "class_name")
MOST_CLASSES = 10**6  # that a column of numbers can mean; larger ones number something else
NUMBERS_AND_TEXTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "string")


@dataclass(frozen=True)
class HuggingFaceSource(Source):
    """Rows of a data set, whose images are read and not decoded."""

    images: Dataset  # of one column, not decoded
    own_classes: tuple[str, ...] | None  # in the data set's order

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.own_classes

    def read(self, i: int) -> bytes:
        (image,) = self.images[i].values()
        if image is None:
            raise UnreadableImage("the row holds no image")
        blob: bytes | None = image["bytes"]
        if blob is None:
            return read_file(image["path"])
        check_size(len(blob))
        return blob


def open_hub(where: str) -> HuggingFaceSource:
    """List a split of a data set of the hub, 'hf:NAME[@CONFIG]:SPLIT'. Raises SourceError."""
    dataset, _, split = where.removeprefix("hf:").partition(":")
    name, _, config = dataset.partition("@")
    if not (name and split):
        raise SourceError(f"{where!r} names no split", "Write hf:NAME:SPLIT or hf:NAME@CONFIG:SPLIT")
    datasets = _datasets()
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # of many libraries: the hub's, the network's, the file formats'
        raise SourceError(f"{where!r} cannot be loaded: {_line(error)}", "Check name, split and network") from None
    shown = Path(name).name if name.startswith(("/", ".", "~")) or Path(name).exists() else name
    return _rows(where, f"hf:{shown}{dataset.removeprefix(name)}:{split}", rows)


def open_saved(path: Path) -> HuggingFaceSource:
    """List a split that `save_to_disk` has left in a folder. Raises SourceError."""
    datasets = _datasets()
    try:
        rows = datasets.load_from_disk(str(path))
    except Exception as error:
        raise SourceError(f"the data set {str(path)!r} cannot be loaded: {_line(error)}", "Save it again") from None
    return _rows(str(path), shown_name(path), rows)


def _datasets() -> ModuleType:
    try:
        return import_module("datasets")
    except ImportError:
        raise SourceError("Hugging Face data sets need an extra", 'pip install "vitdex[hf]"') from None


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _rows(where: str, name: str, rows: Dataset) -> HuggingFaceSource:
    datasets = _datasets()
    columns = [c for c, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise SourceError(f"{where!r} has no column of images, only {', '.join(rows.features)}", "Cast one to Image")
    column = next((c for c in IMAGE_COLUMNS if c in columns), columns[0])  # a mask may stand before the image
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    labels, classes = _labels(rows)
    digits = max(6, len(str(len(rows))))
    entries = []
    for i, ((stored, size), label) in enumerate(zip(_stored(images), labels, strict=True)):
        path = f"{i:0{digits}d}" + (f"-{stored}" if stored else "")
        entries.append(Entry(path, label, size))
    return HuggingFaceSource(name, tuple(entries), (), images, classes)


def _labels(rows: Dataset) -> tuple[list[str | None], tuple[str, ...] | None]:
    """Every row's label, and the data set's list of classes: of a ClassLabel, or of numbers in a column for labels."""
    datasets = _datasets()
    kinds = rows.features
    column = next((c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None)
    if column is None:
        column = next((c for c in LABEL_COLUMNS if getattr(kinds.get(c), "dtype", "") in NUMBERS_AND_TEXTS), None)
    if column is None:
        return [None] * len(rows), None
    values = list(rows.select_columns([column])[column])
    names = getattr(kinds[column], "names", None)
    if names is None and kinds[column].dtype == "string":
        return values, None
    # -1 stands for an unknown class in test splits
    numbers = [value if value is not None and value >= 0 else None for value in values]
    if names is None:
        count = max((n for n in numbers if n is not None), default=-1) + 1
        if count > MOST_CLASSES:
            return [None if n is None else str(n) for n in numbers], None
        names = [str(i) for i in range(count)]
    return [None if n is None else names[n] for n in numbers], tuple(names)


def _stored(images: Dataset) -> Iterator[tuple[str, int]]:
    """(file name or '', bytes) of every row, from Arrow's offsets: no image is copied."""
    import pyarrow.compute as arrow  # type: ignore[import-untyped]  # comes with datasets

    for batch in images.with_format("arrow").iter(1000):
        sizes = arrow.binary_length(arrow.struct_field(batch.column(0), "bytes")).to_pylist()
        paths = arrow.struct_field(batch.column(0), "path").to_pylist()
        for size, path in zip(sizes, paths, strict=True):
            yield posixpath.basename(path or ""), _size_there(path) if size is None else size


def _size_there(path: str | None) -> int:
    """The bytes of a file that a row only points to; 0 where there is none, which shows when it is read."""
    try:
        return Path(path).stat().st_size if path else 0
    except OSError:
        return 0
