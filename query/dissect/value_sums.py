"""Sums of value vectors: pairs and small sets of neurons that say a class better together than each alone.

Raw scores add, so by score the best pair is just the top two. Two measures of a vector of scores s do not add:
`probability`, softmax(s)[c], and `margin`, min over c' != c of s[c] - s[c'] (positive where c wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, tracked
from ..lookups.key_neurons import key_neurons, needs_head
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex

Floats = NDArray[np.float64]
Space = tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]
Measure = Literal["probability", "margin"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
FLAT = 2.0  # times chance: where no sum reaches it, probability tells nothing
TRIES = 200  # pairs from which sets are grown, until there are enough
WHERE = ("layer_a", "unit_a", "layer_b", "unit_b")
VALUES_AT_ONCE = 10_000_000  # of pairs times classes, float64


def neuron_pairs(
    index: StoredIndex, class_: str | int, by: Measure = "margin", candidates: int = 300, k: int = 20
) -> pd.DataFrame:
    """The k best of all pairs of a class's `candidates` neurons with the largest score, by their gain.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        by: 'margin' or 'probability', see above. Where raw scores are small, probability is flat: near 1 / classes for
            every sum.
        candidates: neurons of which all pairs are tried.
        k: how many pairs.

    Returns:
        Columns rank, layer_a, unit_a, layer_b, unit_b, a and b (`by` of each alone), sum (of their summed value
        vectors), gain (sum minus the better alone), over_twice (sum minus twice the better vector: what the other's
        direction adds, beyond a longer vector).

    Raises:
        QueryError: no head, an unknown class or measure.

    Example:
        >>> neuron_pairs(index, "bird", "margin", k=10)
    """
    at_least(1, k=k)
    class_id, neurons, scores = loudest(index, class_, candidates, by)
    alone, twice = measure(scores, class_id, by), measure(2 * scores, class_id, by)
    together = all_pairs(scores, class_id, by)
    a, b = np.triu_indices(len(neurons), 1)
    gain = together[a, b] - np.maximum(alone[a], alone[b])
    best = np.argsort(-gain, kind="stable")[:k]
    a, b, gain = a[best], b[best], gain[best]
    return _named(neurons, a, b).assign(
        rank=range(1, len(best) + 1),
        a=alone[a],
        b=alone[b],
        sum=together[a, b],
        gain=gain,
        over_twice=together[a, b] - np.maximum(twice[a], twice[b]),
    )[["rank", "layer_a", "unit_a", "layer_b", "unit_b", "a", "b", "sum", "gain", "over_twice"]]


def neuron_sets(
    index: StoredIndex,
    class_: str | int,
    size: int = 4,
    by: Measure = "margin",
    candidates: int = 300,
    starts: int = 5,
) -> pd.DataFrame:
    """Small sets grown from the class's best pairs: each step adds the neuron after which `by` is largest.

    Any two sets share at most half of their neurons: a pair or a neuron with which a set would share more with an
    earlier one is passed over.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        size: neurons of a set; it ends before where no neuron adds anything.
        by, candidates: as in neuron_pairs.
        starts: how many sets, at most.

    Returns:
        One row a set and step: set, size, layer, unit (the neuron that joins; the pair's two have size 1 and 2), value
        (of the sum so far), by_score (of the sum of as many neurons with the largest scores, for comparison).

    Raises:
        QueryError: no head, an unknown class or measure.

    Example:
        >>> neuron_sets(index, "bird", size=4, by="margin")
    """
    at_least(1, size=size, starts=starts)
    class_id, neurons, scores = loudest(index, class_, candidates, by)
    in_order = measure(np.cumsum(scores[:, :size], axis=1), class_id, by)
    position = {neuron: i for i, neuron in enumerate(zip(neurons.layer, neurons.unit, strict=True))}
    sets: list[list[tuple[int, float]]] = []
    for row in neuron_pairs(index, class_id, by, candidates, TRIES).itertuples(index=False):
        first = [position[row.layer_a, row.unit_a], position[row.layer_b, row.unit_b]]
        first.sort(key=lambda i: -measure(scores[:, [i]], class_id, by)[0])
        earlier = [{unit for unit, _ in members} for members in sets]
        if any(2 * len(other & {*first}) > size for other in earlier):
            continue
        grown = grow(scores, class_id, by, first, size, earlier)
        if all(2 * len(other & {unit for unit, _ in grown}) <= min(len(other), len(grown)) for other in earlier):
            sets.append(grown)
        if len(sets) == starts:
            break
    rows = [
        {"set": number, "size": step, "layer": neurons.layer[unit], "unit": neurons.unit[unit], "value": value,
         "by_score": in_order[step - 1]}
        for number, members in enumerate(sets, 1) for step, (unit, value) in enumerate(members, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def flatness(index: StoredIndex, by: Measure, sums: pd.Series[float]) -> str:
    """A line where sums by probability are all near chance, as with raw scores that are small; else ''."""
    chance = 1 / index.spec.classes
    if by != "probability" or not len(sums) or sums.max() > FLAT * chance:
        return ""
    ends = f"{sums.min():.3f} to {sums.max():.3f}, where chance is {chance:.3f}"
    return f"Probability is flat here, {ends}: raw scores are too small for a softmax. Take --by margin."


def grow(
    scores: Floats, class_id: int, by: Measure, first: Sequence[int], size: int, earlier: Sequence[set[int]] = ()
) -> list[tuple[int, float]]:
    """A set from its first neurons to at most `size`, greedily: (neuron, value of the sum so far).

    It shares at most size / 2 neurons with each of the `earlier` sets.
    """
    members = list(first)
    values = [
        float(measure(scores[:, members[: i + 1]].sum(1, keepdims=True), class_id, by)[0]) for i in range(len(first))
    ]
    while len(members) < size:
        options = measure(scores + scores[:, members].sum(1, keepdims=True), class_id, by)
        options[members] = -np.inf
        for other in earlier:
            if 2 * len(other.intersection(members)) + 2 > size:
                options[list(other)] = -np.inf
        best = int(options.argmax())
        if options[best] <= values[-1]:
            break
        members.append(best)
        values.append(float(options[best]))
    return list(zip(members, values, strict=True))


def composed_classes(
    index: StoredIndex, by: Measure = "margin", candidates: int = 300, *, progress: Progress | None = None
) -> pd.DataFrame:
    """For every class, its best pair of neurons of other classes: each says another class loudest, their sum this one.

    Args:
        by: as in neuron_pairs.
        candidates: of the neurons whose own top class is another, those with the class's largest scores.
        progress: told classes done, and all classes.

    Returns:
        Columns class_id, class, layer_a, unit_a, class_a, layer_b, unit_b, class_b, a, b, sum (of `by`), pairs (how
        many pairs of other classes sum to this one). Classes that no such pair sums to have 0 pairs and no names.

    Raises:
        QueryError: no head, or an unknown measure.

    Example:
        >>> composed_classes(index, "margin").query("pairs > 0")
    """
    needs_head(index)
    names = index.sql("SELECT class_id, class FROM classes ORDER BY class_id")
    space = _space(index)
    rows = []
    for class_id, name in tracked(list(names.itertuples(index=False)), progress):
        row = {"class_id": class_id, "class": name}
        neurons, scores = loudest(index, class_id, candidates, by, space, others=True)[1:]
        a, b = np.triu_indices(len(neurons), 1)
        # the margin of a sum is above zero exactly where this class wins
        winning = all_pairs(scores, class_id, "margin")[a, b] > 0
        row["pairs"] = int(winning.sum())
        if winning.any():
            values = np.where(winning, all_pairs(scores, class_id, by)[a, b], -np.inf)
            best = [int(values.argmax())]
            a, b = a[best], b[best]
            alone, top = measure(scores, class_id, by), names["class"].to_numpy()[scores.argmax(0)]
            row |= dict(zip(WHERE, _named(neurons, a, b).iloc[0], strict=True))
            row |= {
                "class_a": top[a[0]],
                "class_b": top[b[0]],
                "a": alone[a[0]],
                "b": alone[b[0]],
                "sum": values[best[0]],
            }
        rows.append(row)
    columns = [
        "class_id",
        "class",
        "layer_a",
        "unit_a",
        "class_a",
        "layer_b",
        "unit_b",
        "class_b",
        "a",
        "b",
        "sum",
        "pairs",
    ]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"unit_a": "Int64", "unit_b": "Int64"})


def loudest(
    index: StoredIndex, class_: str | int, k: int, by: Measure, space: Space | None = None, others: bool = False
) -> tuple[int, pd.DataFrame, Floats]:
    """The class, its k neurons with the largest score (layer, block, unit; best first), and their scores for all
    classes [class, neuron] from the stored head and value vectors. others: only neurons that say another class loudest.

    Raises QueryError without a head, for an unknown class or measure.
    """
    needs_head(index)
    at_least(2, candidates=k)
    if by not in MEASURES:
        raise QueryError(f"no measure '{by}' of a sum", f"One of {', '.join(MEASURES)}.")
    class_id = index.class_id(class_)
    if index.spec.classes < 2:
        raise QueryError("this index has one class, and a sum is judged against the others", "Give a head of several.")
    neurons = key_neurons(index, class_id, k, "score", louder_elsewhere=others)[["layer", "block", "unit"]]
    head, vectors = space or _space(index)
    rows = np.stack([vectors[layer][unit] for layer, unit in zip(neurons.layer, neurons.unit, strict=True)])
    return class_id, neurons, (head @ rows.T).astype(np.float64)


def _space(index: StoredIndex) -> Space:
    """The head [class, d] and all value vectors [unit, d] by layer, float32."""
    places = {layer.name: index.vectors_of(layer.name) for layer in index.spec.layers if layer.has_value_vectors}
    whole = {arrays.vectors: index.reader.whole(arrays.vectors) for arrays in {arrays for arrays, _ in places.values()}}
    return index.reader.whole("head"), {name: whole[arrays.vectors][at] for name, (arrays, at) in places.items()}


def measure(scores: Floats, class_id: int, by: Measure) -> Floats:
    """Probability or margin of the class for each column of scores [class, n]: float64 [n]."""
    if by == "margin":
        margin: Floats = scores[class_id] - np.delete(scores, class_id, 0).max(0)
        return margin
    shifted = np.exp(scores - scores.max(0))
    probability: Floats = shifted[class_id] / shifted.sum(0)
    return probability


def all_pairs(scores: Floats, class_id: int, by: Measure) -> Floats:
    """Probability or margin of the class for the sum of each two columns of scores [class, n]: float64 [n, n]."""
    if by == "probability":
        # exp(s_i + s_j) = exp(s_i) exp(s_j): the softmax's denominator of all pairs is one product
        shifted = np.exp(scores - scores.max(0))
        both: Floats = np.outer(shifted[class_id], shifted[class_id]) / (shifted.T @ shifted)
        return both
    above = scores[class_id] - np.delete(scores, class_id, 0)
    n = scores.shape[1]
    margins = np.empty((n, n))
    step = max(1, VALUES_AT_ONCE // above.size)
    for start in range(0, n, step):
        some = above[:, start : start + step]
        margins[start : start + step] = (some[:, :, None] + above[:, None]).min(0)
    return margins


def _named(neurons: pd.DataFrame, a: NDArray[np.int64], b: NDArray[np.int64]) -> pd.DataFrame:
    layer, unit = neurons.layer.to_numpy(), neurons.unit.to_numpy()
    return pd.DataFrame({"layer_a": layer[a], "unit_a": unit[a], "layer_b": layer[b], "unit_b": unit[b]})
