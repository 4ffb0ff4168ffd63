"""From a layer's summaries to what its neurons do: exemplars, means, selectivity of classes, ranks of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schemas.run_spec import EXEMPLARS, OTHER_EXEMPLARS, QUANTILE_EXEMPLARS, Side
from . import sorting

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Ranks = NDArray[np.uint32]


@dataclass(frozen=True)
class ImageRanks:
    """Images [neuron, rank] of each side by the largest patch, and auroc [class, neuron]."""

    sides: dict[Side, Ints]
    auroc: Floats


def rank_images(by_neuron: Floats, valid: NDArray[np.bool_], labels: Ints, classes: int) -> ImageRanks:
    """All that the order of images by values [neuron, image] tells; ties go to the lower image.

    Unreadable images (NaN) stand in no side. auroc of each class against the rest of the labelled images (label -1:
    none), ties one half: Mann-Whitney, (sum of the class's ascending midranks - n (n + 1) / 2) / (n * others); NaN
    where a side is empty.
    """
    units, readable = len(by_neuron), int(valid.sum())
    places = np.round(np.linspace(0, readable - 1, QUANTILE_EXEMPLARS + 2)[1:-1]).astype(int)
    deciles = np.unique(places)[::-1].copy()
    top = np.empty((units, min(EXEMPLARS, readable)), np.int64)
    bottom = np.empty((units, min(OTHER_EXEMPLARS, readable)), np.int64)
    quantile = np.empty((units, len(deciles)), np.int64)
    labels = np.where(valid, labels, -1).astype(np.int32)
    sums = np.empty((units, classes))
    sorting.rank_images(by_neuron, readable, deciles, labels, top, bottom, quantile, sums)
    n = np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
    every = n.sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # ranks were counted from the largest
        auroc = (n * (every + 1) - sums - n * (n + 1) / 2) / (n * (every - n))
    sides: dict[Side, Ints] = {"top": top, "bottom": bottom, "quantile": quantile}
    return ImageRanks(sides, np.ascontiguousarray(auroc.T, np.float32))


class Means:
    """Means over readable images, of all and of each class, gathered part by part."""

    def __init__(self, units: int, classes: int) -> None:
        self.by_class, self.total = np.zeros((classes, units)), np.zeros(units)
        self.images, self.n = 0, np.zeros(classes)

    def add(self, values: Floats, labels: Ints, valid: NDArray[np.bool_]) -> None:
        """Values [image, neuron] of some images; label -1: no class."""
        sorting.add_rows(values, labels, valid, self.by_class, self.total)
        self.images += int(valid.sum())
        self.n += np.bincount(labels[valid & (labels >= 0)], minlength=len(self.n))

    @property
    def mean(self) -> Floats:
        """Of all images: [neuron]."""
        return (self.total / self.images).astype(np.float32)

    @property
    def class_means(self) -> NDArray[np.float64]:
        """Of each class: [class, neuron], NaN without images."""
        with np.errstate(invalid="ignore"):
            means: NDArray[np.float64] = self.by_class / self.n[:, None]
        return means


def largest(parts: Iterable[tuple[int, Floats]], units: int, k: int) -> tuple[Floats, Ints]:
    """Each neuron's k largest values and their images [neuron, k] from (first image, values [image, neuron])."""
    best, ids = np.full((units, k), -np.inf, np.float32), np.full((units, k), -1, np.int64)
    for first, values in parts:
        sorting.keep_largest(values, first, best, ids)
    return best, ids


def score_ranks(scores: Floats, groups: Ints | None = None) -> tuple[Ranks, Ranks]:
    """Ranks from 1 in each row of scores [row, n], highest first, ties to the lower place: of all, and within each
    group [n]."""
    scores = np.ascontiguousarray(scores)
    ranks, in_group = np.empty(scores.shape, np.uint32), np.empty(scores.shape, np.uint32)
    sorting.rank_rows(scores, np.zeros(scores.shape[1], np.int64) if groups is None else groups, ranks, in_group)
    return ranks, in_group
