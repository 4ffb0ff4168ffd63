"""Names that people give: neurons, classes, images; and the nearest where there is none."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ...schemas.class_text import plain
from ...schemas.errors import QueryError

if TYPE_CHECKING:  # it takes long to import
    import pandas as pd


class Neuron(NamedTuple):
    """A neuron of an index; prints as LAYER:UNIT, unpacks as layer, unit."""

    layer: str
    unit: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.unit}"

    @classmethod
    def of(cls, neuron: NeuronLike) -> Neuron:
        """A neuron from itself, from 'LAYER:UNIT' or from (layer, unit). Raises QueryError for any other text."""
        if not isinstance(neuron, str):
            return cls(str(neuron[0]), int(neuron[1]))
        layer, colon, unit = neuron.rpartition(":")
        block = layer if layer.isdecimal() else ""
        if block or not (layer and colon and unit.isdecimal()):
            raise QueryError(f"'{neuron}' is no LAYER:UNIT", f"Write it like blocks.{block or 7}.mlp.fc1:2014.")
        return cls(layer, int(unit))


NeuronLike = Neuron | tuple[str, int] | str  # the text is LAYER:UNIT


def at_least(least: int, **counts: int) -> None:
    """Raise QueryError where a number that is asked for is too small."""
    for name, count in counts.items():
        if count < least:
            raise QueryError(f"{name} is {count}; at least {least}")


@dataclass(frozen=True)
class ClassTable:
    """The classes of an index by what people call them, from a table of class_id, wnid, name."""

    table: pd.DataFrame

    @cached_property
    def _rows(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Rows by name and WordNet id as written, and by name without case."""
        exact: dict[str, list[int]] = {}
        loose: dict[str, list[int]] = {}
        for row, wnid, name in self.table.itertuples(index=False):
            for word in {name, wnid} - {None}:
                exact.setdefault(word, []).append(row)
            loose.setdefault(plain(name), []).append(row)
        return exact, loose

    def row(self, class_: str | int) -> int:
        """The row of a class: a number is a row; a text is a name, else a WordNet id, else a number.

        Raises QueryError where there is no such class, or several, with the nearest names.
        """
        if not isinstance(class_, str):
            return self._numbered(int(class_))
        exact, loose = self._rows
        rows = exact.get(class_) or loose.get(plain(class_)) or exact.get(class_.strip().lower(), [])
        if len(rows) > 1:
            of = self.table.iloc[rows]
            several = ", ".join((of.class_id.astype(str) + " (" + of.wnid.fillna(of.name) + ")").tolist())
            raise QueryError(f"several classes are named '{class_}'", f"Give a number: {several}.")
        if rows:
            return rows[0]
        if class_.strip().lstrip("-").isdecimal():
            return self._numbered(int(class_))
        raise QueryError(f"no class '{class_}'", nearest(class_, self.table.name.tolist()))

    def other_meaning(self, class_: str, row: int) -> str | None:
        """What a name that is a number could also mean: the class of that number, if it is another one."""
        word = class_.strip()
        if not word.isdecimal() or int(word) == row or int(word) >= len(self.table):
            return None
        return str(self.table.name.iloc[int(word)])

    def _numbered(self, row: int) -> int:
        if not 0 <= row < len(self.table):
            raise QueryError(f"no class {row}", f"Classes count from 0 to {len(self.table) - 1}.")
        return row


def nearest(word: str, names: list[str]) -> str:
    """A remedy: the names most like a word that is none of them."""
    lower = {name.casefold(): name for name in reversed(names)}
    close = [lower[n] for n in difflib.get_close_matches(word.casefold(), list(lower), 3, 0.3)] or names[:3]
    return f"Did you mean {' or '.join(close)}?"
