"""The key neurons of a class: the one place that ranks them.

    key_neurons(index, "coin", k=10)                          # by contribution, where the index has it
    key_neurons(index, "coin", k=10, by="score")              # the first study's ranking
    first_neurons(index, k=1)                                 # of every class

`score` and `probability` are of the value vector as stored: they leave out LayerScale and the final norm, and with them
what a neuron can do at all. `folded` has both in it, `contribution` also what the neuron does on the class's images. So
where no ranking is asked for it is contribution, else folded, else score (`default_ranking`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ...schemas.errors import STRANGE, DamagedIndex, QueryError
from ...schemas.run_spec import READOUTS
from ..stored.effects import StoredEffects, no_effects
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex

Ranking = Literal["score", "probability", "cosine", "folded", "contribution", "auroc", "effect"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
SCORES = ("score", "cosine", "probability", "folded", "rank_in_class", "rank_in_layer", "rank_in_unit")
ACTIVATIONS = ("n", "mean_max", "mean", "post_mean", "cls_post_mean", "contribution", "auroc")
EFFECTS = (
    "effect", "effect_se", "direct", "through_norm", "indirect",
    "effect_subject", "effect_background", "effect_prefix", "subject_share", "rank_by_effect",
)  # fmt: skip
TABLES = {SCORES: "class_scores", ACTIVATIONS: "class_activations", EFFECTS: "vitdex_effects.main.class_effects"}
COUNTS = ("rank_in_class", "rank_in_layer", "rank_in_unit", "n", "rank_by_effect")
SIBLINGS = 5


def needs_head(index: StoredIndex) -> None:
    """Raise QueryError where the index has no class scores."""
    if not index.spec.classes:
        raise QueryError("this index has no class scores: its model has no head", "Index again with --head FILE.")


def needs_neurons(index: StoredIndex) -> None:
    """Raise QueryError where the index holds no neurons of MLPs."""
    if not index.hidden_layers:
        raise QueryError("this index holds no neurons of MLPs", "Index again with --layer fc1.")


def needs_effects(index: StoredIndex) -> StoredEffects:
    """The effects that `vitdex effects` has added. Raises QueryError where it has not."""
    if index.effects is None:
        raise no_effects(index.layout)
    return index.effects


def default_ranking(index: StoredIndex, class_: str | int | None = None) -> Ranking:
    """How neurons are ranked where nobody says: by contribution, else folded, else score.

    Args:
        class_: the class that is asked about; None for all. Contributions need images of the class, and of all classes
            only where each of them has some.

    Returns:
        'contribution', 'folded' or 'score'.

    Raises:
        QueryError: an unknown class.

    Example:
        >>> default_ranking(index, "coin")
        'contribution'
    """
    if index.spec.readout not in READOUTS:
        return "score"
    if class_ is None:
        query, found = "SELECT count(DISTINCT class_id) AS n FROM images WHERE crop IS NOT NULL", index.spec.classes
        return "contribution" if index.look_up(query, []).n[0] == found else "folded"
    query = "SELECT count(*) AS n FROM images WHERE class_id = ? AND crop IS NOT NULL"
    return "contribution" if index.look_up(query, [index.class_id(class_)]).n[0] else "folded"


def chosen_ranking(index: StoredIndex, by: Ranking | None, class_: str | int | None = None) -> Ranking:
    """A ranking that was asked for, or the default. Raises QueryError without a head, and for an unknown ranking."""
    needs_head(index)
    if by is None:
        return default_ranking(index, class_)
    if by not in RANKINGS:
        raise QueryError(f"no ranking by '{by}'", f"One of {', '.join(RANKINGS)}.")
    if by == "effect":
        needs_effects(index)
    return by


def key_neurons(
    index: StoredIndex,
    class_: str | int,
    k: int = 10,
    by: Ranking | None = None,
    layer: str | None = None,
    *,
    louder_elsewhere: bool = False,
) -> pd.DataFrame:
    """A class's k neurons with the largest `by`, best first; ties go to the earlier block, then unit.

    Plain look-ups, each in one of the tables that are sorted by class, take a third of the time of the view.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        k: how many.
        by: 'contribution', 'folded', 'score', 'probability', 'cosine'; 'auroc', which tells the class's images apart
            and knows no value vector; 'effect', where `vitdex effects` has added it; None: see default_ranking.
        layer: only neurons of this layer.
        louder_elsewhere: only neurons whose value vector says another class louder.

    Returns:
        `rank` and the columns of the view key_neurons; `attrs["by"]` names the ranking.

    Raises:
        QueryError: no head, an unknown class, layer or ranking, or nothing that is ranked by it.

    Example:
        >>> key_neurons(index, "coin", k=3)[["layer", "unit", "contribution"]]
    """
    at_least(1, k=k)
    class_id = index.class_id(class_)
    by = chosen_ranking(index, by, class_id)
    if layer is not None:
        index.neuron_layer(layer, 0)
    columns = _ranked(index, class_id, k, by, layer, louder_elsewhere)
    if not len(columns["layer"]):
        need = "It needs images of the class and a head that is read."
        if by not in ACTIVATIONS:
            need = "Effects are of other images." if by == "effect" else "Choose another --by."
        name = index.class_name(class_id)
        raise QueryError(f"this index ranks no such neuron by {by} for class '{name}'", need)
    table = pd.DataFrame(columns)
    table.attrs["by"] = by
    return table


def _ranked(
    index: StoredIndex, class_id: int, k: int, by: Ranking, layer: str | None, louder_elsewhere: bool
) -> dict[str, Any]:
    """Columns of the first k rows, from the table that ranks and then from the other."""
    first = next(columns for columns in TABLES if by in columns)
    best = _first_rows(index, class_id, k, by, first, layer, louder_elsewhere)
    rows = [dict(zip(first, values, strict=True)) for _, _, *values in best]
    others = [columns for columns in TABLES if columns != first and (columns != EFFECTS or index.effects is not None)]
    for columns in others:
        rest = index.tables.rows(
            f"SELECT layer, unit, {', '.join(columns)} FROM {TABLES[columns]} "
            "WHERE class_id = ? AND list_contains(?, unit)",
            [class_id, [unit for _, unit, *_ in best]],
        )
        of = {(layer, unit): values for layer, unit, *values in rest}
        for row, (name, unit, *_) in zip(rows, best, strict=True):
            row.update(zip(columns, of.get((name, unit), ()), strict=False))
    blocks = {spec.name: spec.block for spec in index.spec.layers}
    of_class = index.classes.iloc[class_id]
    made: dict[str, Any] = {
        "rank": range(1, len(best) + 1),
        "class_id": class_id,
        "class": of_class["name"],
        "wnid": of_class.wnid,
        "layer": [layer for layer, *_ in best],
        "block": [blocks[layer] for layer, *_ in best],
        "unit": [unit for _, unit, *_ in best],
    }
    for name in (name for columns in TABLES if columns in (first, *others) for name in columns):
        values = [row.get(name) for row in rows]
        made[name] = values if name in COUNTS else np.array(values, np.float32)
    return made


def _must_be_there(index: StoredIndex, columns: tuple[str, ...], layer: Any, unit: Any) -> None:
    """Raise DamagedIndex where a table names a neuron that the index does not have: a stranger wrote it."""
    units = {spec.name: spec.units for spec in index.spec.layers}.get(layer, 0)
    if unit is None or unit >= units:
        table = TABLES[columns].rsplit(".", 1)[-1]
        remedy = index.effects.layout.remedy if columns is EFFECTS and index.effects else STRANGE
        raise DamagedIndex(f"the table {table} names neuron {layer}:{unit}, which the index does not have", remedy)


def _first_rows(
    index: StoredIndex,
    class_id: int,
    k: int,
    by: Ranking,
    columns: Sequence[str],
    layer: str | None = None,
    louder_elsewhere: bool = False,
) -> list[tuple[Any, ...]]:
    """layer, unit and `columns` of the first k rows, all from the table that ranks."""
    elsewhere = (
        "AND (layer, unit) IN (SELECT (layer, unit) FROM class_scores WHERE class_id = $1 AND rank_in_unit > 1) "
        if louder_elsewhere
        else ""
    )
    # coordinates of the stream have an auroc as well
    neurons = "AND layer IN (SELECT layer FROM layers WHERE kind <> 'residual') " if by == "auroc" else ""
    ranking = next(names for names in TABLES if by in names)
    rows = index.tables.rows(  # the tables are stored by class, block and unit: a tie goes to the earlier row
        f"SELECT layer, unit, {', '.join(columns)} FROM {TABLES[ranking]} WHERE class_id = $1 AND {by} IS NOT NULL "
        f"AND ($2 IS NULL OR layer = $2) {neurons}{elsewhere}ORDER BY {by} DESC, rowid LIMIT $3",
        [class_id, layer, int(k)],
    )
    for name, unit, *_ in rows:
        _must_be_there(index, ranking, name, unit)
    return rows


def ranked_values(index: StoredIndex, class_id: int, k: int, by: Ranking) -> list[tuple[Neuron, float]]:
    """The neurons of key_neurons and their values of the ranking, without its other columns: empty where it has none.

    Raises QueryError as chosen_ranking.
    """
    rows = _first_rows(index, class_id, k, chosen_ranking(index, by), (by,))
    return [(Neuron(layer, unit), value) for layer, unit, value in rows]


def named(table: pd.DataFrame) -> list[Neuron]:
    """The neurons of a table of layer and unit, in its order."""
    return [Neuron(str(layer), int(unit)) for layer, unit in zip(table.layer, table.unit, strict=True)]


def first_neurons(index: StoredIndex, k: int = 1, by: Ranking | None = None) -> pd.DataFrame:
    """The first k neurons of every class.

    Args:
        k: how many of each class.
        by: as in key_neurons.

    Returns:
        Columns of the view key_neurons, with rank and value (of `by`), by class and rank; `attrs["by"]` names the
        ranking. Classes without a value of `by` have no rows.

    Raises:
        QueryError: no head, an unknown ranking, or nothing that is ranked by it.

    Example:
        >>> first_neurons(index).groupby("block").size()
    """
    at_least(1, k=k)
    by = chosen_ranking(index, by)
    table = index.sql(
        f"SELECT row_number() OVER best AS rank, {by} AS value, * FROM key_neurons WHERE {by} IS NOT NULL "
        "WINDOW best AS (PARTITION BY class_id "
        f"ORDER BY {by} DESC, block, unit) QUALIFY rank <= ? ORDER BY class_id, rank",
        [k],
    )
    if table.empty:
        raise QueryError(f"this index ranks no neuron by {by}", "It needs labelled images and a head that is read.")
    table.attrs["by"] = by
    return table


def classes_near(index: StoredIndex, class_id: int) -> list[tuple[int, float]]:
    """The other classes, those first whose rows of the head point most nearly the same way, with the cosines.

    Rows are centred over the classes. Raises QueryError without a head of several classes.
    """
    needs_head(index)
    head = index.reader.whole("head")
    if len(head) < 2:
        raise QueryError("this index has no head with several classes", "Contrast with --contrast features.")
    rows = head - head.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows[class_id]
    near = np.argsort(-cosines, kind="stable")
    return [(int(other), float(cosines[other])) for other in near if other != class_id]


def siblings(index: StoredIndex, class_id: int, own: Sequence[Neuron]) -> list[Neuron]:
    """The top key neurons of the five classes whose rows of the head point most nearly the same way."""
    others = [other for other, _ in classes_near(index, class_id)[:SIBLINGS]]
    neurons = [neuron for other in others for neuron in named(key_neurons(index, other, k=1))]
    return [neuron for neuron in dict.fromkeys(neurons) if neuron not in own]
