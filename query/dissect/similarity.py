"""Classes that are alike: in their rows of the head, in value space and in activation; as pairs and as trees."""

from __future__ import annotations

from itertools import combinations
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..drawing.clustered import average_linkage, class_names, square
from ..lookups.key_neurons import needs_head
from ..stored.stored_index import StoredIndex
from .drawings import DRAWINGS

Space = Literal["head", "value", "activation"]
SPACES: tuple[Space, ...] = get_args(Space)
Rows = Literal["pairs", "merges", "spaces"]  # what a row of a table of similarity is
ROWS: tuple[Rows, ...] = get_args(Rows)


def class_similarity(index: StoredIndex, measure: str = "post_mean") -> pd.DataFrame:
    """Pairs of classes: how alike they are in the head, to the value vectors, and in what the neurons do.

    Args:
        measure: a column of class_activations: 'mean_max', 'mean', 'post_mean' or 'cls_post_mean'.

    Returns:
        Columns class_a, class_b, head (cosine of the two rows of E), value (cosine of the classes' scores over all
        value vectors, each vector's scores centred over the classes), activation (cosine of the classes' mean `measure`
        over all neurons, each neuron centred and scaled over the classes).

    Raises:
        QueryError: no head, another measure, or labelled images of fewer than two classes.

    Example:
        >>> class_similarity(index)[["head", "value", "activation"]].corr()
    """
    if measure not in ("mean_max", "mean", "post_mean", "cls_post_mean"):
        raise QueryError(f"no activation '{measure}'", "One of mean_max, mean, post_mean, cls_post_mean.")
    needs_head(index)
    names = index.classes.name.to_numpy()
    classes = index.sql("SELECT DISTINCT class_id FROM class_activations WHERE n > 0 ORDER BY class_id").class_id
    if len(classes) < 2:
        raise QueryError("this index holds labelled images of fewer than two classes", "Folders are named by class.")
    head = index.reader.whole("head")[classes]
    a, b = np.triu_indices(len(classes), 1)
    name = names[classes]
    return pd.DataFrame(
        {
            "class_a": name[a],
            "class_b": name[b],
            "head": _cosines(head @ head.T)[a, b],
            "value": _cosines(_value_products(index, head))[a, b],
            "activation": _cosines(_activation_products(index, len(classes), measure))[a, b],
        }
    )


def class_trees(similarity: pd.DataFrame) -> pd.DataFrame:
    """The trees of similar classes in each space, one row a merge, the most alike first.

    Clusters are joined by the mean distance of their members, 1 - cosine (average linkage).

    Args:
        similarity: as from class_similarity.

    Returns:
        Columns space ('head', 'value', 'activation'), merge (from 1), cluster_a, cluster_b (a class, or 'merge N'),
        height (their mean distance), n (classes of the new cluster), classes (their names). A space in which a class
        does not vary has no tree.

    Raises:
        Nothing.

    Example:
        >>> class_trees(class_similarity(index)).query("space == 'value'").tail(3)
    """
    names, rows = class_names(similarity), []
    for space in SPACES:
        tree = average_linkage(similarity[space])
        labels, members = [*names], [[name] for name in names]
        for merge, (a, b, height, n) in enumerate([] if tree is None else tree, 1):
            pair = int(a), int(b)
            labels.append(f"merge {merge}")
            members.append([name for cluster in pair for name in members[cluster]])
            rows.append((space, merge, labels[pair[0]], labels[pair[1]], height, int(n), ", ".join(members[-1])))
    return pd.DataFrame(rows, columns=["space", "merge", "cluster_a", "cluster_b", "height", "n", "classes"])


def agreement_of_spaces(similarity: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How far the spaces agree on which classes are alike, beside chance (Mantel's test).

    Args:
        similarity: as from class_similarity.
        seed: of the 19 drawings in which one space's classes are shuffled.

    Returns:
        One row for each two spaces: space_a, space_b, r (Pearson's correlation of the cosines of all pairs; NaN where a
        space does not vary), pairs, chance (the largest r of the drawings), passes (r > chance).

    Raises:
        Nothing.

    Example:
        >>> agreement_of_spaces(class_similarity(index)).passes.all()
    """
    count = len(class_names(similarity))
    upper, random = np.triu_indices(count, 1), np.random.default_rng(seed)
    orders = [random.permutation(count) for _ in range(DRAWINGS)]
    rows = []
    for a, b in combinations(SPACES, 2):
        whole, other = square(similarity[a], count), similarity[b].to_numpy(np.float64)
        chance = max(_correlation(whole[np.ix_(order, order)][upper], other) for order in orders)
        r = _correlation(whole[upper], other)
        rows.append((a, b, r, len(similarity), chance, r > chance))
    return pd.DataFrame(rows, columns=["space_a", "space_b", "r", "pairs", "chance", "passes"])


def _value_products(index: StoredIndex, head: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inner products of the classes' scores over all value vectors, centred over the classes: [class, class].

    E' V V^T E'^T through the products of the vectors' coordinates, so that no score of a class and neuron is kept.
    """
    products = np.zeros((head.shape[1],) * 2)
    for arrays in {index.vectors_of(layer.name)[0] for layer in index.ranked_layers}:
        for _, layers in index.reader.parts(arrays.vectors):
            for vectors in layers:
                products += vectors.T @ vectors
    centred = head.astype(np.float64) - head.mean(0, dtype=np.float64)
    between: NDArray[np.float64] = centred @ products @ centred.T
    return between


def _activation_products(index: StoredIndex, classes: int, measure: str) -> NDArray[np.float64]:
    """Inner products of the classes' activation, every neuron centred and scaled over the classes: [class, class]."""
    products = np.zeros((classes, classes))
    for layer in index.ranked_layers:  # one at a time, so that a thousand classes stay some ten MB
        query = f"SELECT {measure} AS a FROM class_activations WHERE layer = ? AND n > 0 ORDER BY class_id, unit"
        activation = index.sql(query, [layer.name]).a.to_numpy(np.float32).reshape(classes, -1)
        activation = activation - activation.mean(0)
        spread = activation.std(0)
        activation /= np.where(spread > 0, spread, 1)
        products += activation @ activation.T
    return products


def _cosines(products: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of vectors, from their inner products [n, n]; NaN where a vector is zero."""
    lengths = np.sqrt(np.maximum(np.diag(products).astype(np.float64), 0))
    lengths[lengths == 0] = np.nan
    cosines: NDArray[np.float64] = products / lengths / lengths[:, None]
    return cosines


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's; NaN where one of the two does not vary: a pair alone, or images alike."""
    if not (np.ptp(a) >= 1e-6 and np.ptp(b) >= 1e-6):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
