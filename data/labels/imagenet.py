"""ImageNet's classes as timm lists them, and when a head or its data are ImageNet's.

A head is ImageNet's where somebody says so: the user, the model's own record, or the labels of the data. That it has
1,000 rows says nothing. Imports timm: only inside functions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ...schemas.class_text import plain, wordnet_id

LISTS = {  # timm's name of a list: the sizes of the heads that are trained on it
    "imagenet-1k": 1000,
    "imagenet-12k": 11821,
    "imagenet-21k-miil": 11221,
    "imagenet-22k": 21841,
    "imagenet-21k-goog": 21843,
    "imagenet-22k-ms": 21842,
}


@dataclass(frozen=True)
class Classes:
    """A list of classes: WordNet ids and synonyms, the name in general use first, by row."""

    wnids: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every row. Where two rows of a short list share one, their WordNet ids tell them apart."""
        first = [names[0] for names in self.synonyms]
        count = Counter(first)
        if len(first) > LISTS["imagenet-1k"]:
            return tuple(first)
        return tuple(
            f"{name} ({wnid})" if count[name] > 1 else name for name, wnid in zip(first, self.wnids, strict=True)
        )

    def rows_of(self, text: str) -> set[int]:
        """The rows that a label can mean: its WordNet id, else its whole text or any of its synonyms."""
        wnid = wordnet_id(text)
        if wnid is not None:
            return self._by_text.get(wnid, set())
        return self._by_text.get(plain(text), set())

    @cached_property
    def _by_text(self) -> dict[str, set[int]]:
        rows: dict[str, set[int]] = {}
        for row, (wnid, names) in enumerate(zip(self.wnids, self.synonyms, strict=True)):
            for text in {wnid, plain(", ".join(names)), *map(plain, names)}:
                rows.setdefault(text, set()).add(row)
        return rows


@lru_cache(4)
def timm_list(name: str) -> Classes:
    """One of LISTS."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(name)
    wnids = tuple(info.label_names())
    texts = [info.label_name_to_description(wnid) for wnid in wnids]
    return Classes(wnids, tuple(tuple(word.strip() for word in text.split(",")) for text in texts))


def list_of_size(rows: int) -> str | None:
    """The name of the list that heads of so many rows are trained on, if any."""
    return next((name for name, size in LISTS.items() if size == rows), None)


def labels_say(rows: int, labels: Iterable[str]) -> str | None:
    """The list of this size in which every one of the labels stands, if there are any labels."""
    name, labels = list_of_size(rows), list(labels)
    if name is None or not labels:
        return None
    classes = timm_list(name)
    return name if all(classes.rows_of(label) for label in labels) else None


def tag_says_imagenet(tag: object) -> bool:
    """Whether a tag of weights, such as timm's 'augreg_in21k_ft_in1k', says that they were trained on ImageNet."""
    return isinstance(tag, str) and re.search(r"(?:^|_)in\d+k(?:_|$)|imagenet", tag) is not None


def ids_by_place(names: Sequence[str]) -> tuple[str | None, ...] | None:
    """WordNet ids of rows whose names stand in the order of one of timm's lists.

    Half of the names must stand at their place, since others than timm's are in use (CLIP's); a row whose name is
    another row's gets no id.
    """
    size = list_of_size(len(names))
    if size is None:
        return None
    wnids, meant = timm_list(size).wnids, [timm_list(size).rows_of(name) for name in names]
    if sum(row in rows for row, rows in enumerate(meant)) * 2 < len(names):
        return None
    return tuple(
        wnid if not rows or row in rows else None for row, (wnid, rows) in enumerate(zip(wnids, meant, strict=True))
    )


def ids_by_name(names: Sequence[str]) -> tuple[str, ...] | None:
    """WordNet ids of rows in an order of their own, where every name is one ImageNet class's alone."""
    classes = timm_list("imagenet-1k")
    meant = [classes.rows_of(name) for name in names]
    if not names or not all(len(rows) == 1 for rows in meant) or len({*map(tuple, meant)}) < len(names):
        return None
    return tuple(classes.wnids[next(iter(rows))] for rows in meant)
