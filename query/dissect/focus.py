"""Whether every class's first key neuron looks at the object, more than chance does.

    class_focus(index, open_masks(index))

Two things give energy inside an object without looking at it: where a class's objects usually lie, and what neurons do
that such a search finds. So there are two bars, each passed by chance once in 20: the largest energy of 19 drawings in
which every image gets the mask of another image of its class, and the largest of the neurons that the same search finds
with 19 heads that mean nothing. `chance` is the higher of the two. The ranking by AUROC knows no head: there the second
bar is what one in 20 random neurons of the block reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, tracked
from ..lookups.averages import mean, quantile, standard_error
from ..lookups.key_neurons import Ranking, chosen_ranking
from ..model.map_source import MapSource
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .drawings import drawn_rings
from .focus_chance import found_by_chance
from .masks import Masks, patch_cover
from .region_rules import RegionRule, Threshold, region_rule
from .regions import empty_regions, inside, on_images, ranked

Doubles = NDArray[np.float64]
ONE_IN = 20


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
    """Every class's first key neuron on the class's images, against other masks and random neurons of its block.

    Args:
        masks: of the objects. Classes without an image with a mask are left out.
        by: what ranks neurons, as for key_neurons.
        threshold: as for class_regions; only iou, random_iou and empty depend on it.
        layer: each class's first neuron of this layer.
        random: how many other units of the layer to compare with.
        seed: draws them, the masks and the heads.
        weights, device: as for open_model, where maps are not stored.
        progress: told classes done, and all classes; before that as for class_regions.

    Returns:
        Columns class_id, class, layer, block, unit, threshold (NaN with image:P, where every image has its own),
        negative, images (those with a mask), n (those of them on which the neuron is positive anywhere, whose mean
        energy is), empty (images without a region, as in class_regions), iou, energy,
        no_energy (images on which nothing is positive, which energy leaves out), pointing, mask_share; energy_se: the
        standard error of energy, which is a mean over images; random_iou, random_energy, random_pointing: means of the
        random neurons; random_05, random_95: the quantiles of their energies; exceeds: whether energy is larger than
        both mask_share and random_energy. chance_masks: the largest energy of 19 drawings with masks of other images of
        the class (NaN for one image); chance_neurons: the largest energy of the first neurons with 19 shuffled heads
        (by auroc: what one in 20 of the random neurons reaches, NaN where fewer than 19 have any); chance: the larger,
        NaN where one is; passes: energy is larger than chance and mask_share.

    Raises:
        QueryError: as class_regions, and where no image with a mask has a class.

    Example:
        >>> class_focus(index, open_masks(index)).passes.sum()
    """
    at_least(1, random=random)
    rule = region_rule(MapSource(index, weights, device), threshold)
    names = index.sql("SELECT class_id, class FROM classes ORDER BY class_id")
    names = names[names.class_id.isin(masks.images.class_id)]
    if names.empty:
        raise QueryError("no image with a mask has a class", "Give --masks DIR with masks of images that have one.")
    rankings = {c: chosen_ranking(index, by, c) for c in names.class_id}
    searches = {ranking: found_by_chance(index, ranking, layer, seed) for ranking in {*rankings.values()}}
    compared = [_compared(index, c, ranking, layer, random, seed, searches[ranking]) for c, ranking in rankings.items()]
    neurons = rule.thresholded(pd.concat(compared, ignore_index=True), progress)
    rows = []
    for class_id, name in tracked(list(names.itertuples(index=False)), progress):
        own = neurons[neurons.class_id == class_id].drop(columns="class_id").reset_index(drop=True)
        kinds = own.pop("kind").to_numpy()
        images = masks.images[masks.images.class_id == class_id]
        row = {"class_id": class_id, "class": name, **own.iloc[0], "images": len(images)}
        rows.append(
            row | _focus(_measured(rule, own, images, masks), kinds, np.random.default_rng((seed, class_id, 1)))
        )
    return pd.DataFrame(rows)


def _compared(
    index: StoredIndex, class_id: int, by: Ranking, layer: str | None, random: int, seed: int, search: pd.DataFrame
) -> pd.DataFrame:
    """A class's first neuron, random others of its layer, those found by chance: class_id, layer, block, unit, kind.

    kind: 'first', 'random' or 'found'.
    """
    first = ranked(index, class_id, 1, by, layer).iloc[0]
    others = np.delete(np.arange(index.neuron_layer(str(first.layer), int(first.unit)).units), int(first.unit))
    draw = np.random.default_rng((seed, class_id)).choice(others, min(random, len(others)), replace=False)
    units = [int(first.unit), *draw.tolist()]
    table = pd.DataFrame({"layer": first.layer, "block": first.block, "unit": units, "kind": "random"})
    table.loc[0, "kind"] = "first"
    found = search[search.class_id == class_id].drop(columns="class_id").assign(kind="found")
    return pd.concat([table, found] if len(found) else [table], ignore_index=True).assign(class_id=class_id)


@dataclass(frozen=True)
class _Measured:
    """Of a class's images: `iou`, `energy`, `pointing` and `empty` [image, neuron], the first neuron in front.

    `positive`: its positive activation [image, patch] as shares of the map's; NaN where nothing is. `cover`: the masks'
    share of every patch [image, patch]; `mask_share` [image]: of the whole.
    """

    iou: Doubles
    energy: Doubles
    pointing: Doubles
    empty: NDArray[np.bool_]
    positive: Doubles
    cover: Doubles
    mask_share: Doubles


def _measured(rule: RegionRule, neurons: pd.DataFrame, images: pd.DataFrame, masks: Masks) -> _Measured:
    found: dict[str, list[Any]] = {name: [] for name in _Measured.__dataclass_fields__}
    for image, maps, top in on_images(rule.reader, neurons, images):
        active, mask = rule.each(neurons, maps)[1], masks.object(image.image_id)
        positive = np.maximum(maps[0], 0).astype(np.float64).reshape(-1)
        total = positive.sum()
        cover = np.zeros(maps.shape[1:]) if mask is None else patch_cover(mask, (maps.shape[1], maps.shape[2]))
        one = inside(maps, top, active, mask) | {"empty": empty_regions(neurons, active), "cover": cover.reshape(-1)}
        for name, value in (one | {"positive": positive / (total if total > 0 else np.nan)}).items():
            found[name].append(value)
    return _Measured(**{name: np.array(values) for name, values in found.items()})


def _focus(measured: _Measured, kinds: NDArray[np.object_], draw: np.random.Generator) -> dict[str, Any]:
    """The columns of a class from `empty` on. kinds: of every neuron, see _compared."""
    three = {"iou": measured.iou, "energy": measured.energy, "pointing": measured.pointing}
    random = {name: np.array([mean(values) for values in of.T[kinds == "random"]]) for name, of in three.items()}
    own, share = {name: mean(of[:, 0]) for name, of in three.items()}, float(measured.mask_share.mean())
    row: dict[str, Any] = {"empty": int(measured.empty[:, 0].sum()), **own, "mask_share": share}
    silent = int(np.isnan(measured.energy[:, 0]).sum())
    row |= {"no_energy": silent, "n": len(measured.energy) - silent}
    row |= {"energy_se": standard_error(measured.energy[:, 0])}
    row |= {f"random_{name}": mean(values) for name, values in random.items()}
    row |= {f"random_{q:02}": quantile(random["energy"], q / 100) for q in (5, 95)}
    row["exceeds"] = own["energy"] > max(share, row["random_energy"])
    row["chance_masks"] = _of_other_masks(measured.positive @ measured.cover.T, draw)
    found = np.array([mean(values) for values in measured.energy.T[kinds == "found"]])
    row["chance_neurons"] = quantile(found, 1) if len(found) else _of_random_neurons(random["energy"])
    row["chance"] = float(np.maximum(row["chance_masks"], row["chance_neurons"]))  # NaN where one is
    row["passes"] = own["energy"] > share and own["energy"] > row["chance"]
    return row


def _of_other_masks(energy: Doubles, draw: np.random.Generator) -> float:
    """The largest mean of drawings in which every image gets the mask of another.

    energy: [image, mask], NaN for images on which nothing is positive. NaN for one image.
    """
    if len(energy) < 2:
        return float("nan")
    return float(np.max([mean(energy[own, other]) for own, other in drawn_rings(len(energy), draw)]))


def _of_random_neurons(energies: Sequence[float] | Doubles) -> float:
    """The energy [neuron] that a neuron as good as any of these is above once in 20; NaN where they are too few."""
    left = np.sort(np.asarray(energies)[~np.isnan(energies)])
    place = (len(left) + 1) // ONE_IN
    return float(left[-place]) if place else float("nan")
