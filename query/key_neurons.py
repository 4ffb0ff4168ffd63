"""The key neurons of one class: rows of the view key_neurons, without the view.

Planning the view's joins takes DuckDB longer than reading a class's rows. Two plain look-ups, each in one of the
tables that are sorted by class, do the same in a third of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .index import Index

KEY_RANKINGS = ("score", "probability", "cosine", "folded", "contribution")
SCORES = ("score", "cosine", "probability", "folded", "rank_in_class", "rank_in_layer", "rank_in_unit")
ACTIVATIONS = ("n", "mean_max", "mean", "post_mean", "cls_post_mean", "contribution", "auroc")
COUNTS = ("rank_in_class", "rank_in_layer", "rank_in_unit", "n")


def key_neurons(index: Index, class_id: int, k: int, by: str, layer: str | None) -> pd.DataFrame:
    """The k neurons with the largest `by`, with `rank` and all columns of key_neurons; the names are known to exist."""
    first, second = SCORES, ACTIVATIONS
    if by in ACTIVATIONS:
        first, second = second, first
    best = index.db.execute(  # both tables are stored by class, block and unit: a tie goes to the earlier row
        f"SELECT layer, unit, {', '.join(first)} FROM {_table(first)} WHERE class_id = ? AND {by} IS NOT NULL "
        f"AND (? IS NULL OR layer = ?) ORDER BY {by} DESC, rowid LIMIT ?",
        [class_id, layer, layer, int(k)],
    ).fetchall()
    rest = index.db.execute(
        f"SELECT layer, unit, {', '.join(second)} FROM {_table(second)} WHERE class_id = ? AND list_contains(?, unit)",
        [class_id, [unit for _, unit, *_ in best]],
    ).fetchall()
    of = {(layer, unit): values for layer, unit, *values in rest}
    rows = [
        dict(zip((*first, *second), (*values, *of.get((name, unit), ())), strict=False)) for name, unit, *values in best
    ]
    blocks = {spec.name: spec.block for spec in index.spec.layers}
    of_class = index.classes.iloc[class_id]
    columns: dict[str, Any] = {
        "rank": range(1, len(best) + 1),
        "class_id": class_id,
        "class": of_class["name"],
        "wnid": of_class.wnid,
        "layer": [layer for layer, *_ in best],
        "block": [blocks[layer] for layer, *_ in best],
        "unit": [unit for _, unit, *_ in best],
    }
    for name in (*SCORES, *ACTIVATIONS):
        values = [row.get(name) for row in rows]
        columns[name] = values if name in COUNTS else np.array(values, np.float32)
    return pd.DataFrame(columns)


def _table(columns: tuple[str, ...]) -> str:
    return "class_scores" if columns is SCORES else "class_activations"
