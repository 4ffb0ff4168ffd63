"""All that an index holds of one neuron, and what its value vector says about every class.

card = index.neuron("blocks.4.mlp.fc1", 473)
card.thresholds.q99, card.classes, card.exemplars     # a notebook shows the card as a picture
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.shown_text import shortened
from ..lookups.neuron import classes_of
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex

if TYPE_CHECKING:
    from PIL import Image

MOST_SAID, LETTERS = 10, 300  # descriptions on a picture, and letters of each
THRESHOLDS = ["q001", "q50", "q90", "q99", "q995", "q999"]


@dataclass(frozen=True)
class NeuronCard:
    """One neuron.

    statistics: pre_mean, pre_std, post_mean, positive_share, value_norm, dead; thresholds: its quantiles over all
    patches of all images; exemplars, classes: tables as Index.exemplars and Index.classes_of give them (classes is
    empty where there is no value vector or no head); descriptions, generated: its rows of the notes; effects: rows of
    class_effects, the classes first that lose most without it (empty where none were measured).
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
    effects: pd.DataFrame
    index: StoredIndex = field(repr=False)

    def picture(self) -> Image.Image:
        """Its exemplars with their maps, its classes and what it was called; generated images come last.

        Raises QueryError where the index stores no inputs.
        """
        return _picture(self)

    def _repr_png_(self) -> bytes | None:
        if not self.index.spec.inputs:  # then the notebook falls back on the text
            return None
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


def _picture(card: NeuronCard) -> Image.Image:
    """The exemplars of a neuron under its figures, its classes, its descriptions; generated images below."""
    from PIL import Image

    from ..drawing.contact_sheet import sheet
    from ..drawing.text import number
    from .contact_sheets import exemplars_picture

    s, q = card.statistics, card.thresholds
    notes = [
        f"mean {number(s.pre_mean)}, deviation {number(s.pre_std)}, 0.99 quantile {number(q.q99)}, "
        f"positive on {s.positive_share:.1%} of patches" + (", dead" if s.dead else "")
    ]
    if len(card.classes):
        first = card.classes.head(5)
        notes.append("says " + ", ".join(f"{c} {number(v)}" for c, v in zip(first["class"], first.score, strict=True)))
    if len(card.effects):
        first = card.effects.head(5)
        told = ", ".join(f"{c} {number(v)}" for c, v in zip(first["class"], first.effect, strict=True))
        notes.append(f"without it lose (logits) {told}")
    said = card.descriptions.head(MOST_SAID).itertuples(index=False)
    notes += [shortened(f"{row.source}: {row.description}", LETTERS) for row in said]
    made, ratios, unseen = _generated(card)
    found = exemplars_picture(card.index, Neuron(card.layer, card.unit), card.exemplars, [*notes, *unseen])
    if not made:
        return found
    below = sheet(np.stack(made), ratios, ["generated"])
    whole = Image.new("RGB", (max(found.width, below.width), found.height + below.height), "white")
    whole.paste(found, (0, 0))
    whole.paste(below, (0, found.height))
    return whole


def _generated(card: NeuronCard) -> tuple[list[NDArray[np.uint8]], list[list[str]], list[str]]:
    """The first generated images of a neuron, what stands below each, and why others cannot be shown."""
    from ..drawing.contact_sheet import CELL, COLUMNS, resized
    from ..drawing.text import number
    from ..notes.generated_images import read_picture

    _, *size = card.index.spec.preprocessing["input_size"]
    pictures, ratios, unseen = [], [], []
    rows = card.generated.dropna(subset="id").drop_duplicates("id").head(COLUMNS)
    for generated_id, ratio in zip(rows.id.astype(int).tolist(), rows.ratio.tolist(), strict=True):
        try:
            pictures.append(resized(read_picture(card.index.layout, generated_id, size), (CELL, CELL)))
            ratios.append([f"ratio {number(ratio)}"])
        except QueryError as error:
            unseen.append(str(error))
    return pictures, ratios, unseen


def neuron(index: StoredIndex, layer: str, unit: int, k: int = 10) -> NeuronCard:
    """All that an index holds of one neuron.

    Args:
        layer: such as 'blocks.4.mlp.fc1'; unit: the neuron in it.
        k: top exemplars, and loudest classes.

    Returns:
        A NeuronCard; a notebook shows it as a picture.

    Raises:
        QueryError: no such neuron.

    Example:
        >>> neuron(index, "blocks.4.mlp.fc1", 473).picture().save("card.png")
    """
    at_least(1, k=k)
    spec = index.neuron_layer(layer, unit)
    of = "WHERE layer = ? AND unit = ?"
    row = index.look_up(f"SELECT * EXCLUDE (layer, unit) FROM neurons {of}", [layer, unit]).iloc[0]
    descriptions, generated = (
        index.look_up(f"SELECT * EXCLUDE (layer, unit) FROM {table} {of} ORDER BY {order}", [layer, unit])
        for table, order in (("descriptions", "source"), ("generated", "id"))
    )
    effects = pd.DataFrame()
    if index.effects is not None and layer in index.effects.spec.layers:
        effects = index.look_up(
            "SELECT class_id, class, e.* EXCLUDE (layer, unit, class_id) FROM class_effects e "
            f"JOIN classes USING (class_id) {of} ORDER BY effect DESC LIMIT ?",
            [layer, unit, k],
        )
    said = spec.has_value_vectors and index.spec.classes > 0
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
        effects=effects,
        index=index,
    )
