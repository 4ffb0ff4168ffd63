"""Neurons that carry several classes: weights, effective numbers and chance, against the model's own weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Reference
from numpy.typing import NDArray
from vitdex.query.dissect.carriers import carried_classes, carrier_neurons
from vitdex.query.dissect.drawings import drawn_heads
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

LAST = "blocks.5.mlp.fc1"


def effective(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    shares = weights / weights.sum(0)
    found: NDArray[np.floating] = 1 / (shares**2).sum(0)
    return found


def test_carriers_equal_the_model(sample: Index, reference: Reference) -> None:
    """By score: value vectors and head straight from the model."""
    table = carrier_neurons(sample, "score", seed=3)
    assert len(table) == 4608
    model: Any = reference.model
    head = model.head.weight.detach().numpy()
    vectors = model.blocks[5].mlp.fc2.weight.detach().numpy()
    of = table[table.layer == LAST].sort_values("unit")
    weights = (head @ vectors).clip(0)
    np.testing.assert_allclose(of.positive, weights.sum(0), rtol=1e-4)
    np.testing.assert_allclose(of.effective, effective(weights), rtol=1e-4)
    random = np.random.default_rng(3)
    drawn = [(head[:, random.permutation(192)] @ vectors).clip(0) for _ in range(19)]
    numbers = np.array([effective(one) for one in drawn])
    np.testing.assert_allclose(of.effective_low, numbers.min(0), rtol=1e-4)
    np.testing.assert_allclose(of.effective_mean, numbers.mean(0), rtol=1e-4)
    np.testing.assert_allclose(of.effective_high, numbers.max(0), rtol=1e-4)
    chance = np.max(drawn, (0, 1))
    np.testing.assert_allclose(of.chance, chance, rtol=1e-4)
    clear = (np.abs(weights - chance) > 1e-5).all(0)
    assert (of.carried.to_numpy() == (weights > chance).sum(0))[clear].all()
    np.testing.assert_allclose(
        of.carried_weight.to_numpy()[clear], np.where(weights > chance, weights, 0).sum(0)[clear], rtol=1e-4, atol=1e-6
    )


def test_contributions_are_the_tables(sample: Index) -> None:
    table = carrier_neurons(sample)
    assert table.attrs["by"] == "contribution"
    stored = sample.sql(
        "SELECT layer, unit, sum(contribution) AS s, sum(contribution ** 2) AS q FROM class_activations "
        "WHERE contribution > 0 GROUP BY ALL"
    )
    both = table.merge(stored, on=["layer", "unit"])
    assert len(both) > 4000
    np.testing.assert_allclose(both.positive, both.s, rtol=1e-3, atol=1e-5)
    some = both[both.s > 1e-4]
    np.testing.assert_allclose(some.effective, some.s**2 / some.q, rtol=2e-3)
    several = table.carried > 1
    assert several.any()
    assert several.is_monotonic_decreasing
    assert table[several].carried_weight.is_monotonic_decreasing
    classes = carried_classes(sample, table, k=4, each=3)
    assert classes["rank"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    for row in classes.itertuples():
        query = "SELECT contribution AS c FROM class_activations WHERE layer = ? AND unit = ? AND class_id = ?"
        assert row.weight == pytest.approx(sample.sql(query, [row.layer, row.unit, row.class_id]).c[0])
        of = table[(table.layer == row.layer) & (table.unit == row.unit)].iloc[0]
        assert row.share == pytest.approx(float(row.weight) / of.positive)  # type: ignore[arg-type]
        assert row.passes == (row.weight > of.chance)
    first = classes[classes["rank"] == 1]
    best = sample.sql(
        "SELECT class FROM key_neurons WHERE layer = ? AND unit = ? ORDER BY contribution DESC LIMIT 3",
        [first.layer.iloc[0], int(first.unit.iloc[0])],
    )
    assert first["class"].tolist() == best["class"].tolist()


def test_chance_of_contributions_keeps_what_the_neuron_does(sample: Index, reference: Reference) -> None:
    """Of one neuron, by hand: folded vector, shuffled head, mean of what the head reads on each class's images."""
    of = carrier_neurons(sample, "contribution", seed=1)
    row: Any = of[(of.layer == LAST) & (of.unit == 16)].iloc[0]
    head, vector = sample.reader.whole("head"), sample.reader.whole("folded_vectors")[5, 16]
    gelu = torch.nn.functional.gelu(torch.from_numpy(reference.fc1[LAST][:, 0, 16])).numpy()
    read = gelu / sample.reader.whole("sigma")
    mean = read.reshape(12, 40).mean(1)  # images stand by class
    drawn = [(rows @ vector * mean).clip(0) for rows in drawn_heads(head, 1)]
    assert row.chance == pytest.approx(np.max(drawn), rel=1e-3)
    assert row.effective_mean == pytest.approx(np.mean([effective(one) for one in drawn]), rel=1e-3)


def test_a_shuffled_head_is_carried_by_one_neuron_in_twenty(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, order = sample.reader.whole, np.random.default_rng(99).permutation(192)
    shuffled = whole("head")[:, order]
    monkeypatch.setattr(sample.reader, "whole", lambda path: shuffled if path == "head" else whole(path))
    table = carrier_neurons(sample, "folded")
    assert (table.carried > 0).mean() == pytest.approx(1 / 20, abs=0.02)
    monkeypatch.undo()
    assert (carrier_neurons(sample, "folded").carried > 0).mean() > 0.2


def test_what_is_no_weight_is_said(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QueryError, match="^auroc is no weight that a neuron gives. One of contribution, folded, score"):
        carrier_neurons(sample, "auroc")
    with pytest.raises(QueryError, match="^each is 0; at least 1$"):
        carried_classes(sample, carrier_neurons(sample, "score"), each=0)
    monkeypatch.setattr(sample, "spec", replace(sample.spec, readout="none: attention pooling"))
    with pytest.raises(QueryError, match="^this index ranks no neuron by folded. Its head is read in another way"):
        carrier_neurons(sample, "folded")
