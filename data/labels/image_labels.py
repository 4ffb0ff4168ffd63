"""Which row of the head an image's label is. What is ambiguous is not matched, and what is not matched is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...schemas.class_text import plain, wordnet_id
from ...schemas.numbers_shown import number_of
from .class_names import ClassNames

SHOWN = 10  # labels without a class that are named
REMEDY = "Give labels with --labels, or names of the head's rows with --class-names."


def label_rows(labels: Collection[str], classes: ClassNames | None) -> dict[str, int]:
    """The row of every label that is one row's alone.

    A label is compared with names and WordNet ids as written, then without case, then with synonyms; at last its own
    parts ('tench, Tinca tinca') with names. Only where no label is a name and all of them are numbers of rows, they
    are the rows' numbers, counted from 0.
    """
    if classes is None:
        return {}
    steps = _steps(classes)
    alike = Counter(map(plain, labels))  # labels that differ by case alone are different classes
    rows: dict[str, int] = {}
    for label in labels:
        row = steps[0].get(label) if alike[plain(label)] > 1 else _row(label, steps)
        if row is not None:
            rows[label] = row
    if not rows and labels and all(_is_row(label, len(classes.names)) for label in labels):
        return {label: int(label) for label in labels}
    return rows


def image_classes(labels: Iterable[str | None], rows: Mapping[str, int]) -> NDArray[np.int64]:
    """The class of each image by its label: -1 where it is none."""
    return np.array([-1 if label is None else rows.get(label, -1) for label in labels], np.int64)


def matched_text(labels: Sequence[str | None], rows: Mapping[str, int]) -> str:
    """How many images have a class."""
    found = sum(label in rows for label in labels)
    return f"{found:,} of {number_of(len(labels), 'image')} {'has' if found == 1 else 'have'} a class"


def without_class(labels: Sequence[str | None], rows: Mapping[str, int]) -> list[str]:
    """Warnings for a user: which labels are no class of the head, how many images have no label, and what helps."""
    count = Counter(labels)
    without = [(label, n) for label, n in count.most_common() if label is not None and label not in rows]
    lines = []
    if without:
        named = ", ".join(f"'{label}' ({n:,})" for label, n in without[:SHOWN])
        more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
        some = "1 label is" if len(without) == 1 else f"{len(without):,} labels are"
        lines.append(f"{some} none of the classes, or several: {named}{more}. {REMEDY}")
    if count[None]:
        some = "1 image has" if count[None] == 1 else f"{count[None]:,} images have"
        lines.append(f"{some} no label. {REMEDY}")
    return lines


def _steps(classes: ClassNames) -> list[dict[str, int | None]]:
    """Texts and the row that each means (None: several), to be tried one after another."""
    ids = [(str(wnid).lower(), row) for row, wnid in enumerate(classes.wnids or ()) if wnid]
    exact = [(name, row) for row, name in enumerate(classes.names)]
    loose = [(plain(name), row) for name, row in exact]
    others = [
        (plain(text), row) for row, texts in enumerate(classes.synonyms) for text in (*texts, ", ".join(texts)) if texts
    ]
    return [_unique(pairs) for pairs in (exact, ids, loose, others)]


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    rows: dict[str, int | None] = {}
    for text, row in pairs:
        rows[text] = row if rows.get(text, row) == row else None
    return rows


def _row(label: str, steps: list[dict[str, int | None]]) -> int | None:
    exact, ids, loose, others = steps
    if label in exact:
        return exact[label]
    wnid = wordnet_id(label)
    if wnid in ids:
        return ids[wnid]
    text = plain(label if wnid is None else label.strip()[len(wnid) :].lstrip("-_. "))  # 'n02085620-Chihuahua'
    for known in (loose, others):
        if text in known:
            return known[text]
    parts = {plain(part) for part in label.split(",")} if "," in label else set()
    rows = {known[part] for known in (loose, others) for part in parts if part in known}
    return rows.pop() if len(rows) == 1 else None


def _is_row(label: str, rows: int) -> bool:
    return label.isascii() and label.isdecimal() and int(label) < rows
