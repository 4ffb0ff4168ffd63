"""What the searches of value_sums find by chance.

The best of many pairs says something only beside the best of as many that mean nothing. So the same searches run on
shuffled heads (see drawings).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .drawings import drawn_heads
from .sum_search import Floats, Measure, Scores, Space, best_composed, best_pairs, grown_sets


def of_pairs(space: Space, class_id: int, by: Measure, candidates: int, seed: int) -> float:
    """The largest gain of a pair in all drawings."""
    return max(
        float(best_pairs(scores, class_id, by, 1)[3][0]) for scores in _loudest(space, class_id, candidates, seed)
    )


def of_sets(space: Space, class_id: int, by: Measure, candidates: int, size: int, starts: int, seed: int) -> Floats:
    """The largest value of a set of 1, 2, ... neurons in all drawings: float64 [size]."""
    largest = np.full(size, -np.inf)
    for scores in _loudest(space, class_id, candidates, seed):
        for members in grown_sets(scores, class_id, by, size, starts):
            values = [value for _, value in members]
            values += [values[-1]] * (size - len(values))  # where no neuron adds anything the set is what it was
            largest = np.maximum(largest, values)
    return largest


def of_composed(space: Space, by: Measure, candidates: int, seed: int, tell: Callable[[int], object]) -> Floats:
    """Every class's largest sum of two neurons of other classes in all drawings: float64 [class]; NaN for none.

    `tell` hears how many classes of all drawings are done.
    """
    head, vectors = space[0], _all_vectors(space)
    largest = np.full(len(head), np.nan)
    for drawing, shuffled in enumerate(drawn_heads(head, seed)):
        every = shuffled @ vectors.T
        loudest = every.argmax(0)
        for class_id, row in enumerate(every):
            others = np.flatnonzero(loudest != class_id)
            some = others[np.argsort(-row[others], kind="stable")[:candidates]]
            value = best_composed(every[:, some].astype(np.float64), class_id, by)[2]
            largest[class_id] = np.fmax(largest[class_id], value)
            tell(drawing * len(head) + class_id + 1)
    return largest


def _loudest(space: Space, class_id: int, candidates: int, seed: int) -> Iterator[Floats]:
    """In every drawing the scores [class, neuron] of the class's neurons with the largest score."""
    vectors = _all_vectors(space)
    for head in drawn_heads(space[0], seed):
        some = np.argsort(-(vectors @ head[class_id]), kind="stable")[:candidates]
        yield (head @ vectors[some].T).astype(np.float64)


def _all_vectors(space: Space) -> Scores:
    return np.concatenate(list(space[1].values()))
