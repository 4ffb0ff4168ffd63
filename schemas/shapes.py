"""Whether a value out of JSON has the shape that a type describes: the records' own annotations are the schema."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

LARGEST = 2**63  # that a whole number may be: what fits a column
SHOWN = 40  # letters of a wrong value


def misfit(value: object, kind: Any, place: str) -> str | None:
    """Where a value is not of a kind, as 'PLACE is ..., not ...'; None where it fits.

    Args:
        value: what json.loads gave.
        kind: a type of JSON's, a list, tuple or mapping of kinds, a Literal, a union, a TypedDict or a dataclass. Names
            that a TypedDict or dataclass does not know are left alone: a newer vitdex may have written them.
        place: what the value is called.

    Example:
        >>> misfit({"size": [3, "x"]}, dict[str, list[int]], "run")
        "run.size[1] is 'x', not int"
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return None
    if origin in (Union, types.UnionType):
        faults = [misfit(value, one, place) for one in inner]
        return None if None in faults else faults[0]
    if origin is Literal:
        return None if value in inner and isinstance(value, str) else _not(value, place, f"one of {', '.join(inner)}")
    if is_typeddict(kind) or is_dataclass(kind):
        return _misfit_of_record(value, kind, place)
    if origin in (list, tuple):
        return _misfit_of_list(value, origin, inner, place)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return _not(value, place, "a table of names")
        return _first(misfit(one, inner[1], f"{place}.{name[:SHOWN]}") for name, one in value.items())
    return None if _is_plain(value, kind) else _not(value, place, getattr(kind, "__name__", "nothing"))


def _misfit_of_list(value: object, origin: Any, inner: tuple[Any, ...], place: str) -> str | None:
    if not isinstance(value, list):
        return _not(value, place, "a list")
    if origin is list or inner[-1] is Ellipsis:
        return _first(misfit(one, inner[0], f"{place}[{i}]") for i, one in enumerate(value))
    if len(value) != len(inner):
        return _not(value, place, f"a list of {len(inner)}")
    return _first(misfit(one, kind, f"{place}[{i}]") for i, (one, kind) in enumerate(zip(value, inner, strict=True)))


def _misfit_of_record(value: object, kind: Any, place: str) -> str | None:
    if not isinstance(value, dict):
        return _not(value, place, "a table of names")
    for name, (inner, needed) in _described(kind).items():
        if name not in value:
            if needed:
                return f"{place}.{name} is missing"
        elif fault := misfit(value[name], inner, f"{place}.{name}"):
            return fault
    return None


@cache
def _described(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The names of a TypedDict or dataclass: the kind of each, and whether it must be there."""
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        free = {f.name for f in fields(kind) if (f.default, f.default_factory) != (MISSING, MISSING)}
        return {f.name: (hints[f.name], f.name not in free) for f in fields(kind)}
    free = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    return {name: (get_args(hint)[0] if name in free else hint, name not in free) for name, hint in hints.items()}


def _is_plain(value: object, kind: type) -> bool:
    if isinstance(value, int) and abs(value) >= LARGEST:
        return False
    if isinstance(value, str) and not _is_text(value):
        return False
    if kind is float:
        return type(value) is int or (isinstance(value, float) and math.isfinite(value))
    return type(value) is kind


def _is_text(value: str) -> bool:
    """Whether a text can be written down: JSON may hold halves of letters ('\\ud800')."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first(faults: Any) -> str | None:
    return next((fault for fault in faults if fault), None)


def _not(value: object, place: str, wanted: str) -> str:
    shown = "a list or table" if isinstance(value, list | dict) else repr(value)
    return f"{place} is {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}, not {wanted}"
