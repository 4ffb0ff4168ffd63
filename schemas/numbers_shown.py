"""Numbers as people read them: '1 image', '1,204 images', and the units of what is measured."""

from __future__ import annotations

UNITS = {
    "contribution": "logits",
    "effect": "logits",
    "folded": "logits per 1",
    "percentile": "%",
}


def number_of(count: int, what: str, several: str = "") -> str:
    """How many of what; `several`: its plural, where that is not made by an 's'."""
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"


def first_of(count: int, what: str) -> str:
    """'first neuron', 'first 3 neurons'."""
    return f"first {what}" if count == 1 else f"first {number_of(count, what)}"
