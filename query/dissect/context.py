"""Context: how much of what a class's neurons do lies on the background, and which classes live from it.

The object's mask splits an image in two. What counts is how far a share on the background goes beyond the background's
own area: where a map has nothing to do with the mask, both are alike on the mean, and as alike as with the masks of
other images. So chance is what 19 drawings of other masks give beyond their areas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent, tracked
from ...schemas.run_spec import READOUTS
from ..lookups.averages import mean, standard_error
from ..lookups.key_neurons import Ranking, chosen_ranking, key_neurons
from ..model.map_source import MapSource
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .concepts import mask_drawings
from .masks import Masks, patch_cover

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def class_context(
    index: StoredIndex,
    masks: Masks,
    k: int = 10,
    by: Ranking | None = None,
    layer: str | None = None,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How much of what each class's first k neurons do on its images lies outside the object's mask.

    Args:
        masks: of the objects. Classes without an image with a mask are left out.
        k: how many neurons of each class.
        by: what ranks them, as for key_neurons.
        layer: only neurons of this layer.
        seed: of the 19 drawings in which every image gets the mask of another.
        weights, device: as for open_model, where maps are not stored.
        progress: told masks and classes done, and all of them.

    Returns:
        Columns class_id, class, neurons, unread (how many of them are of a last block whose patches no head reads),
        images (with a mask, on which the neurons do anything positive), silent (those on which they do not, left out),
        background (its mean share of the image); energy_outside (mean over images and neurons of the share of
        max(a, 0) on the background) and contribution_outside (mean over images of the share of max(act(a) * folded
        score, 0), summed over the neurons; raw score where no folded one is defined), each with its standard error
        over the images (energy_se, and se of contributions), energy_chance, chance (background, and what the
        shares exceed it by in the largest of the drawings), energy_passes and lives_from_background: whether the share
        is larger than background and chance; NaN and False where fewer than two images have a mask.

    Raises:
        QueryError: no head, no maps and no inputs, an unknown layer or ranking, or no image with a mask has a class.

    Example:
        >>> class_context(index, open_masks(index)).query("lives_from_background")["class"].tolist()
    """
    at_least(1, k=k)
    by = chosen_ranking(index, by)
    read, score = MapSource(index, weights, device), "folded" if index.spec.readout in READOUTS else "score"
    of_class = masks.images.class_id.to_numpy(np.float64, na_value=np.nan)
    classes = np.unique(of_class[~np.isnan(of_class)]).astype(int).tolist()
    if not classes:
        raise QueryError("no image with a mask has a class", "Name the folders of images by class or WordNet id.")
    ids, tell = masks.images.image_id.tolist(), progress or silent
    steps = len(ids) + len(classes)
    covers = np.array([_cover(masks, image_id) for image_id in tracked(ids, lambda done, _: tell(done, steps))])
    others, last = _other_masks(masks, seed), max(spec.block for spec in index.spec.layers)
    rows = []
    for class_id in tracked(classes, lambda done, _: tell(len(ids) + done, steps)):
        neurons, own = key_neurons(index, class_id, k, by, layer), np.flatnonzero(of_class == class_id)
        unread = int((neurons.block == last).sum()) if index.spec.readout == "token" else 0
        where = _where(read, neurons, score, [ids[i] for i in own])
        row = {"class_id": class_id, "class": neurons["class"].iloc[0], "neurons": len(neurons), "unread": unread}
        rows.append(row | _outside(where, covers, own, others))
    return pd.DataFrame(rows)


def _cover(masks: Masks, image_id: int) -> NDArray[np.float32]:
    """The mask's share of every patch: float32 [patch]."""
    mask = masks.object(image_id)
    assert mask is not None  # of the images that have one
    return patch_cover(mask, masks.index.spec.grid).reshape(-1).astype(np.float32)


def _other_masks(masks: Masks, seed: int) -> Ints:
    """In every drawing, the place of the image whose mask each image gets: int64 [drawing, image]."""
    place = {image_id: i for i, image_id in enumerate(masks.images.image_id)}
    found = [[place[drawing[image_id]] for image_id in place] for drawing in mask_drawings(masks, seed)]
    return np.array(found, np.int64).reshape(-1, len(place))


def _where(read: MapSource, neurons: pd.DataFrame, score: str, ids: list[int]) -> dict[str, Floats]:
    """Where on each image the neurons are active, and where they contribute: [image, patch], of sum 1.

    NaN on an image on which nothing is positive. Energy is the mean over the neurons, each with a sum of 1.
    """
    energy, active = np.zeros((len(ids), read.index.spec.patches)), np.zeros((len(ids), 1))
    contribution = np.zeros_like(energy)
    for name, places in neurons.groupby("layer").indices.items():
        some = neurons.iloc[places]
        maps = read(str(name), some.unit.tolist(), ids).reshape(len(ids), len(some), -1)
        positive = np.maximum(maps, 0).astype(np.float64)
        total = positive.sum(2, keepdims=True)
        energy += (positive / np.where(total > 0, total, 1)).sum(1)
        active += (total > 0).sum(1)
        said = read.activated(str(name), maps) * some[score].to_numpy(np.float64)[:, None]
        contribution += np.maximum(said, 0).sum(1)
    total = contribution.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return {"energy": energy / np.where(active > 0, active, np.nan),
                "contribution": contribution / np.where(total > 0, total, np.nan)}  # fmt: skip


def _outside(where: dict[str, Floats], covers: NDArray[np.float32], own: Ints, others: Ints) -> dict[str, Any]:
    """A class's shares outside the masks, of its images at the places `own`, and what other masks give."""
    does = ~np.any([np.isnan(of).any(1) for of in where.values()], axis=0)
    images, background = own[does], float((1 - covers[own[does]].mean(1)).mean()) if does.any() else np.nan
    row: dict[str, Any] = {"images": len(images), "silent": int((~does).sum()), "background": background}
    for name, of in where.items():
        shares = _shares(of[does], covers[images])
        drawn = [(_shares(of[does], covers[masks]) - 1 + covers[masks].mean(1)).mean() for masks in others[:, images]]
        share, error = mean(shares), standard_error(shares)
        chance = background + float(max(drawn)) if drawn and len(shares) else np.nan
        prefix = "energy_" if name == "energy" else ""
        row |= {f"{name}_outside": share, f"{prefix}se": error, f"{prefix}chance": chance}
        row["energy_passes" if prefix else "lives_from_background"] = share > background and share > chance
    return row


def _shares(where: Floats, covers: NDArray[np.float32]) -> Floats:
    """What of each image's map lies outside a mask: float64 [image]."""
    shares: Floats = 1 - (where * covers).sum(1)
    return shares
