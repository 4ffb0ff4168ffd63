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

from ..schemas.errors import QueryError
from .index import Index

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
    index: Index = field(repr=False)

    def picture(self) -> Image.Image:
        """Its exemplars with their maps, its classes and what it was called; generated images come last.

        Raises QueryError where the index stores no inputs.
        """
        from .contact import card_picture

        return card_picture(self)

    def _repr_png_(self) -> bytes | None:
        if not self.index.spec.inputs:  # then the notebook falls back on the text
            return None
        buffer = BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


def neuron(index: Index, layer: str, unit: int, k: int = 10) -> NeuronCard:
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


def classes_of(index: Index, layer: str, unit: int, k: int = 10) -> pd.DataFrame:
    """The k classes that a neuron's value vector says loudest, by score.

    Columns: rank, class_id, class, wnid, score, cosine, probability (over all classes) and folded, as in class_scores;
    folded is NaN where it is not defined. One product with the stored head instead of a search through all scores.
    Raises QueryError for an unknown neuron, one without a value vector, and an index without a head.
    """
    spec = index.neuron_layer(layer, unit)
    if spec.kind != "hidden":
        raise QueryError(f"{layer} holds coordinates of the stream, which have no value vectors", "Name an fc1 layer.")
    if not index.spec.classes or "value_vectors" not in index.chunks.specs:
        raise QueryError("this index has no head, so no class scores", "Index again with --head FILE.")
    head = index.chunks.chunk("head").view(np.float32)
    place = [s.name for s in index.spec.layers if s.kind == "hidden"].index(layer)
    vector = index.chunks.cell("value_vectors", place, unit).view(np.float32)
    score = np.einsum("cd,d->c", head, vector)  # a BLAS call may wait for other processes longer than it works
    share = np.exp(score - score.max())
    table = index.classes.rename(columns={"name": "class"})[["class_id", "class", "wnid"]].assign(
        score=score,
        cosine=score / (np.linalg.norm(head, axis=1) * np.linalg.norm(vector)),
        probability=share / share.sum(),
        folded=np.nan,
    )
    if "folded_vectors" in index.chunks.specs:
        table["folded"] = np.einsum("cd,d->c", head, index.chunks.cell("folded_vectors", place, unit).view(np.float32))
    first = table.sort_values("score", ascending=False, kind="stable").head(k).reset_index(drop=True)
    first.insert(0, "rank", range(1, len(first) + 1))
    return first
