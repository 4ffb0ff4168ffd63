"""Classes alike in the head, in value space and in activation: all against direct computations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Reference
from numpy.typing import NDArray
from vitdex.query.dissect.similarity import agreement_of_spaces, class_similarity, class_trees
from vitdex.query.drawing.similarity_figure import similarity_figure
from vitdex.query.index import Index


def cosines(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of all pairs."""
    normed = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.floating] = (normed @ normed.T)[np.triu_indices(len(rows), 1)]
    return found


def test_similarity_of_classes(sample: Index, reference: Reference) -> None:
    table = class_similarity(sample, "mean_max")
    of = np.array([path.split("/")[0] for path in reference.paths])
    maxima = np.concatenate([values[:, 1:].max(1) for values in reference.fc1.values()], 1)
    means = np.stack([maxima[of == name].mean(0) for name in np.unique(of)])
    model: Any = reference.model
    head = model.head.weight.detach().numpy()
    scores = np.concatenate([head @ block.mlp.fc2.weight.detach().numpy() for block in model.blocks], 1)
    assert scores.shape == (12, 4608)
    rows = {
        "head": head,
        "value": scores - scores.mean(0),
        "activation": (means - means.mean(0)) / means.std(0),
    }
    for space, direct in rows.items():
        np.testing.assert_allclose(table[space], cosines(direct), atol=2e-4)


def test_trees_join_the_nearest_clusters(sample: Index) -> None:
    table = class_similarity(sample)
    trees = class_trees(table)
    assert trees.groupby("space").size().to_dict() == {"head": 11, "value": 11, "activation": 11}
    for space, merges in trees.groupby("space"):
        near = {frozenset(pair): value for *pair, value in table[["class_a", "class_b", space]].to_numpy()}
        of: dict[str, set[str]] = {name: {name} for name in {*table.class_a, *table.class_b}}
        for row in merges.itertuples():
            a, b = of.pop(str(row.cluster_a)), of.pop(str(row.cluster_b))
            apart = np.mean([1 - near[frozenset((x, y))] for x in a for y in b])
            assert row.height == pytest.approx(apart, abs=1e-6)
            assert all(  # no two clusters were nearer
                np.mean([1 - near[frozenset((x, y))] for x in c for y in d]) >= apart - 1e-6
                for i, c in enumerate([a, b, *of.values()])
                for d in [a, b, *of.values()][:i]
            )
            of[f"merge {row.merge}"] = a | b
            assert {*str(row.classes).split(", ")} == a | b
            assert row.n == len(a | b)


def test_agreement_of_spaces_stands_beside_shuffled_classes() -> None:
    draw = np.random.default_rng(8)
    rows = draw.normal(size=(15, 4))
    a, b = np.triu_indices(15, 1)
    table = pd.DataFrame({"class_a": [f"c{i}" for i in a], "class_b": [f"c{i}" for i in b], "head": cosines(rows)})
    table["value"] = cosines(rows + 0.1 * draw.normal(size=rows.shape))
    table["activation"] = cosines(draw.normal(size=rows.shape))
    found = agreement_of_spaces(table, seed=5)
    assert found[["space_a", "space_b"]].to_numpy().tolist() == [
        ["head", "value"], ["head", "activation"], ["value", "activation"]
    ]  # fmt: skip
    np.testing.assert_allclose(found.r, table[["head", "value", "activation"]].corr().to_numpy()[(0, 0, 1), (1, 2, 2)])
    random = np.random.default_rng(5)
    orders = [random.permutation(15) for _ in range(19)]
    drawn = [np.corrcoef(cosines(rows[order]), table.activation)[0, 1] for order in orders]
    assert found.chance[1] == pytest.approx(max(drawn))
    assert found.passes.tolist()[0]
    assert (found.passes == (found.r > found.chance)).all()
    assert (found.pairs == 105).all()


def test_spaces_that_have_nothing_in_common_seldom_pass() -> None:
    """At most one in twenty: of 300 such pairs of spaces no more than 25 (the 0.99 quantile of chance is 24)."""
    draw, passed = np.random.default_rng(2), 0
    a, b = np.triu_indices(8, 1)
    for seed in range(100):
        table = pd.DataFrame({"class_a": a, "class_b": b})
        for space in ("head", "value", "activation"):
            table[space] = cosines(draw.normal(size=(8, 3)))
        passed += int(agreement_of_spaces(table, seed).passes.sum())
    assert passed <= 25


@pytest.mark.parametrize(
    "pairs", [[(0.1, 0.2)], [(0.1, 1.0), (0.2, 1.0), (0.3, 1.0)], [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)]]
)
def test_no_correlation_is_told_where_nothing_varies(pairs: list[tuple[float, float]]) -> None:
    table = pd.DataFrame(pairs, columns=["head", "activation"]).assign(class_a="a", class_b="b", value=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement = agreement_of_spaces(table)
        figure = similarity_figure(table, agreement)
    assert not agreement.passes.any()
    for axis in figure.axes[-3:]:
        assert axis.get_title().startswith(f"{len(pairs)} pairs of classes")
        assert "r =" not in axis.get_title()
