"""The key neurons of one class: rows of the view key_neurons, without the view.

Planning the view's joins takes DuckDB longer than reading a class's rows. Two plain look-ups, each in one of the
tables that are sorted by class, do the same in a third of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from .index import Index

KEY_RANKINGS = ("score", "probability", "cosine", "folded", "contribution")
SCORES = ("score", "cosine", "probability", "folded", "rank_in_class", "rank_in_layer", "rank_in_unit")
ACTIVATIONS = ("n", "mean_max", "mean", "post_mean", "cls_post_mean", "contribution", "auroc")


def key_neurons(index: Index, class_id: int, k: int, by: str, layer: str | None) -> pd.DataFrame:
    """The k neurons with the largest `by`, with `rank` and all columns of key_neurons; the names are known to exist."""
    first, second = SCORES, ACTIVATIONS
    if by in ACTIVATIONS:
        first, second = second, first
    best = index.look_up(  # both tables are stored by class, block and unit: a tie goes to the earlier row
        f"SELECT layer, unit, {', '.join(first)} FROM {_table(first)} WHERE class_id = ? AND {by} IS NOT NULL "
        f"AND (? IS NULL OR layer = ?) ORDER BY {by} DESC, rowid LIMIT ?",
        [class_id, layer, layer, k],
    )
    rest = index.look_up(
        f"SELECT layer, unit, {', '.join(second)} FROM {_table(second)} WHERE class_id = ? AND list_contains(?, unit)",
        [class_id, best.unit.tolist()],
    )
    place = {neuron: n for n, neuron in enumerate(zip(rest.layer, rest.unit, strict=True))}
    rows = [place.get(neuron, -1) for neuron in zip(best.layer, best.unit, strict=True)]  # -1: all missing
    rest = rest.reindex(rows).reset_index(drop=True)
    columns = {name: (best if name in first else rest)[name] for name in (*SCORES, *ACTIVATIONS)}
    blocks = {spec.name: spec.block for spec in index.spec.layers}
    of_class = index.classes.iloc[class_id]
    return pd.DataFrame(
        {
            "rank": range(1, len(best) + 1),
            "class_id": class_id,
            "class": of_class["name"],
            "wnid": of_class.wnid,
            "layer": best.layer,
            "block": best.layer.map(blocks),
            "unit": best.unit,
            **columns,
        }
    )


def _table(columns: tuple[str, ...]) -> str:
    return "class_scores" if columns is SCORES else "class_activations"
