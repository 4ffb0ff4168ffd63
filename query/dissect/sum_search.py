"""Searches for sums of value vectors that say a class: over the scores of some neurons, wherever these come from.

scores: [class, neuron], float64. Two measures of a vector of scores s do not add: `probability`, softmax(s)[c], and
`margin`, min over c' != c of s[c] - s[c'] (positive where c wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = NDArray[np.float32]
Space = tuple[Scores, dict[str, Scores]]  # the head [class, d] and value vectors [unit, d] by layer
Measure = Literal["probability", "margin"]
TRIES = 200  # pairs from which sets are grown, until there are enough
VALUES_AT_ONCE = 10_000_000  # of pairs times classes, float64


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


def best_pairs(scores: Floats, class_id: int, by: Measure, k: int) -> tuple[Ints, Ints, Floats, Floats]:
    """The k pairs of columns of scores [class, neuron] that gain most: both places, `by` of the sum, the gain."""
    alone, together = measure(scores, class_id, by), all_pairs(scores, class_id, by)
    a, b = np.triu_indices(scores.shape[1], 1)
    gain = together[a, b] - np.maximum(alone[a], alone[b])
    best = np.argsort(-gain, kind="stable")[:k]
    a, b = a[best], b[best]
    return a, b, together[a, b], gain[best]


def grown_sets(scores: Floats, class_id: int, by: Measure, size: int, starts: int) -> list[list[tuple[int, float]]]:
    """Sets of columns of scores [class, neuron], each as (column, value of the sum so far)."""
    sets: list[list[tuple[int, float]]] = []
    alone = measure(scores, class_id, by)
    for pair in zip(*best_pairs(scores, class_id, by, TRIES)[:2], strict=True):
        first = sorted(map(int, pair), key=lambda i: -alone[i])
        earlier = [{unit for unit, _ in members} for members in sets]
        if any(2 * len(other & {*first}) > size for other in earlier):
            continue
        grown = grow(scores, class_id, by, first, size, earlier)
        if all(2 * len(other & {unit for unit, _ in grown}) <= min(len(other), len(grown)) for other in earlier):
            sets.append(grown)
        if len(sets) == starts:
            break
    return sets


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


def best_composed(scores: Floats, class_id: int, by: Measure) -> tuple[int, tuple[int, int], float]:
    """How many pairs of columns of scores [class, neuron] sum to the class, the best of them, and `by` of its sum.

    NaN where there is none.
    """
    a, b = np.triu_indices(scores.shape[1], 1)
    margin = all_pairs(scores, class_id, "margin")[a, b]  # above zero exactly where this class wins
    if not (margin > 0).any():
        return 0, (0, 0), float("nan")
    values = margin if by == "margin" else all_pairs(scores, class_id, by)[a, b]
    best = int(np.where(margin > 0, values, -np.inf).argmax())
    return int((margin > 0).sum()), (int(a[best]), int(b[best])), float(values[best])
