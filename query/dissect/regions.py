"""Where in the image a class's key neurons are active: their regions against the object's mask.

    class_regions(index, "coin", masks=open_masks(index))   # one row an image and neuron
    region_unions(index, "coin", masks=open_masks(index))    # the top 1, 3, 10 together

What a region is, the threshold says: see region_rules. `energy` is the share of a neuron's positive activation inside
the mask, sum m_p max(a_p, 0) / sum max(a_p, 0) with m_p the mask's cover of patch p; NaN where nothing is positive.
`pointing`: whether the patch of its maximum lies in the mask (cover above 0.5). Neither depends on the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress
from ..drawing.terms import definitions
from ..lookups.class_images import class_images
from ..lookups.key_neurons import Ranking, chosen_ranking, key_neurons
from ..model.map_source import MapSource
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .masks import Bools, Masks, patch_cover
from .region_rules import NOBODY, RegionRule, Threshold, region_rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]
TOPS = (1, 3, 10)
Show = Literal["colours", "image"]  # regions in their neurons' colours, or the image inside the region alone
SHOWS: tuple[Show, ...] = get_args(Show)


def class_regions(
    index: StoredIndex,
    class_: str | int,
    k: int = 10,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Masks | None = None,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Active regions of a class's k key neurons on its images, one row an image and neuron.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        k: how many neurons.
        by: what ranks them, as for key_neurons.
        threshold: above it is active: 'qNN' (the neuron's own quantile: 'q95', or 'q995' for 0.995) or 'image:P' (the
            P-th percentile of the pixels of the image's own map, after the nonlinearity and cut at 0).
        masks: of the objects, for the columns that compare with them.
        weights, device: as for open_model, where maps are not stored.
        progress: told of the maps that are read for a quantile that is not stored.

    Returns:
        Columns image_id, path, the neuron's rank, layer, block, unit, threshold, negative (the neuron has no region of
        its own: never with image:P), cover (share of the image's pixels), and empty (no region here: nothing lies above
        the threshold, or that is negative); with masks also mask_share, iou, energy, pointing (NaN for images without a
        mask).

    Raises:
        QueryError: no class scores, no maps and no inputs, no image of the class, an unknown threshold, or a quantile
            that is not stored without the maps to compute it from.

    Example:
        >>> class_regions(index, "coin", k=3, threshold="image:80", masks=open_masks(index))
    """
    rule, neurons, images = _asked(index, class_, k, by, threshold, weights, device, progress)
    rows = []
    for image, maps, top in on_images(rule.reader, neurons, images):
        limits, active = rule.each(neurons, maps)
        mask = masks.object(image.image_id) if masks else None
        measured: dict[str, Any] = {
            "threshold": limits,
            "cover": active.mean((1, 2)),
            "empty": empty_regions(neurons, active),
        }
        if masks:
            measured |= inside(maps, top, active, mask)
        rows.append(neurons.assign(image_id=image.image_id, path=image.path, **measured))
    return pd.concat(rows, ignore_index=True)


def region_unions(
    index: StoredIndex,
    class_: str | int,
    tops: Sequence[int] = TOPS,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Masks | None = None,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What the regions of a class's first neurons cover together, one row an image and number of neurons.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        tops: how many neurons.
        by, threshold, masks, weights, device, progress: as for class_regions. With a neuron's own quantile the region
            is the union of the neurons' regions; with 'image:P' their maps (after the nonlinearity, negative values cut
            to 0) are summed, and the region is the sum above the P-th percentile of its own pixels.

    Returns:
        Columns image_id, path, top, neurons (those that have a region of their own), empty (how many of the `top` have
        no region on this image), cover; with masks also mask_share, iou.

    Raises:
        QueryError: as class_regions.

    Example:
        >>> region_unions(index, "coin", threshold="image:80").groupby("top").cover.mean()
    """
    rule, neurons, images = _asked(index, class_, max(tops), by, threshold, weights, device, progress)
    rows = []
    for image, maps, _ in on_images(rule.reader, neurons, images):
        empty = empty_regions(neurons, rule.each(neurons, maps)[1])
        mask = masks.object(image.image_id) if masks else None
        for top, owners in zip(tops, rule.together(neurons, maps, tops), strict=True):
            region = owners != NOBODY
            row = {"image_id": image.image_id, "path": image.path, "top": top}
            row |= {"neurons": (~neurons.negative[:top]).sum(), "empty": empty[:top].sum(), "cover": region.mean()}
            if masks:
                row |= {"mask_share": np.nan if mask is None else mask.mean(), "iou": iou(region, mask)}
            rows.append(row)
    return pd.DataFrame(rows)


def _asked(
    index: StoredIndex,
    class_: str | int,
    k: int,
    by: Ranking | None,
    threshold: Threshold,
    weights: str | Path | None,
    device: str | None,
    progress: Progress | None,
) -> tuple[RegionRule, pd.DataFrame, pd.DataFrame]:
    """The rule that the threshold names, a class's key neurons with theirs, and its images in order."""
    rule = region_rule(MapSource(index, weights, device), threshold)
    neurons = rule.thresholded(ranked(index, class_, k, by), progress)
    return rule, neurons, class_images(index, class_).sort_values("image_id")


def ranked(index: StoredIndex, class_: str | int, k: int, by: Ranking | None, layer: str | None = None) -> pd.DataFrame:
    """A class's key neurons, best first: rank, layer, block, unit."""
    at_least(1, k=k)
    return key_neurons(index, class_, k, by, layer)[["rank", "layer", "block", "unit"]]


def on_images(read: MapSource, neurons: pd.DataFrame, images: pd.DataFrame) -> Iterator[tuple[Any, Floats, Any]]:
    """For every image: its row, the neurons' maps [neuron, row, column] and the patch of each maximum [neuron]."""
    index, ids = read.index, images.image_id.tolist()
    maps = np.empty((len(ids), len(neurons), *index.spec.grid), np.float32)
    top = np.empty((len(ids), len(neurons)), np.int64)
    for layer, rows in neurons.groupby("layer").indices.items():
        units = neurons.unit.iloc[rows].tolist()
        maps[:, rows] = read(str(layer), units, ids)
        # the stored patch of the maximum: codes of a byte can tie where values do not
        top[:, rows] = index.reader.rows(f"{layer}/argmax", ids, units)
    yield from zip(images.itertuples(index=False), maps, top, strict=True)


def inside(maps: Floats, top: NDArray[np.int64], active: Bools, mask: Bools | None) -> dict[str, Any]:
    """mask_share, and iou, energy and pointing of every neuron: float64 [neuron]; NaN without a mask."""
    if mask is None:
        nothing = np.full(len(maps), np.nan)
        return {"mask_share": np.nan, "iou": nothing, "energy": nothing, "pointing": nothing}
    cover = patch_cover(mask, (maps.shape[1], maps.shape[2]))
    positive = np.maximum(maps, 0).astype(np.float64)
    total = positive.sum((1, 2))
    with np.errstate(invalid="ignore"):
        energy = (positive * cover).sum((1, 2)) / np.where(total > 0, total, np.nan)
    pointing = (cover.reshape(-1)[top] > 0.5).astype(np.float64)
    ious = np.array([iou(one, mask) for one in active])
    return {"mask_share": mask.mean(), "iou": ious, "energy": energy, "pointing": pointing}


def empty_regions(neurons: pd.DataFrame, active: Bools) -> Bools:
    """Which neurons have no region, of active pixels [neuron, y, x]: bool [neuron]."""
    empty: Bools = ~active.any((1, 2)) | neurons.negative.to_numpy(bool)
    return empty


def iou(active: Bools, mask: Bools | None) -> float:
    """Intersection over union of two sets of pixels; NaN without a mask or where both are empty."""
    if mask is None:
        return float("nan")
    union = int((active | mask).sum())
    return int((active & mask).sum()) / union if union else float("nan")


def regions_figure(
    index: StoredIndex,
    class_: str | int,
    tops: Sequence[int] = TOPS,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Masks | None = None,
    images: int = 4,
    show: Show = "colours",
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Figure:
    """The regions of a class's first neurons over some of its images, the object's edge in white.

    Args:
        class_, tops, by, threshold, masks, weights, device, progress: as for region_unions, whose regions these are.
        images: how many: those with a mask first, then the lowest numbers.
        show: 'colours': every pixel of a region in the colour of the neuron that it belongs to: with a neuron's own
            quantile the best of those active there, with 'image:P' the one that gives most to the sum. 'image': the
            image itself inside the region, black outside.

    Returns:
        A row for the images and one for each of `tops`.

    Raises:
        QueryError: as region_unions, and without inputs.

    Example:
        >>> regions_figure(index, "coin", threshold="image:80", show="image").savefig("coin.png")
    """
    at_least(1, images=images)
    from ..drawing.region_figure import Regions, draw_regions

    if show not in SHOWS:
        raise QueryError(f"regions cannot be shown as '{show}'", f"One of {', '.join(SHOWS)}.")
    by = chosen_ranking(index, by, class_)
    rule, neurons, every = _asked(index, class_, max(tops), by, threshold, weights, device, progress)
    has_mask = every.image_id.isin(masks.images.image_id) if masks else pd.Series(False, every.index)
    shown = every[has_mask].head(images)
    shown = pd.concat([shown, every[~has_mask].head(images - len(shown))])
    pixels = index.inputs(shown.image_id.tolist())
    owners = [rule.together(neurons, maps, tops) for _, maps, _ in on_images(rule.reader, neurons, shown)]
    objects = [masks.object(image_id) if masks else None for image_id in shown.image_id]
    title = f"{index.class_name(class_)}: first neurons by {by}, {rule.words}"
    first = f"those with a mask first ({has_mask.sum():,}), then " if masks and not has_mask.all() else ""
    over = f"{len(shown):,} of {len(every):,} images, {first}the lowest numbers first"
    edge = "; the object's edge is white" if masks else ""
    blank = f"{sum((one == NOBODY).all() for of in owners for one in of)} of {len(shown) * len(tops)}"
    caption = f"{title}.\n{over}{edge}; {blank} regions are empty.\n{definitions([by, 'region'])}"
    regions = Regions(pixels, owners, objects, neurons, tops)
    return draw_regions(regions, caption, None if show == "image" else rule.owner)
