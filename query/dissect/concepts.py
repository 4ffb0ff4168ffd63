"""Network dissection: how well every neuron's active region matches every concept of a set of masks.

Bau et al. 2017 (arXiv 1704.05796): a neuron's region is its upsampled map above its own quantile; IoU with a concept
is taken over the whole data set, in pixels: intersection / (active + labelled - intersection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from .drawings import drawn_rings
from .masks import Masks

LABEL_IOU = 0.04
MAPS_AT_ONCE = 10_000_000  # values of stored maps
MASKS_HELD = 2000  # images, in the size of the model's input

Counts = NDArray[np.int64]
Kinds = tuple[NDArray[np.int16], list[frozenset[int]]]


@dataclass(frozen=True)
class Overlap:
    """Pixels over all images with a mask: `active` [unit], `labelled` [concept], `both` [unit, concept]."""

    active: Counts
    labelled: Counts
    both: Counts

    @classmethod
    def none(cls, units: int, concepts: int) -> Overlap:
        """Nothing counted yet."""
        return cls(np.zeros(units, np.int64), np.zeros(concepts, np.int64), np.zeros((units, concepts), np.int64))

    def add_labelled(self, kinds: NDArray[np.int16], concepts: list[frozenset[int]]) -> None:
        """Add the pixels of an image's concepts."""
        for pixels, shown in zip(np.bincount(kinds.reshape(-1), minlength=len(concepts)), concepts, strict=True):
            for concept in shown:
                self.labelled[concept] += pixels

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
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every neuron with its best concept, beside the best that the same search finds with masks of other images.

    Args:
        masks: of concepts, see open_masks. Images without a mask count nowhere.
        quantile: the neuron's own, above which it is active.
        layer: only neurons of this layer.
        seed: of the 19 drawings in which every image gets the masks of another.
        progress: told parts of layers done, and all of them.

    Returns:
        Columns layer, block, unit, threshold, negative, concept, iou; label: the concept where IoU > 0.04, missing
        elsewhere and for neurons with a negative threshold, which have no region of their own; chance: the largest best
        IoU of the drawings, what place and size of the objects alone give; passes: iou > chance, as for one neuron in
        20 where masks and images have nothing to do with each other. chance is NaN, and nothing passes, where fewer
        than two images have a mask.

    Raises:
        QueryError: the maps of all images are not stored, or an unknown quantile or layer.

    Example:
        >>> neuron_concepts(index, open_masks(index)).label.value_counts()
    """
    frames = []
    for frame, drawn in _by_layer(index, masks, quantile, layer, mask_drawings(masks, seed), progress):
        best = frame.loc[frame.fillna({"iou": -1.0}).groupby("unit", sort=False).iou.idxmax()]
        chance = np.max([np.nan_to_num(one.iou).max(1) for one in drawn], axis=0) if drawn else np.nan
        frames.append(best.assign(chance=chance))
    found = pd.concat(frames, ignore_index=True)
    label = found.concept.where((found.iou > LABEL_IOU) & ~found.negative)
    return found.assign(label=label, passes=found.iou > found.chance)


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
    frames = [frame for frame, _ in _by_layer(index, masks, quantile, layer, [], progress)]
    return pd.concat(frames, ignore_index=True)


def _by_layer(
    index: StoredIndex,
    masks: Masks,
    quantile: Quantile,
    layer: str | None,
    drawings: list[dict[int, int]],
    progress: Progress | None,
) -> Iterator[tuple[pd.DataFrame, list[Overlap]]]:
    """Layer by layer: every neuron with every concept, and the overlaps of the drawings."""
    if quantile not in QUANTILES:
        raise QueryError(
            f"no threshold '{quantile}' here: network dissection is defined by the neuron's own quantile",
            f"One of {', '.join(QUANTILES)}.",
        )
    if index.spec.maps not in ("uint8", "float16"):
        raise QueryError("this index does not hold the maps of all images", "Index again with --maps uint8.")
    if layer is not None:
        index.neuron_layer(layer, 0)
    names, layers = masks.concepts, [s for s in index.spec.layers if layer in (None, s.name)]
    done, steps, tell = count(1), len(layers) * len(list(_parts(index, masks))), progress or silent
    for spec in layers:
        threshold = quantiles(index, spec.name, list(range(spec.units)), quantile)
        found, *drawn = overlaps(index, masks, spec, threshold, drawings, lambda: tell(next(done), steps))
        columns = {"layer": spec.name, "block": spec.block, "unit": np.repeat(np.arange(spec.units), len(names))}
        frame = pd.DataFrame(columns)
        frame["threshold"] = np.repeat(threshold, len(names))
        frame["negative"] = frame.threshold < 0
        frame = frame.assign(concept=np.tile(np.array(names, object), spec.units), iou=found.iou.reshape(-1))
        yield frame, drawn


def mask_drawings(masks: Masks, seed: int) -> list[dict[int, int]]:
    """Every image with a mask by the image whose masks it gets: never its own."""
    ids, random = masks.images.image_id.to_numpy(), np.random.default_rng(seed)
    if len(ids) < 2:
        return []
    rings = drawn_rings(len(ids), random)
    return [dict(zip(ids[own].tolist(), ids[other].tolist(), strict=True)) for own, other in rings]


def overlaps(
    index: StoredIndex,
    masks: Masks,
    layer: LayerSpec,
    threshold: NDArray[np.float32],
    drawings: Sequence[dict[int, int]] = (),
    advance: Callable[[], object] = lambda: None,
) -> list[Overlap]:
    """A layer's pixels with the masks of the images, then with those of each drawing: maps are read and enlarged once.

    In memory are some units' maps of one part. `advance` is called whenever a part is done.
    """
    every = [Overlap.none(layer.units, len(masks.concepts)) for _ in range(1 + len(drawings))]
    of_image = lru_cache(MASKS_HELD)(lambda image_id: _kinds(masks, image_id))
    read = MapSource(index)
    for part, ids in _parts(index, masks):
        shown = [[of_image(i), *(of_image(drawing[i]) for drawing in drawings)] for i in ids]
        for seen in shown:
            for counts, (kinds, concepts) in zip(every, seen, strict=True):
                counts.add_labelled(kinds, concepts)
        step = max(1, MAPS_AT_ONCE // (part.images * index.spec.patches))
        for start in range(0, layer.units, step):
            units = np.arange(start, min(start + step, layer.units))
            for seen, maps in zip(shown, read(layer.name, units.tolist(), ids), strict=True):
                _count_image(every, units, maps, threshold[units], seen)
        advance()
    return every


def _kinds(masks: Masks, image_id: int) -> Kinds:
    """What every pixel of an image shows, and the concepts of each such kind: they may overlap."""
    _, height, width = masks.index.spec.preprocessing["input_size"]
    kinds, concepts = np.zeros((height, width), np.int64), [frozenset[int]()]
    for concept, mask in masks.of_concepts(image_id).items():
        found, places = np.unique(2 * kinds + mask, return_inverse=True)
        concepts = [concepts[k // 2] | ({concept} if k % 2 else set()) for k in found.tolist()]
        kinds = places.reshape(height, width)
    return kinds.astype(np.int16), concepts


def _parts(index: StoredIndex, masks: Masks) -> Iterator[tuple[Part, list[int]]]:
    ids = masks.images.image_id.to_numpy()
    for part in index.spec.parts:
        inside = ids[(ids >= part.start) & (ids < part.stop)]
        if len(inside):
            yield part, inside.tolist()


def _count_image(
    every: list[Overlap],
    units: NDArray[np.int64],
    maps: NDArray[np.float32],
    threshold: NDArray[np.float32],
    seen: list[Kinds],
) -> None:
    """Add one image's pixels of some units: only those whose largest patch is above the threshold can have any."""
    from .overlap_kernel import count_above, places_along  # Numba takes its time to import

    some = np.flatnonzero(maps.max((1, 2)) > threshold)
    kinds = np.stack([kinds for kinds, _ in seen])
    found = np.zeros((len(some), len(seen), 1 + int(kinds.max())), np.int64)
    along = (places_along(patches, pixels) for patches, pixels in zip(maps.shape[1:], kinds.shape[1:], strict=True))
    count_above(np.ascontiguousarray(maps[some]), threshold[some], kinds, *along, found)
    for i, (counts, (_, concepts)) in enumerate(zip(every, seen, strict=True)):
        counts.active[units[some]] += found[:, i].sum(1)
        for kind, shown in enumerate(concepts):
            for concept in shown:
                counts.both[units[some], concept] += found[:, i, kind]
