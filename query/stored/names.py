"""Names that people give: neurons, classes, images; and the nearest where there is none."""

from __future__ import annotations

import difflib
from typing import NamedTuple

import pandas as pd

from ...schemas.errors import QueryError


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
        if not (layer and colon and unit.isdecimal()):
            raise QueryError(f"'{neuron}' is no LAYER:UNIT", "Write it like blocks.7.mlp.fc1:2014.")
        return cls(layer, int(unit))


NeuronLike = Neuron | tuple[str, int] | str  # the text is LAYER:UNIT


def at_least(least: int, **counts: int) -> None:
    """Raise QueryError where a number that is asked for is too small."""
    for name, count in counts.items():
        if count < least:
            raise QueryError(f"{name} is {count}; at least {least}")


def plain(name: str) -> str:
    """A name without what people write in several ways."""
    return name.casefold().replace("_", " ").strip()


def class_numbers(classes: pd.DataFrame) -> dict[str, list[int]]:
    """The numbers of the classes of every plain name and WordNet id, from a table of class_id, wnid, name."""
    numbers: dict[str, list[int]] = {}
    for class_id, wnid, name in classes.itertuples(index=False):
        for word in {plain(name), wnid} - {None}:
            numbers.setdefault(word, []).append(class_id)
    return numbers


def find_class(word: str, numbers: dict[str, list[int]], classes: pd.DataFrame) -> int:
    """The number of a class given by name, WordNet id or number. Raises QueryError with the nearest names."""
    named = numbers.get(plain(word)) or numbers.get(word, [])
    if len(named) > 1:
        rows = classes.iloc[named]
        several = ", ".join((rows.class_id.astype(str) + " (" + rows.wnid.fillna(rows.name) + ")").tolist())
        raise QueryError(f"several classes are named '{word}'", f"Give a number: {several}.")
    if named:
        return named[0]
    if word.lstrip("-").isdecimal():
        if not 0 <= int(word) < len(classes):
            raise QueryError(f"no class {word}", f"Classes count from 0 to {len(classes) - 1}.")
        return int(word)
    raise QueryError(f"no class '{word}'", nearest(word, classes.name.tolist()))


def nearest(word: str, names: list[str]) -> str:
    """A remedy: the names most like a word that is none of them."""
    lower = {name.casefold(): name for name in reversed(names)}
    close = [lower[n] for n in difflib.get_close_matches(word.casefold(), list(lower), 3, 0.3)] or names[:3]
    return f"Did you mean {' or '.join(close)}?"
