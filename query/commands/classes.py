"""Which class a word of the command line means."""

from __future__ import annotations

from typing import overload

from ..stored.stored_index import StoredIndex
from .terminal import say


@overload
def chosen_class(index: StoredIndex, word: str) -> int: ...
@overload
def chosen_class(index: StoredIndex, word: str | None) -> int | None: ...
def chosen_class(index: StoredIndex, word: str | None) -> int | None:
    """The row of a class: a name goes before a number, and where the number is another class's that is said."""
    if word is None:
        return None
    row = index.class_id(word)
    other = index.class_table.other_meaning(word, row)
    if other is not None:
        say(f"Note: '{word}' is taken as a name, of class number {row}. For class number {word} give '{other}'.")
    return row
