"""Descriptions of neurons that another tool has written, into the notes beside an index."""

from __future__ import annotations

from pathlib import Path

from ..notes.descriptions import keep_descriptions, read_descriptions
from ..stored.stored_index import StoredIndex


def import_descriptions(index: StoredIndex, file: str | Path, source: str, note: str | None = None) -> int:
    """Put a CSV's descriptions into the table `descriptions`; all of them or none.

    Args:
        file: a CSV of layer, unit, description.
        source: whose they are; they replace what the same source said before.
        note: what made them, such as the tool's version and settings.

    Returns:
        How many there are.

    Raises:
        QueryError: a file of another form, neurons that the index does not have or that come twice.

    Example:
        >>> import_descriptions(index, "milan.csv", source="milan")
    """
    rows = read_descriptions(file, index.spec.layers)
    keep_descriptions(index.layout, rows, source, note)
    return len(rows)
