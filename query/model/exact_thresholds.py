"""Maps and thresholds in float32 from the model itself, for exact masks and for indexes that store no maps."""

from __future__ import annotations

from math import floor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.progress import Progress, silent, tracked
from .live_model import BATCH, LiveModel
from .map_quantiles import in_turns

SHARE = 0.99  # MILAN's quantile
TAIL_BYTES = 256_000_000  # largest values held at once; more units take more passes over the images
BATCH_BYTES = 128_000_000  # values of one batch


def live_maps(
    live: LiveModel,
    layer: str,
    units: NDArray[np.int64],
    image_ids: NDArray[np.int64],
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Maps of each unit's own images [unit, k], each image run once: float32 [unit, k, rows, columns]."""
    out = np.empty((*image_ids.shape, *live.spec.grid), np.float32)
    batch = _batch(live, [layer])
    every = np.unique(image_ids)
    for first in tracked(range(0, len(every), batch), progress):
        ids = every[first : first + batch]
        found = live.maps(layer, units.tolist(), ids.tolist())
        rows, ranks = np.nonzero(np.isin(image_ids, ids))
        out[rows, ranks] = found[np.searchsorted(ids, image_ids[rows, ranks]), rows]
    return out


def _batch(live: LiveModel, layers: list[str]) -> int:
    """Images whose values in all these layers fit BATCH_BYTES."""
    width = sum(live.index.neuron_layer(layer, 0).units for layer in layers)
    return min(BATCH, max(1, BATCH_BYTES // (4 * width * live.spec.tokens)))


def exact_thresholds(
    live: LiveModel, units: dict[str, NDArray[np.int64]], progress: Progress | None = None
) -> dict[str, NDArray[np.float32]]:
    """Each layer's exact 0.99 quantiles [unit] over all patches of all readable images, by Hazen's definition.

    Only the largest hundredth of a unit's values is held. Where that is too much for all units, they take
    turns; `progress` counts images, once for each turn.
    """
    readable = np.flatnonzero(live.index.reader.whole("valid"))
    values = len(readable) * live.spec.patches
    kept = values - floor(SHARE * values - 0.5)
    at_once = max(1, TAIL_BYTES // (16 * kept))  # as much again joins what is kept, and is copied
    found: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in units}
    turns = list(in_turns(units, at_once))
    for turn, group in enumerate(turns):

        def tell(images: int, total: int, turn: int = turn) -> None:
            (progress or silent)(turn * total + images, len(turns) * total)

        for layer, tail in _tails(live, group, readable, kept, tell).items():
            found[layer].append(_hazen(tail, values))
    return {layer: np.concatenate(pieces) for layer, pieces in found.items()}


def _tails(
    live: LiveModel, units: dict[str, NDArray[np.int64]], image_ids: NDArray[np.int64], kept: int, progress: Progress
) -> dict[str, Tensor]:
    """The `kept` largest values of each unit over all patches of images: [unit, kept], descending."""
    tails = {layer: torch.empty(len(chosen), 0, device=live.device) for layer, chosen in units.items()}
    batch = _batch(live, list(units))
    for first in range(0, len(image_ids), batch):
        with torch.inference_mode():
            answer = live.values(live.pixels(image_ids[first : first + batch].tolist()), list(units))
        for layer, chosen in units.items():
            values = live.patches(answer[layer])[..., chosen.tolist()].permute(2, 0, 1).flatten(1)
            tails[layer] = torch.cat([tails[layer], values], 1)
            if tails[layer].shape[1] > 2 * kept or first + batch >= len(image_ids):
                tails[layer] = tails[layer].topk(kept, 1).values
        progress(min(first + batch, len(image_ids)), len(image_ids))
    return tails


def _hazen(tail: Tensor, values: int) -> NDArray[np.float32]:
    """The quantile between the last two of the largest values, where Hazen's definition puts it: [unit]."""
    position = SHARE * values - 0.5
    share = position - floor(position)
    ends = tail[:, -2:].double().cpu().numpy()
    between: NDArray[np.float64] = ends[:, 1] + share * (ends[:, 0] - ends[:, 1])
    return between.astype(np.float32)
