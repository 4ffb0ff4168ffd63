"""A class told by its key neurons: in which blocks they sit, what they do on its images, with whom it shares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..schemas.errors import QueryError
from .index import Index
from .key_neurons import KEY_RANKINGS

TOPS = (1, 3, 10)


def blocks(index: Index, tops: Sequence[int] = TOPS, by: str = "score") -> pd.DataFrame:
    """In which blocks the classes' first neurons sit, one row a number of neurons and block.

    Columns: top, block, neurons (pairs of a class and one of its `top` neurons), share (of all such pairs).
    """
    ranked = ranking(index, max(tops), by)
    every = index.sql("SELECT DISTINCT block FROM layers WHERE kind = 'hidden' ORDER BY block").block
    frames = []
    for top in tops:
        counts = ranked[ranked["rank"] <= top].groupby("block").size().reindex(every, fill_value=0)
        frames.append(pd.DataFrame({"top": top, "block": every, "neurons": counts.to_numpy()}))
        frames[-1]["share"] = frames[-1].neurons / counts.sum()
    return pd.concat(frames, ignore_index=True)


def carried(index: Index, k: int = 10, by: str = "score") -> pd.DataFrame:
    """How much the first neuron of a class carries against the next, one row a class and rank.

    Columns: class_id, class, rank, layer, block, unit, value (of `by`), of_first (value / the first neuron's),
    contribution (mean on the class's images, logits) and of_positive: its share of the sum of all the class's
    positive contributions (NaN where contributions are not defined).
    """
    ranked = ranking(index, k, by)
    sums = index.sql(
        "SELECT class_id, sum(contribution) FILTER (contribution > 0) AS positive FROM class_activations "
        "GROUP BY class_id"
    )
    ranked = ranked.merge(sums, "left", "class_id").sort_values(["class_id", "rank"], ignore_index=True)
    first = ranked.groupby("class_id").value.transform("first")
    return ranked.assign(
        of_first=ranked.value / first, of_positive=ranked.contribution / ranked.positive.astype(float)
    ).drop(columns="positive")


def activations(index: Index, class_: str | int, k: int = 10, by: str = "score") -> pd.DataFrame:
    """A class's top k neurons of each block and of all blocks: mean activation on its images against all others.

    Columns: blocks ('all', or the block's number), rank, layer, block, unit; and for each of mean_max (largest patch),
    mean (of the patches), post_mean (after the nonlinearity), cls_post_mean (on the CLS token): its mean over the
    class's images and `_others`, its mean over the images of all other classes; auroc of the largest patch.
    Raises QueryError where the index has no class scores or no labelled images.
    """
    class_id = index.class_id(class_)
    hidden = index.sql("SELECT layer, block FROM layers WHERE kind = 'hidden' ORDER BY block")
    frames = [index.key_neurons(class_id, k, by).assign(blocks="all")]
    for layer, block in hidden.itertuples(index=False):
        frames.append(index.key_neurons(class_id, k, by, layer).assign(blocks=str(block)))
    top = pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)
    if top.empty or top.mean_max.isna().all():
        raise QueryError(f"no neuron of class '{class_}' has both a {by} and images", "It needs a head and labels.")
    kinds = ("mean_max", "mean", "post_mean", "cls_post_mean")
    means = ", ".join(f"sum({a} * n) / sum(n) AS {a}_others" for a in kinds)
    units = [f"{layer} {unit}" for layer, unit in top[["layer", "unit"]].drop_duplicates().itertuples(index=False)]
    others = index.sql(
        f"SELECT layer, unit, {means} FROM class_activations "
        "WHERE class_id <> ? AND list_contains(?, layer || ' ' || unit) GROUP BY layer, unit",
        [class_id, units],
    )
    columns = ["blocks", "rank", "layer", "block", "unit", "auroc"]
    pairs = [name for kind in kinds for name in (kind, f"{kind}_others")]
    return top.merge(others, "left", ["layer", "unit"])[columns + pairs]


def shared(index: Index, top: int = 1, by: str = "score") -> pd.DataFrame:
    """Neurons among the `top` of two classes or more: layer, block, unit, n, classes (names, by class number)."""
    ranked = ranking(index, top, by).sort_values(["class_id"])
    groups = ranked.groupby(["layer", "block", "unit"])["class"]
    found = groups.agg(n="size", classes=lambda names: ", ".join(names)).reset_index()
    return found[found.n > 1].sort_values(["n", "block", "unit"], ascending=[False, True, True], ignore_index=True)


def own(index: Index, by: str = "score") -> pd.DataFrame:
    """Whether each class has a neuron of its own, one row a class.

    Columns: class_id, class, its first neuron's layer, block, unit, rank_in_unit (this class among the neuron's, by
    score), also_first_of (other classes with the same first neuron), first_of (neurons whose best class it is, by
    score), own: the first neuron is no other class's first, and says this class loudest.
    """
    first = ranking(index, 1, by)
    names = first.groupby(["layer", "unit"])["class"].agg(list)
    sharing = [names[neuron] for neuron in zip(first.layer, first.unit, strict=True)]
    others = [", ".join(n for n in all_ if n != this) for all_, this in zip(sharing, first["class"], strict=True)]
    alone = np.array([len(all_) == 1 for all_ in sharing])
    best = index.sql("SELECT class_id, count(*) AS first_of FROM class_scores WHERE rank_in_unit = 1 GROUP BY class_id")
    table = first.assign(also_first_of=others, own=alone & (first.rank_in_unit == 1)).merge(best, "left", "class_id")
    table["first_of"] = table.first_of.fillna(0).astype(int)
    columns = ["class_id", "class", "layer", "block", "unit", "rank_in_unit", "also_first_of", "first_of", "own"]
    return table[columns].sort_values("class_id", ignore_index=True)


def similarity(index: Index, measure: str = "post_mean") -> pd.DataFrame:
    """Pairs of classes: do similar rows of the head go with similar activation?

    Columns: class_a, class_b, head (cosine of the two rows of E), activation (cosine of the classes' mean `measure`
    over all neurons, each neuron centred and scaled over the classes). measure: a column of class_activations.
    """
    if measure not in ("mean_max", "mean", "post_mean", "cls_post_mean"):
        raise QueryError(f"no activation '{measure}'", "One of mean_max, mean, post_mean, cls_post_mean.")
    needs_head(index)
    names = index.sql("SELECT class_id, class FROM classes ORDER BY class_id")
    classes = index.sql("SELECT DISTINCT class_id FROM class_activations WHERE n > 0 ORDER BY class_id").class_id
    if len(classes) < 2:
        raise QueryError("this index holds labelled images of fewer than two classes", "Folders are named by class.")
    head = np.asarray(index.arrays["head"][:])[classes]
    # one layer at a time, so that a thousand classes stay a few hundred MB
    rows = [
        index.sql(
            f"SELECT {measure} AS a FROM class_activations WHERE layer = ? AND n > 0 ORDER BY class_id, unit", [s.name]
        )
        .a.to_numpy(np.float32)
        .reshape(len(classes), -1)
        for s in index.spec.layers
        if s.kind == "hidden"
    ]
    activation = np.concatenate(rows, 1)
    activation -= activation.mean(0)
    spread = activation.std(0)
    activation /= np.where(spread > 0, spread, 1)
    a, b = np.triu_indices(len(classes), 1)
    name = names["class"].to_numpy()[classes]
    return pd.DataFrame(
        {"class_a": name[a], "class_b": name[b], "head": _cosines(head)[a, b], "activation": _cosines(activation)[a, b]}
    )


def _cosines(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines: NDArray[np.float32] = unit @ unit.T
    return cosines


def ranking(index: Index, k: int, by: str) -> pd.DataFrame:
    """The first k neurons of every class by `by`: columns of key_neurons, with rank and value (of `by`).

    Raises QueryError for another `by`, or where nothing is ranked by it.
    """
    if by not in KEY_RANKINGS:
        raise QueryError(f"no ranking by '{by}'", f"One of {', '.join(KEY_RANKINGS)}.")
    found = index.sql(
        f"SELECT row_number() OVER best AS rank, {by} AS value, * FROM key_neurons WHERE {by} IS NOT NULL "
        "WINDOW best AS (PARTITION BY class_id "
        f"ORDER BY {by} DESC, block, unit) QUALIFY rank <= ? ORDER BY class_id, rank",
        [k],
    )
    if found.empty:
        needs_head(index)
        raise QueryError(f"this index ranks no neuron by {by}", "It needs labelled images and a head that is read.")
    return found


def needs_head(index: Index) -> None:
    """Raise QueryError where the index has no class scores."""
    if not index.spec.classes:
        raise QueryError("this index has no class scores: its model has no head", "Index again with --head FILE.")
