"""All that an index holds of one neuron, and what its value vector says about every class.

card = index.neuron("blocks.4.mlp.fc1", 473)
card.thresholds.q99, card.classes, card.exemplars     # a notebook shows the card as a picture
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import pandas as pd

from ..lookups.neuron import classes_of
from ..stored.stored_index import StoredIndex

if TYPE_CHECKING:
    from PIL import Image

THRESHOLDS = ["q001", "q50", "q90", "q99", "q995", "q999"]


@dataclass(frozen=True)
class NeuronCard:
    """One neuron.

    statistics: pre_mean, pre_std, post_mean, positive_share, value_norm, dead; thresholds: its quantiles over all
    patches of all images; exemplars, classes: tables as Index.exemplars and Index.classes_of give them (classes is
    empty where there is no value vector or no head); descriptions, generated: its rows of the notes.
    """

    layer: str
    unit: int
    block: int
    statistics: pd.Series
    thresholds: pd.Series
    exemplars: pd.DataFrame
    classes: pd.DataFrame
    descriptions: pd.DataFrame
    generated: pd.DataFrame
    index: StoredIndex = field(repr=False)

    def picture(self) -> Image.Image:
        """Its exemplars with their maps, its classes and what it was called; generated images come last.

        Raises QueryError where the index stores no inputs.
        """
        from .contact_sheets import card_picture

        return card_picture(self)

    def _repr_png_(self) -> bytes | None:
        if not self.index.spec.inputs:  # then the notebook falls back on the text
            return None
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


def neuron(index: StoredIndex, layer: str, unit: int, k: int = 10) -> NeuronCard:
    """A neuron's card, with its k top exemplars and k loudest classes. Raises QueryError where there is no such one."""
    spec = index.neuron_layer(layer, unit)
    of = "WHERE layer = ? AND unit = ?"
    row = index.look_up(f"SELECT * EXCLUDE (layer, unit) FROM neurons {of}", [layer, unit]).iloc[0]
    descriptions, generated = (
        index.look_up(f"SELECT * EXCLUDE (layer, unit) FROM {table} {of} ORDER BY {order}", [layer, unit])
        for table, order in (("descriptions", "source"), ("generated", "id"))
    )
    said = spec.kind == "hidden" and index.spec.classes > 0
    classes = classes_of(index, layer, unit, k) if said else pd.DataFrame()
    return NeuronCard(
        layer,
        unit,
        spec.block,
        statistics=row.drop(THRESHOLDS),
        thresholds=row[THRESHOLDS],
        exemplars=index.exemplars(layer, unit, k),
        classes=classes,
        descriptions=descriptions,
        generated=generated,
        index=index,
    )
