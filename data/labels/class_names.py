"""What a head's rows are called: decided here alone, by evidence, and said aloud.

What the user gives goes first, then what the head's file or the model's config says, then the data set's own list,
then ImageNet's where the model's record or the labels say ImageNet; folders come last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...schemas.class_text import WORDNET_ID, wordnet_id
from ...schemas.errors import ModelError
from .imagenet import LISTS, ids_by_name, ids_by_place, labels_say, list_of_size, timm_list
from .label_files import read_names

DATA_SET_LIST, NUMBERS = "the data set's own list", "numbers"  # where names come from


@dataclass(frozen=True)
class ClassNames:
    """Names of the head's classes in row order, WordNet ids where they are known, and where the names come from.

    `synonyms` are further texts that labels may hold, by row. `natural` are the names in the other order in which they
    may stand (timm's), where nobody says which one it is: what the model answers decides (label_orders.py).
    """

    names: tuple[str, ...]
    wnids: tuple[str | None, ...] | None
    origin: str
    synonyms: tuple[tuple[str, ...], ...] = ()
    natural: tuple[str, ...] | None = None


def name_rows(
    rows: int,
    labels: Sequence[str],
    own: ClassNames | None = None,
    given: str | Path | None = None,
    data_set: Sequence[str] | None = None,
) -> tuple[ClassNames | None, list[str]]:
    """Names for a head of so many rows (0: no head), with WordNet ids where they can be told, and what is to be said.

    Args:
        labels: the different labels of the images.
        own: the names that the head's file or the model brings.
        given: a text file of names, or the name of one of timm's lists, that goes before all.
        data_set: the data set's own list of classes, in its order.

    Raises:
        ModelError: the given names are not as many as the rows.
    """
    classes, notes = _best_names(rows, labels, own, given, data_set)
    if classes is not None and classes.wnids is None:
        ids = ids_by_place(classes.names)
        if ids is None and classes.origin != NUMBERS and any(wordnet_id(label) for label in labels):
            ids = ids_by_name(classes.names)
        classes = replace(classes, wnids=ids)
    return classes, notes


def _best_names(
    rows: int,
    labels: Sequence[str],
    own: ClassNames | None,
    given: str | Path | None,
    data_set: Sequence[str] | None,
) -> tuple[ClassNames | None, list[str]]:
    """The names for which there is the best evidence."""
    if given is not None:
        return _given(rows, given), []
    if own is not None:
        return own, []
    if data_set is not None and len(data_set) == (rows or len(data_set)):
        return _imagenet(rows, data_set) or _named(data_set, DATA_SET_LIST), []
    if rows and (name := labels_say(rows, labels)):
        return imagenet_names(name), [f"the model names no classes; the images' labels are those of {name}"]
    if not rows:
        note = "the model has no head: classes are the images' labels"
        return (_named(sorted(labels), "folders"), [note]) if labels else (None, [])
    if len(labels) == rows:
        return _by_folders(labels)
    note = f"the model names no classes: its {rows:,} rows are called by their numbers (see --class-names)"
    if name := list_of_size(rows):
        note = note[:-1] + f"; for ImageNet's: --class-names {name})"
    return ClassNames(tuple(str(i) for i in range(rows)), None, NUMBERS), [note]


def model_names(classes: int, config: Mapping[str, Any], imagenet: bool = False) -> ClassNames | None:
    """The names that a model of so many classes brings: its config's, or timm's list where it is ImageNet's.

    The config may hold them as label_names (with label_descriptions, by name), labels, or id2label.
    """
    own = _config_names(config, classes)
    if own:
        texts = config.get("label_descriptions")
        texts = texts if isinstance(texts, dict) else {}
        described = tuple((str(texts[name]),) if name in texts else () for name in own)
        if all(WORDNET_ID.fullmatch(name) for name in own):
            known = {w: n for w, n in zip(*_list_of(own), strict=True)}
            names = tuple(d[0].split(",")[0] if d else known.get(w, w) for w, d in zip(own, described, strict=True))
            return ClassNames(names, own, "the model's config", described)
        return ClassNames(own, None, "the model's config", described)
    name = list_of_size(classes)
    return imagenet_names(name) if imagenet and name else None


def imagenet_names(name: str) -> ClassNames:
    """One of timm's lists as the names of a head."""
    classes = timm_list(name)
    return ClassNames(classes.names, classes.wnids, f"timm's {name}", classes.synonyms)


def natural_order(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels as timm's own training numbers its folders: without case, numbers in them by their value."""
    return tuple(sorted(sorted(labels), key=lambda label: [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", label.lower()) if part
    ]))  # fmt: skip


def _config_names(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names in a model's config, as many as its classes; none where it has others."""
    for key in ("label_names", "labels", "id2label"):
        value = config.get(key)
        if isinstance(value, dict) and all(str(i) in value for i in range(classes)):
            value = [value[str(i)] for i in range(classes)]
        generic = key == "id2label" and isinstance(value, list) and value == [f"LABEL_{i}" for i in range(len(value))]
        if isinstance(value, list | tuple) and len(value) == classes and classes and not generic:
            return tuple(str(name) for name in value)
    return ()


def _list_of(wnids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names of the shortest list that holds all of these; of the longest otherwise."""
    for name in ("imagenet-1k", "imagenet-21k-goog"):
        classes = timm_list(name)
        if set(wnids) <= set(classes.wnids):
            break
    return classes.wnids, classes.names


def _given(rows: int, given: str | Path) -> ClassNames:
    if str(given) in LISTS and not Path(given).exists():
        classes = imagenet_names(str(given))
    else:
        names = read_names(Path(given))
        classes = _named(names, Path(given).name)
    if rows and len(classes.names) != rows:
        shown = given if str(given) in LISTS else Path(given).name
        raise ModelError(
            f"{shown} names {len(classes.names):,} classes, the head has {rows:,}",
            "Give one name a line, in the head's order.",
        )
    return classes


def _named(names: Sequence[str], origin: str) -> ClassNames:
    """Names in row order, some of which may be WordNet ids."""
    ids = tuple(name.lower() if WORDNET_ID.fullmatch(name) else None for name in names)
    return ClassNames(tuple(names), ids if any(ids) else None, origin)


def _imagenet(rows: int, data_set: Sequence[str]) -> ClassNames | None:
    """timm's list where the data set's own is the same, row by row."""
    name = list_of_size(rows)
    if name is None or not all(row in timm_list(name).rows_of(text) for row, text in enumerate(data_set)):
        return None
    return imagenet_names(name)


def _by_folders(labels: Sequence[str]) -> tuple[ClassNames, list[str]]:
    """As many labels as rows: their order is the head's, in one of the two ways in which people sort folders."""
    plain_order, natural = tuple(sorted(labels)), natural_order(labels)
    classes = _named(plain_order, "folders by sorted position")
    note = f"the model names no classes: its {len(labels):,} rows are taken for the folders in sorted order"
    if plain_order == natural:
        return classes, [note]
    a, b = next(pair for pair in zip(plain_order, natural, strict=True) if pair[0] != pair[1])
    note += f", '{a}' before '{b}' as torchvision sorts, or as timm does: what fits the model's answers is taken"
    return ClassNames(classes.names, classes.wnids, classes.origin, natural=natural), [note]
