"""What searches for sums find by chance: against loops over all pairs, and passed once in twenty where nothing is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from vitdex.query.dissect import sum_chance
from vitdex.query.dissect.drawings import drawn_heads
from vitdex.query.dissect.sum_search import Floats, Space, best_composed, best_pairs, grown_sets
from vitdex.query.dissect.value_sums import composed_classes, neuron_pairs, neuron_sets
from vitdex.query.index import Index

FEW = 12  # candidates


@pytest.fixture
def space(sample: Index) -> Space:
    head = sample.reader.whole("head")
    return head, {"a": sample.reader.whole("value_vectors")[3], "b": sample.reader.whole("value_vectors")[5]}


def margin(scores: Floats, class_id: int) -> float:
    return float(scores[class_id] - max(s for c, s in enumerate(scores) if c != class_id))


def drawn(space: Space, seed: int) -> list[Floats]:
    """Scores of all neurons in every drawing, in the order of the seed."""
    random = np.random.default_rng(seed)
    vectors = np.concatenate([space[1]["a"], space[1]["b"]]).astype(np.float64)
    return [space[0][:, random.permutation(space[0].shape[1])] @ vectors.T for _ in range(19)]


def test_chance_is_the_largest_of_nineteen_drawings(space: Space) -> None:
    gains, sums = [], []
    for scores in drawn(space, 5):
        some = scores[:, np.argsort(-scores[2])[:FEW]].T
        gains += [margin(a + b, 2) - max(margin(a, 2), margin(b, 2)) for a, b in combinations(some, 2)]
        elsewhere = scores[:, scores.argmax(0) != 2]
        others = elsewhere[:, np.argsort(-elsewhere[2])[:FEW]].T
        sums += [margin(a + b, 2) for a, b in combinations(others, 2)]
    assert sum_chance.of_pairs(space, 2, "margin", FEW, 5) == pytest.approx(max(gains), rel=1e-4)
    told: list[int] = []
    assert sum_chance.of_composed(space, "margin", FEW, 5, told.append)[2] == pytest.approx(max(sums), rel=1e-4)
    assert max(sums) > 0
    assert told == list(range(1, 19 * 12 + 1))


def test_sets_grow_alike_in_a_drawing(space: Space) -> None:
    chance = sum_chance.of_sets(space, 2, "margin", FEW, 4, 2, 5)
    values = np.full(4, -np.inf)
    for scores in drawn(space, 5):
        some = scores[:, np.argsort(-scores[2])[:FEW]]
        for members in grown_sets(some, 2, "margin", 4, 2):
            sums = [margin(some[:, [u for u, _ in members[: n + 1]]].sum(1), 2) for n in range(len(members))]
            values = np.maximum(values, sums + [sums[-1]] * (4 - len(sums)))
    np.testing.assert_allclose(chance, values, rtol=1e-4)


def test_a_head_that_means_nothing_passes_once_in_twenty(space: Space) -> None:
    vectors = np.concatenate([space[1]["a"], space[1]["b"]])
    passed, trials = 0, 60
    for trial in range(trials):
        head = next(drawn_heads(space[0], 1000 + trial))
        class_id = trial % len(head)
        some = vectors[np.argsort(-(vectors @ head[class_id]))[:FEW]]
        gain = best_pairs((head @ some.T).astype(np.float64), class_id, "margin", 1)[3][0]
        passed += gain > sum_chance.of_pairs((head, space[1]), class_id, "margin", FEW, trial)
    assert passed <= 8  # of 60 at 1 in 20: more in one of 500 such tests


def test_tables_stand_beside_chance(sample: Index) -> None:
    pairs = neuron_pairs(sample, "bird", candidates=30, k=400, seed=3)
    assert pairs.chance.nunique() == 1
    assert (pairs.passes == (pairs.gain > pairs.chance)).all()
    assert pairs.passes.iloc[0]
    assert not pairs.passes.iloc[-1]
    assert neuron_pairs(sample, "bird", candidates=30, k=1, seed=4).chance[0] != pairs.chance[0]
    sets = neuron_sets(sample, "bird", candidates=30)
    assert (sets.passes == (sets.value > sets.chance)).all()
    assert sets.groupby("size").chance.nunique().eq(1).all()
    composed = composed_classes(sample, candidates=20)
    assert (composed.passes == (composed["sum"] > composed.chance.fillna(-np.inf))).all()


def test_no_pair_is_said() -> None:
    scores = np.array([[1.0, 1.0], [3.0, 3.0]])
    count, _, value = best_composed(scores, 0, "margin")
    assert count == 0
    assert np.isnan(value)
