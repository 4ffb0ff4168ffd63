"""Sums of value vectors: pairs and small sets of neurons that say a class better together than each alone.

Raw scores add, so by score the best pair is just the top two. Two measures of a vector of scores s do not add:
`probability`, softmax(s)[c], and `margin`, min over c' != c of s[c] - s[c'] (positive where c wins).
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ..lookups.key_neurons import key_neurons, needs_head
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from . import sum_chance
from .drawings import DRAWINGS
from .sum_search import Floats, Measure, Space, best_composed, best_pairs, grown_sets, measure
from .value_vectors import whole_vectors

MEASURES: tuple[Measure, ...] = get_args(Measure)
FLAT = 2.0  # times chance: where no sum reaches it, probability tells nothing
WHERE = ("layer_a", "unit_a", "layer_b", "unit_b")


def neuron_pairs(
    index: StoredIndex, class_: str | int, by: Measure = "margin", candidates: int = 300, k: int = 20, seed: int = 0
) -> pd.DataFrame:
    """The k best of all pairs of a class's `candidates` neurons with the largest score, by their gain.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        by: 'margin' or 'probability', see above. Where raw scores are small, probability is flat: near 1 / classes for
            every sum.
        candidates: neurons of which all pairs are tried.
        k: how many pairs.
        seed: of the drawings that chance is taken from, see sum_chance.

    Returns:
        Columns rank, layer_a, unit_a, layer_b, unit_b, a and b (`by` of each alone), sum (of their summed value
        vectors), gain (sum minus the better alone), over_twice (sum minus twice the better vector: what the other's
        direction adds, beyond a longer vector), chance (the largest gain in 19 drawings), passes (gain > chance).

    Raises:
        QueryError: no head, an unknown class or measure.

    Example:
        >>> neuron_pairs(index, "bird", "margin", k=10)
    """
    at_least(1, k=k)
    space = _space(index, by, candidates)
    class_id, neurons, scores = loudest(index, class_, candidates, by, space)
    alone, twice = measure(scores, class_id, by), measure(2 * scores, class_id, by)
    a, b, together, gain = best_pairs(scores, class_id, by, k)
    return _named(neurons, a, b).assign(
        rank=range(1, len(a) + 1),
        a=alone[a],
        b=alone[b],
        sum=together,
        gain=gain,
        over_twice=together - np.maximum(twice[a], twice[b]),
        **against(gain, sum_chance.of_pairs(space, class_id, by, candidates, seed)),
    )[["rank", *WHERE, "a", "b", "sum", "gain", "over_twice", "chance", "passes"]]


def neuron_sets(
    index: StoredIndex,
    class_: str | int,
    size: int = 4,
    by: Measure = "margin",
    candidates: int = 300,
    starts: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Small sets grown from the class's best pairs: each step adds the neuron after which `by` is largest.

    Any two sets share at most half of their neurons: a pair or a neuron with which a set would share more with an
    earlier one is passed over.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        size: neurons of a set; it ends before where no neuron adds anything.
        by, candidates: as in neuron_pairs.
        starts: how many sets, at most.
        seed: of the drawings that chance is taken from, see sum_chance.

    Returns:
        One row a set and step: set, size, layer, unit (the neuron that joins; the pair's two have size 1 and 2), value
        (of the sum so far), by_score (of the sum of as many neurons with the largest scores, for comparison), chance
        (the largest value of so many neurons in 19 drawings), passes (value > chance).

    Raises:
        QueryError: no head, an unknown class or measure.

    Example:
        >>> neuron_sets(index, "bird", size=4, by="margin")
    """
    at_least(1, size=size, starts=starts)
    space = _space(index, by, candidates)
    class_id, neurons, scores = loudest(index, class_, candidates, by, space)
    in_order = measure(np.cumsum(scores[:, :size], axis=1), class_id, by)
    chance = sum_chance.of_sets(space, class_id, by, candidates, size, starts, seed)
    rows = [
        {"set": number, "size": step, "layer": neurons.layer[unit], "unit": neurons.unit[unit], "value": value,
         "by_score": in_order[step - 1], "chance": chance[step - 1], "passes": value > chance[step - 1]}
        for number, members in enumerate(grown_sets(scores, class_id, by, size, starts), 1)
        for step, (unit, value) in enumerate(members, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def flatness(index: StoredIndex, by: Measure, sums: pd.Series[float]) -> str:
    """A line where sums by probability are all near chance, as with raw scores that are small; else ''."""
    chance = 1 / index.spec.classes
    if by != "probability" or not len(sums) or sums.max() > FLAT * chance:
        return ""
    ends = f"{sums.min():.3f} to {sums.max():.3f}, where chance is {chance:.3f}"
    return f"Probability is flat here, {ends}: raw scores are too small for a softmax. Take --by margin."


def composed_classes(
    index: StoredIndex,
    by: Measure = "margin",
    candidates: int = 300,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """For every class, its best pair of neurons of other classes: each says another class loudest, their sum this one.

    Args:
        by: as in neuron_pairs.
        candidates: of the neurons whose own top class is another, those with the class's largest scores.
        seed: of the drawings that chance is taken from, see sum_chance.
        progress: told classes done, and all classes: those of 19 drawings, and the index's own.

    Returns:
        Columns class_id, class, layer_a, unit_a, class_a, layer_b, unit_b, class_b, a, b, sum (of `by`), pairs (how
        many pairs of other classes sum to this one), chance (the class's largest sum in 19 drawings; NaN where there
        was none), passes (sum > chance). Classes that no such pair sums to have 0 pairs and no names.

    Raises:
        QueryError: no head, or an unknown measure.

    Example:
        >>> composed_classes(index, "margin").query("pairs > 0")
    """
    space = _space(index, by, candidates)
    names = index.sql("SELECT class_id, class FROM classes ORDER BY class_id")
    tell, steps = progress or silent, (1 + DRAWINGS) * len(names)
    chance = sum_chance.of_composed(space, by, candidates, seed, lambda done: tell(done, steps))
    rows = []
    for done, (class_id, name) in enumerate(names.itertuples(index=False), steps - len(names) + 1):
        row = {"class_id": class_id, "class": name, "chance": chance[class_id]}
        neurons, scores = loudest(index, class_id, candidates, by, space, others=True)[1:]
        row["pairs"], best, value = best_composed(scores, class_id, by)
        row["passes"] = row["pairs"] > 0 and not value <= chance[class_id]  # also where no drawing had any
        if row["pairs"]:
            a, b = best
            alone, top = measure(scores, class_id, by), names["class"].to_numpy()[scores.argmax(0)]
            row |= dict(zip(WHERE, _named(neurons, np.array([a]), np.array([b])).iloc[0], strict=True))
            row |= {"class_a": top[a], "class_b": top[b], "a": alone[a], "b": alone[b], "sum": value}
        rows.append(row)
        tell(done, steps)
    columns = ["class_id", "class", "layer_a", "unit_a", "class_a", "layer_b", "unit_b", "class_b", "a", "b", "sum",
               "pairs", "chance", "passes"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns).astype({"unit_a": "Int64", "unit_b": "Int64"})


def against(values: Floats, chance: float) -> dict[str, Any]:
    """Columns chance and passes of a table."""
    return {"chance": chance, "passes": values > chance}


def loudest(
    index: StoredIndex, class_: str | int, k: int, by: Measure, space: Space, others: bool = False
) -> tuple[int, pd.DataFrame, Floats]:
    """The class, its k neurons with the largest score (layer, block, unit; best first), and their scores for all
    classes [class, neuron] from the stored head and value vectors. others: only neurons that say another class loudest.

    Raises QueryError for an unknown class.
    """
    class_id = index.class_id(class_)
    neurons = key_neurons(index, class_id, k, "score", louder_elsewhere=others)[["layer", "block", "unit"]]
    head, vectors = space
    rows = np.stack([vectors[layer][unit] for layer, unit in zip(neurons.layer, neurons.unit, strict=True)])
    return class_id, neurons, (head @ rows.T).astype(np.float64)


def _space(index: StoredIndex, by: Measure, candidates: int) -> Space:
    """The head [class, d] and all value vectors [unit, d] by layer, float32.

    Raises QueryError where no sum can be judged: without a head, against no other class, by an unknown measure, of
    fewer than two candidates.
    """
    needs_head(index)
    at_least(2, candidates=candidates)
    if by not in MEASURES:
        raise QueryError(f"no measure '{by}' of a sum", f"One of {', '.join(MEASURES)}.")
    if index.spec.classes < 2:
        raise QueryError("this index has one class, and a sum is judged against the others", "Give a head of several.")
    return index.reader.whole("head"), whole_vectors(index, [layer.name for layer in index.ranked_layers])


def _named(neurons: pd.DataFrame, a: NDArray[np.int64], b: NDArray[np.int64]) -> pd.DataFrame:
    layer, unit = neurons.layer.to_numpy(), neurons.unit.to_numpy()
    return pd.DataFrame({"layer_a": layer[a], "unit_a": unit[a], "layer_b": layer[b], "unit_b": unit[b]})
