"""Who a head's rows are, and which class an image belongs to."""

from __future__ import annotations

from dataclasses import dataclass


def match_labels(labels: set[str | None], names: ClassNames | None) -> dict[str | None, int]:
    """class_id of each folder label: by WordNet id, else by name (case, '_' and ' ' alike)."""
    if names is None:
        return {}
    known = {plain_name(n): i for i, n in reversed(list(enumerate(names.names)))}
    known |= {plain_name(w): i for i, w in enumerate(names.wnids or ())}
    return {label: known[plain_name(label)] for label in labels if label is not None and plain_name(label) in known}


def plain_name(name: str) -> str:
    return name.strip().lower().replace("_", " ")


@dataclass(frozen=True)
class ClassNames:
    """Names of the head's classes in row order, WordNet ids where they are known, and where they come from."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None
    origin: str
