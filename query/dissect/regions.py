"""Where in the image a class's key neurons are active: their regions against the object's mask.

    class_regions(index, "coin", masks=open_masks(index))   # one row an image and neuron
    region_unions(index, "coin", masks=open_masks(index))    # the top 1, 3, 10 together
    class_focus(index, open_masks(index))                   # every class's first neuron against chance

A neuron's region is its upsampled map above its own quantile (Bau et al. 2017). A quantile below zero is flagged
(`negative`): such a neuron has no region of its own, so unions leave it out. `energy` is the share of its positive
activation inside the mask, sum m_p max(a_p, 0) / sum max(a_p, 0) with m_p the mask's cover of patch p; NaN where
nothing is positive. `pointing`: whether the patch of its maximum lies in the mask (cover above 0.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.progress import Progress, tracked
from ..drawing.upsample import smooth
from ..lookups.class_images import class_images
from ..lookups.key_neurons import Ranking, key_neurons
from ..lookups.neuron import with_thresholds
from ..model.map_source import MapSource
from ..stored.stored_index import StoredIndex
from .masks import Bools, Masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]
Threshold = Literal["q99", "q995"]
THRESHOLDS = "q99 or q995, the neuron's own quantiles"
TOPS = (1, 3, 10)


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
) -> pd.DataFrame:
    """Active regions of a class's k key neurons on its images, one row an image and neuron.

    Columns: image_id, path, the neuron's rank, layer, block, unit, threshold, negative, and cover (share of the
    image's pixels); with masks also mask_share, iou, energy, pointing (NaN for images without a mask).
    Maps that are not stored are computed anew (`weights` as in open_model).
    Raises QueryError where the index has no class scores, no maps and no inputs, or no image of the class.
    """
    neurons = thresholded(index, class_, k, by, threshold)
    images = class_images(index, class_).sort_values("image_id")
    rows = []
    for image, maps, top in on_images(index, neurons, images, weights, device):
        active = active_pixels(index, maps, neurons)
        mask = masks.object(image.image_id) if masks else None
        measured: dict[str, Any] = {"cover": active.mean((1, 2))}
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
) -> pd.DataFrame:
    """What the regions of a class's first neurons cover together, one row an image and number of neurons.

    Columns: image_id, path, top, neurons (those with a region of their own), cover; with masks also mask_share, iou.
    """
    neurons = thresholded(index, class_, max(tops), by, threshold)
    images = class_images(index, class_).sort_values("image_id")
    rows = []
    for image, maps, _ in on_images(index, neurons, images, weights, device):
        active = active_pixels(index, maps, neurons)
        mask = masks.object(image.image_id) if masks else None
        for top in tops:
            own = ((neurons["rank"] <= top) & ~neurons.negative).to_numpy()
            union: Bools = np.asarray(active[own].any(0))
            row = {"image_id": image.image_id, "path": image.path, "top": top, "neurons": own.sum()}
            row["cover"] = union.mean()
            if masks:
                row |= {"mask_share": np.nan if mask is None else mask.mean(), "iou": iou(union, mask)}
            rows.append(row)
    return pd.DataFrame(rows)


def class_focus(
    index: StoredIndex,
    masks: Masks,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    layer: str | None = None,
    random: int = 50,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every class's first key neuron on the class's images, against the mask's share and random neurons of its block.

    Columns: class_id, class, layer, block, unit, threshold, negative, images (those with a mask), iou, energy,
    no_energy (images on which nothing is positive, which energy leaves out), pointing, mask_share; random_iou,
    random_energy, random_pointing: means of `random` other units of the layer, drawn by `seed`; exceeds: whether
    energy is larger than both mask_share and random_energy. layer: each class's first neuron of this layer.
    Classes without an image with a mask are left out.
    """
    classes = index.sql("SELECT class_id, class FROM classes ORDER BY class_id")
    rows = []
    for class_id, name in tracked(list(classes.itertuples(index=False)), progress):
        images = masks.images[masks.images.class_id == class_id]
        if images.empty:
            continue
        first = thresholded(index, class_id, 1, by, threshold, layer)
        home, unit = str(first.layer[0]), int(first.unit[0])
        others = np.delete(np.arange(index.neuron_layer(home, unit).units), unit)
        draw = np.random.default_rng((seed, class_id)).choice(others, min(random, len(others)), replace=False)
        neurons = with_thresholds(index, pd.DataFrame({"layer": home, "unit": [unit, *draw.tolist()]}), threshold)
        found: list[dict[str, Floats]] = []
        for image, maps, top in on_images(index, neurons, images, weights, device):
            active = active_pixels(index, maps, neurons)
            found.append(inside(maps, top, active, masks.object(image.image_id)))
        measured = {key: np.array([one[key] for one in found]) for key in ("iou", "energy", "pointing")}
        row = {"class_id": class_id, "class": name, **first.drop(columns="rank").iloc[0], "images": len(images)}
        row |= {key: mean(values[:, 0]) for key, values in measured.items()}
        row["no_energy"] = int(np.isnan(measured["energy"][:, 0]).sum())
        row["mask_share"] = float(np.mean([one["mask_share"] for one in found]))
        row |= {f"random_{key}": mean(np.array([mean(v) for v in values[:, 1:].T])) for key, values in measured.items()}
        row["exceeds"] = row["energy"] > max(row["mask_share"], row["random_energy"])
        rows.append(row)
    return pd.DataFrame(rows)


def thresholded(
    index: StoredIndex, class_: str | int, k: int, by: Ranking | None, threshold: Threshold, layer: str | None = None
) -> pd.DataFrame:
    """A class's key neurons with their thresholds: rank, layer, block, unit, threshold, negative."""
    ranked = key_neurons(index, class_, k, by, layer)
    return with_thresholds(index, ranked[["rank", "layer", "block", "unit"]], threshold)


def on_images(
    index: StoredIndex,
    neurons: pd.DataFrame,
    images: pd.DataFrame,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Iterator[tuple[Any, Floats, Any]]:
    """For every image: its row, the neurons' maps [neuron, row, column] and the patch of each maximum [neuron]."""
    ids = images.image_id.tolist()
    maps = np.empty((len(ids), len(neurons), *index.spec.grid), np.float32)
    read = MapSource(index, weights, device)
    top = np.empty((len(ids), len(neurons)), np.int64)
    for layer, rows in neurons.groupby("layer").indices.items():
        units = neurons.unit.iloc[rows].tolist()
        maps[:, rows] = read(str(layer), units, ids)
        # the stored patch of the maximum: codes of a byte can tie where values do not
        top[:, rows] = index.reader.rows(f"{layer}/argmax", ids, units)
    yield from zip(images.itertuples(index=False), maps, top, strict=True)


def active_pixels(index: StoredIndex, maps: Floats, neurons: pd.DataFrame) -> Bools:
    """Maps [neuron, row, column] above their neurons' thresholds: bool [neuron, y, x] at the model's input size."""
    _, height, width = index.spec.preprocessing["input_size"]
    active: Bools = smooth(maps, height, width) > neurons.threshold.to_numpy()[:, None, None]
    return active


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


def patch_cover(mask: Bools, grid: tuple[int, int]) -> NDArray[np.float64]:
    """The mask's share of every patch: float64 [row, column]."""
    rows, columns = grid
    height, width = mask.shape[0] // rows, mask.shape[1] // columns
    patches = mask[: rows * height, : columns * width].reshape(rows, height, columns, width)
    cover: NDArray[np.float64] = patches.mean((1, 3))
    return cover


def iou(active: Bools, mask: Bools | None) -> float:
    """Intersection over union of two sets of pixels; NaN without a mask or where both are empty."""
    if mask is None:
        return float("nan")
    union = int((active | mask).sum())
    return int((active & mask).sum()) / union if union else float("nan")


def mean(values: NDArray[Any]) -> float:
    """The mean without NaN; NaN where nothing is left."""
    left = values[~np.isnan(values)]
    return float(left.mean()) if len(left) else float("nan")


def regions_figure(
    index: StoredIndex,
    class_: str | int,
    tops: Sequence[int] = TOPS,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Masks | None = None,
    images: int = 4,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Figure:
    """The regions of a class's first neurons over some of its images, the object's edge in white.

    A row for the images and one for each of `tops`. Raises QueryError without inputs, and as `unions` does.
    """
    from ..drawing.region_figure import Regions, draw_regions

    neurons = thresholded(index, class_, max(tops), by, threshold)
    shown = class_images(index, class_).sort_values("image_id").head(images)
    pixels = index.inputs(shown.image_id.tolist())
    found = [
        (active_pixels(index, maps, neurons), masks.object(image.image_id) if masks else None)
        for image, maps, _ in on_images(index, neurons, shown, weights, device)
    ]
    return draw_regions(Regions(pixels, [active for active, _ in found], [mask for _, mask in found], neurons), tops)
