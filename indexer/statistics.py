"""From a layer's summaries to what its neurons do: exemplars, statistics of classes. NumPy and torch, no files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..schemas.records import EXEMPLARS, OTHER_EXEMPLARS, QUANTILE_EXEMPLARS

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


NEURONS_AT_ONCE = 256  # so that 50,000 images cost 100 MB of keys, not gigabytes


def ranked(values: Floats, k: int, largest: bool = True) -> Ints:
    """Positions [neuron, k] of the k best of values [neuron, image]; ties go to the lower position, NaN last."""
    keys = _keys(-values if largest else values)
    if k < values.shape[1]:
        keys = np.partition(keys, k, axis=1)[:, :k]
    found: Ints = np.sort(keys, axis=1) & 0xFFFFFFFF
    return found


def _keys(values: Floats) -> Ints:
    """Value and position in one int64, ascending by both: a plain sort of integers, which NumPy does fast."""
    values = values + np.float32(0)  # -0.0 ranks as 0.0
    values[np.isnan(values)] = np.inf
    bits = values.view(np.int32)
    ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    keys: Ints = (ascending << 32) | np.arange(values.shape[1])
    return keys


def exemplar_ranks(by_neuron: Floats, valid: NDArray[np.bool_]) -> dict[str, Ints]:
    """Images [neuron, rank] of each side, by the largest patch. Unreadable images never stand in them."""
    readable = int(valid.sum())
    places = np.round(np.linspace(0, readable - 1, QUANTILE_EXEMPLARS + 2)[1:-1]).astype(int)
    deciles = np.unique(places)[::-1]
    sides: dict[str, list[Ints]] = {"top": [], "bottom": [], "quantile": []}
    for first in range(0, len(by_neuron), NEURONS_AT_ONCE):
        some = by_neuron[first : first + NEURONS_AT_ONCE]
        order = ranked(some, readable)
        sides["top"].append(order[:, :EXEMPLARS].copy())
        sides["quantile"].append(order[:, deciles].copy())
        sides["bottom"].append(ranked(some, min(OTHER_EXEMPLARS, readable), largest=False))
    return {side: np.concatenate(blocks) for side, blocks in sides.items()}


def cls_ranks(by_neuron: Floats, valid: NDArray[np.bool_]) -> Ints:
    """Images [neuron, rank] of the largest CLS values."""
    return ranked(by_neuron, min(OTHER_EXEMPLARS, int(valid.sum())))


def class_means(values: Floats, class_ids: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Mean of values [image, neuron] over the images of each class: float64 [class, neuron], NaN without images."""
    out = np.full((classes, values.shape[1]), np.nan)
    order = np.argsort(class_ids, kind="stable")
    present, starts = np.unique(class_ids[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for c, start, end in zip(present, starts, ends, strict=True):
        out[c] = values[order[start:end]].mean(0, dtype=np.float64)
    return out


def class_auroc(by_neuron: Floats, class_ids: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """AUROC of each class against the rest for values [neuron, image]: [class, neuron]; ties count one half.

    Mann-Whitney: (sum of the class's midranks - n (n + 1) / 2) / (n * others). NaN where a side is empty.
    """
    n = np.bincount(class_ids, minlength=classes).astype(np.float64)
    sums = np.empty((len(by_neuron), classes))
    for first in range(0, len(by_neuron), NEURONS_AT_ONCE):
        keys = np.sort(_keys(by_neuron[first : first + NEURONS_AT_ONCE]), axis=1)
        rows = np.arange(len(keys))[:, None] * classes + class_ids[keys & 0xFFFFFFFF]
        some = np.bincount(rows.ravel(), _midranks(keys >> 32).ravel(), len(keys) * classes)
        sums[first : first + NEURONS_AT_ONCE] = some.reshape(-1, classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc: NDArray[np.float64] = (sums - n * (n + 1) / 2) / (n * (len(class_ids) - n))
    return auroc.T


def _midranks(ordered: Ints) -> NDArray[np.float64]:
    """Ranks from 1 of ascending rows; equal values share the mean of their ranks."""
    place = np.arange(ordered.shape[1])
    new = np.ones(ordered.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.roll(new, -1, axis=1)
    ends[:, -1] = True
    last = np.minimum.accumulate(np.where(ends, place, ordered.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return (first + last) / 2 + 1


def score_ranks(scores: Floats) -> Ints:
    """Rank from 1 along the first axis of scores, highest first, ties to the lower position."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, len(scores) + 1).reshape(-1, *[1] * (scores.ndim - 1)), 0)
    return ranks
