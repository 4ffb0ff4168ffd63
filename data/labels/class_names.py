"""What a head's rows are called, and which class an image belongs to: both are decided here alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import ModelError
from .label_files import read_names


@dataclass(frozen=True)
class ClassNames:
    """Names of the head's classes in row order, WordNet ids where they are known, and where they come from."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None
    origin: str


def name_rows(
    rows: int, folders: Sequence[str], own: ClassNames | None, path: str | Path | None
) -> tuple[ClassNames | None, list[str]]:
    """Names for a head of so many rows (0: no head), and what a user should know of them.

    A file's names go first, then those that the head or the model brings; else the sorted class folders, said aloud.
    Raises ModelError where the file's names are not as many as the rows.
    """
    if path is not None:
        file = Path(path)
        names = read_names(file)
        if rows and len(names) != rows:
            raise ModelError(
                f"{file.name} names {len(names)} classes, the head has {rows}",
                "Give one name a line, in the head's order.",
            )
        return ClassNames(names, None, file.name), []
    if own is not None:
        return own, []
    if not rows:
        if not folders:
            return None, []
        return ClassNames(tuple(folders), None, "folders"), ["the model has no head: classes are the image folders"]
    if len(folders) == rows:
        note = f"the model names no classes: its {rows} rows are taken for the folders in sorted order"
        return ClassNames(tuple(folders), None, "folders by sorted position"), [note]
    numbers = tuple(str(i) for i in range(rows))
    note = f"the model names no classes and has {rows}, not {len(folders)}: images have none (see --class-names)"
    return ClassNames(numbers, None, "numbers"), [note]


def model_names(classes: int, own: Sequence[str] | None) -> ClassNames | None:
    """The names that a model of so many classes brings: its own config's, or timm's for ImageNet and its subsets."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if own and len(own) == classes:
        return ClassNames(tuple(own), None, "the model's config")
    subset = infer_imagenet_subset({"num_classes": classes})
    if not subset:
        return None
    try:
        info = ImageNetInfo(subset)
    except AssertionError:  # a subset that timm knows by its size alone
        return None
    wnids = tuple(info.label_names())
    first = [info.label_name_to_description(w).split(",")[0].strip() for w in wnids]
    twice = {name for name in first if first.count(name) > 1} if classes <= 1000 else set()
    names = tuple(f"{n} ({w})" if n in twice else n for n, w in zip(first, wnids, strict=True))
    return ClassNames(names, wnids, f"timm's {subset}")


def image_classes(folders: Sequence[str | None], names: ClassNames | None) -> NDArray[np.int64]:
    """The class of each image by its folder: WordNet id, else name (case, '_' and ' ' alike); -1 where it is none."""
    rows: dict[str, int] = {}
    if names is not None:
        rows |= {_plain(name): i for i, name in reversed(list(enumerate(names.names)))}
        rows |= {_plain(wnid): i for i, wnid in enumerate(names.wnids or ())}
    class_of = {folder: rows.get(_plain(folder), -1) for folder in set(folders) if folder is not None}
    return np.array([class_of.get(folder, -1) if folder is not None else -1 for folder in folders], np.int64)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")
