"""Network dissection: how well every neuron's active region matches every concept of a set of masks.

Bau et al. 2017 (arXiv 1704.05796): a neuron's region is its upsampled map above its own quantile; IoU with a concept
is taken over the whole data set, in pixels: intersection / (active + labelled - intersection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ...schemas.run_spec import LayerSpec, Part
from ..lookups.neuron import QUANTILES, Quantile, quantiles
from ..model.map_source import MapSource
from ..stored.stored_index import StoredIndex
from .masks import Masks

LABEL_IOU = 0.04
MAPS_AT_ONCE = 10_000_000  # values of stored maps

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """Pixels over all images with a mask: `active` [unit], `labelled` [concept], `both` [unit, concept]."""

    active: Counts
    labelled: Counts
    both: Counts

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 [unit, concept]; NaN where neither is anywhere."""
        union = self.active[:, None] + self.labelled - self.both
        return np.where(union > 0, self.both / np.maximum(union, 1), np.nan)


def neuron_concepts(
    index: StoredIndex,
    masks: Masks,
    quantile: Quantile = "q99",
    layer: str | None = None,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every neuron with its best concept.

    Args:
        masks: of concepts, see open_masks. Images without a mask count nowhere.
        quantile: the neuron's own, above which it is active.
        layer: only neurons of this layer.
        progress: told parts of layers done, and all of them.

    Returns:
        Columns layer, block, unit, threshold, negative, concept, iou, label. label: the concept where IoU > 0.04, else
        missing, as for neurons with a negative threshold, which have no region of their own.

    Raises:
        QueryError: the maps of all images are not stored, or an unknown quantile or layer.

    Example:
        >>> neuron_concepts(index, open_masks(index)).label.value_counts()
    """
    every = concept_overlaps(index, masks, quantile, layer, progress=progress)
    best = every.loc[every.fillna({"iou": -1.0}).groupby(["layer", "unit"], sort=False).iou.idxmax()]
    label = best.concept.where((best.iou > LABEL_IOU) & ~best.negative)
    return best.assign(label=label).reset_index(drop=True)


def concept_overlaps(
    index: StoredIndex,
    masks: Masks,
    quantile: Quantile = "q99",
    layer: str | None = None,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """IoU of every neuron with every concept.

    Args:
        masks, quantile, layer, progress: as in neuron_concepts.

    Returns:
        Columns layer, block, unit, threshold, negative, concept, iou (over all images with a mask, in pixels).

    Raises:
        QueryError: as neuron_concepts.

    Example:
        >>> concept_overlaps(index, open_masks(index), layer="blocks.5.mlp.fc1").nlargest(10, "iou")
    """
    if quantile not in QUANTILES:
        raise QueryError(
            f"no threshold '{quantile}' here: network dissection is defined by the neuron's own quantile",
            f"One of {', '.join(QUANTILES)}.",
        )
    if index.spec.maps not in ("uint8", "float16"):
        raise QueryError("this index does not hold the maps of all images", "Index again with --maps uint8.")
    if layer is not None:
        index.neuron_layer(layer, 0)
    names = masks.concepts
    frames = []
    layers = [s for s in index.spec.layers if layer in (None, s.name)]
    done, steps, tell = count(1), len(layers) * len(list(_parts(index, masks))), progress or silent
    for spec in layers:
        threshold = quantiles(index, spec.name, list(range(spec.units)), quantile)
        found = overlap(index, masks, spec, threshold, lambda: tell(next(done), steps)).iou
        columns = {"layer": spec.name, "block": spec.block, "unit": np.repeat(np.arange(spec.units), len(names))}
        frame = pd.DataFrame(columns)
        frame["threshold"] = np.repeat(threshold, len(names))
        frame["negative"] = frame.threshold < 0
        frames.append(frame.assign(concept=np.tile(np.array(names, object), spec.units), iou=found.reshape(-1)))
    return pd.concat(frames, ignore_index=True)


def overlap(
    index: StoredIndex,
    masks: Masks,
    layer: LayerSpec,
    threshold: NDArray[np.float32],
    advance: Callable[[], object] = lambda: None,
) -> Overlap:
    """Count a layer's pixels, part by part: in memory are some units' maps of one part.

    `advance` is called whenever a part is done.
    """
    counts = Overlap(
        np.zeros(layer.units, np.int64),
        np.zeros(len(masks.concepts), np.int64),
        np.zeros((layer.units, len(masks.concepts)), np.int64),
    )
    read = MapSource(index)
    for part, ids in _parts(index, masks):
        shown = [_kinds(masks, i) for i in ids]
        for kinds, concepts in shown:
            pixels = np.bincount(kinds.reshape(-1), minlength=len(concepts))
            for concept in set().union(*concepts):
                counts.labelled[concept] += sum(n for n, of in zip(pixels, concepts, strict=True) if concept in of)
        step = max(1, MAPS_AT_ONCE // (part.images * index.spec.patches))
        for start in range(0, layer.units, step):
            units = range(start, min(start + step, layer.units))
            for (kinds, concepts), maps in zip(shown, read(layer.name, units, ids), strict=True):
                _count_image(counts, np.asarray(units), maps, threshold[units.start : units.stop], kinds, concepts)
        advance()
    return counts


def _kinds(masks: Masks, image_id: int) -> tuple[NDArray[np.int32], list[frozenset[int]]]:
    """What every pixel of an image shows, int32 [y, x], and the concepts of each such kind: they may overlap."""
    _, height, width = masks.index.spec.preprocessing["input_size"]
    kinds, concepts = np.zeros((height, width), np.int64), [frozenset[int]()]
    for concept, mask in masks.of_concepts(image_id).items():
        both = np.unique(2 * kinds + mask, return_inverse=True)
        concepts = [concepts[k // 2] | ({concept} if k % 2 else set()) for k in both[0].tolist()]
        kinds = both[1].reshape(height, width)
    return kinds.astype(np.int32), concepts


def _parts(index: StoredIndex, masks: Masks) -> Iterator[tuple[Part, list[int]]]:
    ids = masks.images.image_id.to_numpy()
    for part in index.spec.parts:
        inside = ids[(ids >= part.start) & (ids < part.stop)]
        if len(inside):
            yield part, inside.tolist()


def _count_image(
    counts: Overlap,
    units: NDArray[np.int64],
    maps: NDArray[np.float32],
    threshold: NDArray[np.float32],
    kinds: NDArray[np.int32],
    concepts: list[frozenset[int]],
) -> None:
    """Add one image's pixels of some units: only those whose largest patch is above the threshold can have any."""
    from .overlap_kernel import count_above, places_along  # Numba takes its time to import

    some = np.flatnonzero(maps.max((1, 2)) > threshold)
    found = np.zeros((len(some), len(concepts)), np.int64)
    along = (places_along(patches, pixels) for patches, pixels in zip(maps.shape[1:], kinds.shape, strict=True))
    count_above(np.ascontiguousarray(maps[some]), threshold[some], kinds, *along, found)
    counts.active[units[some]] += found.sum(1)
    for column, shown in zip(found.T, concepts, strict=True):
        for concept in shown:
            counts.both[units[some], concept] += column
