"""A class told by its key neurons: in which blocks they sit, what they do on its images, with whom it shares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...schemas.errors import QueryError
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import Ranking, first_neurons, key_neurons
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex

TOPS = (1, 3, 10)


def class_blocks(index: StoredIndex, tops: Sequence[int] = TOPS, by: Ranking | None = None) -> pd.DataFrame:
    """In which blocks the classes' first neurons sit, one row a number of neurons and block.

    Args:
        tops: numbers of neurons, such as the first 1, 3 and 10 of each class.
        by: ranks key neurons, see key_neurons.

    Returns:
        Columns top, block, neurons (pairs of a class and one of its `top` neurons), share (of all such pairs), chance
        (the block's share of all neurons).

    Raises:
        QueryError: as first_neurons.

    Example:
        >>> class_blocks(index, (1,)).set_index("block").share
    """
    ranked = first_neurons(index, max(tops), by)
    layers = index.ranked_layers
    units = pd.Series([s.units for s in layers], [s.block for s in layers]).groupby(level=0).sum()
    every = units.index
    frames = []
    for top in tops:
        counts = ranked[ranked["rank"] <= top].groupby("block").size().reindex(every, fill_value=0)
        frames.append(pd.DataFrame({"top": top, "block": every, "neurons": counts.to_numpy()}))
        frames[-1]["share"] = frames[-1].neurons / counts.sum()
        frames[-1]["chance"] = (units / units.sum()).to_numpy()
    return pd.concat(frames, ignore_index=True)


def carried_by_first(index: StoredIndex, k: int = 10, by: Ranking | None = None) -> pd.DataFrame:
    """How much the first neuron of a class carries against the next, one row a class and rank.

    Args:
        k: neurons of each class.
        by: ranks key neurons, see key_neurons.

    Returns:
        Columns class_id, class, rank, layer, block, unit, value (of `by`), of_first (value / the first neuron's),
        contribution (mean on the class's images, logits) and of_positive: its share of the sum of all the class's
        positive contributions (NaN where contributions are not defined).

    Raises:
        QueryError: as first_neurons.

    Example:
        >>> carried_by_first(index, 3).query("rank == 1").of_positive.median()
    """
    at_least(1, k=k)
    ranked = first_neurons(index, k, by)
    sums = index.sql(
        "SELECT class_id, sum(contribution) FILTER (contribution > 0) AS positive FROM class_activations "
        "GROUP BY class_id"
    )
    ranked = ranked.merge(sums, "left", "class_id").sort_values(["class_id", "rank"], ignore_index=True)
    first = ranked.groupby("class_id").value.transform("first")
    return ranked.assign(
        of_first=ranked.value / first, of_positive=ranked.contribution / ranked.positive.astype(float)
    ).drop(columns="positive")


def activations_of_class(index: StoredIndex, class_: str | int, k: int = 10, by: Ranking | None = None) -> pd.DataFrame:
    """A class's top k neurons of each block and of all blocks: their mean activation on its images against all others.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        k: neurons of each block.
        by: ranks key neurons, see key_neurons.

    Returns:
        Columns blocks ('all', or the block's number, with 'attention' after it for its attention units), rank, layer,
        block, unit, auroc (of the largest patch), n and n_others (images of the class and of all other classes); for
        each of mean_max (largest patch), mean (of the patches), post_mean (after the nonlinearity) and cls_post_mean
        (on the CLS token) its mean over the class's images and `_others`, its mean over the images of all other
        classes; and max_25, max_75 with their `_others`, the quantiles 0.25 and 0.75 of the images' largest patches.

    Raises:
        QueryError: no class scores or no labelled images.

    Example:
        >>> activations_of_class(index, "coin", k=3)
    """
    at_least(1, k=k)
    class_id = index.class_id(class_)
    frames = [key_neurons(index, class_id, k, by).assign(blocks="all")]
    for spec in index.ranked_layers:
        blocks = f"{spec.block} attention" if spec.kind == "attention" else str(spec.block)
        frames.append(key_neurons(index, class_id, k, by, spec.name).assign(blocks=blocks))
    top = pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)
    if top.empty or top.mean_max.isna().all():
        raise QueryError(
            f"no neuron of class '{index.class_name(class_id)}' has both a {by} and images",
            "It needs a head and labels.",
        )
    kinds = ("mean_max", "mean", "post_mean", "cls_post_mean")
    means = ", ".join(f"sum({a} * n) / sum(n) AS {a}_others" for a in kinds) + ", sum(n)::BIGINT AS n_others"
    units = [f"{layer} {unit}" for layer, unit in top[["layer", "unit"]].drop_duplicates().itertuples(index=False)]
    others = index.sql(
        f"SELECT layer, unit, {means} FROM class_activations "
        "WHERE class_id <> ? AND list_contains(?, layer || ' ' || unit) GROUP BY layer, unit",
        [class_id, units],
    )
    columns = ["blocks", "rank", "layer", "block", "unit", "auroc", "n", "n_others"]
    pairs = [name for kind in kinds for name in (kind, f"{kind}_others")]
    table = top.merge(others, "left", ["layer", "unit"])[columns + pairs]
    return pd.concat([table, _spread(index, table, class_id)], axis=1)


def _spread(index: StoredIndex, neurons: pd.DataFrame, class_id: int) -> pd.DataFrame:
    """Of each neuron's largest patches, over the class's images and the others: the quantiles 0.25 and 0.75."""
    images = labelled_images(index)
    ids, own = images.image_id.to_numpy(), (images.class_id == class_id).to_numpy()
    rows = {}
    for layer, unit in neurons[["layer", "unit"]].drop_duplicates().itertuples(index=False):
        largest = index.reader.cell(f"{layer}/max_by_neuron", int(unit))[ids]
        rows[layer, unit] = [
            float(np.quantile(largest[some], q)) if some.any() else np.nan for some in (own, ~own) for q in (0.25, 0.75)
        ]
    spread = [rows[neuron] for neuron in zip(neurons.layer, neurons.unit, strict=True)]
    return pd.DataFrame(spread, neurons.index, ["max_25", "max_75", "max_25_others", "max_75_others"])
