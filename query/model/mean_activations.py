"""The mean of h, what a layer's last linear layer reads, over an index's images. Imports torch: it may run a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...schemas.errors import STRANGE, DamagedIndex
from .edits import recording
from .live_model import BATCH, LiveModel

LOOKED_AT = 64  # images that the mean of register tokens is taken from: no index stores them


def mean_activations(live: LiveModel, layers: list[str], seed: int = 0) -> dict[str, Tensor]:
    """By layer, the mean of every unit on each prefix token and then on the patches: float32 [prefix + 1, unit].

    Of patches and the CLS token over all images. Of register tokens, which no index stores, over LOOKED_AT images drawn
    with `seed`.
    """
    registers = _register_means(live, layers, seed) if live.spec.prefix > int(live.spec.cls) else {}
    means = {}
    for layer in layers:
        query, units = "SELECT post_mean FROM neurons WHERE layer = ? ORDER BY unit", live.layer(layer).out.in_features
        patches = torch.tensor(live.index.look_up(query, [layer]).post_mean.to_numpy(np.float32))
        if len(patches) != units:
            raise DamagedIndex(f"the tables hold {len(patches)} units of {layer} instead of {units}", STRANGE)
        cls = [_cls_mean(live, layer)] if live.spec.cls else []
        means[layer] = torch.stack([*cls, *registers.get(layer, ()), patches])
    return means


def _cls_mean(live: LiveModel, layer: str) -> Tensor:
    """Over the readable images: float32 [unit]."""
    index = live.index
    valid, total = index.reader.whole("valid"), torch.zeros(index.neuron_layer(layer, 0).units, dtype=torch.float64)
    for first, values in index.reader.parts(f"{layer}/cls"):
        readable = values[valid[first : first + len(values)]]
        total += torch.from_numpy(live.activated(layer, readable)).double().sum(0)
    return (total / int(valid.sum())).float()


def _register_means(live: LiveModel, layers: list[str], seed: int) -> dict[str, Tensor]:
    """Over a few images: float32 [register, unit] by layer."""
    spec = live.spec
    readable = np.flatnonzero(live.index.reader.whole("valid"))
    some = np.sort(np.random.default_rng(seed).choice(readable, min(LOOKED_AT, len(readable)), replace=False))
    totals = {layer: torch.zeros(spec.prefix - int(spec.cls), live.layer(layer).units) for layer in layers}
    for start in range(0, len(some), BATCH):
        pixels = live.pixels(some[start : start + BATCH].tolist())
        modules = {layer: live.layer(layer).out for layer in layers}
        with torch.inference_mode(), recording(inputs=modules, no_more=True) as read:
            live(pixels, [])
        for layer, h in read.items():
            totals[layer] += h[:, int(spec.cls) : spec.prefix].float().sum(0).cpu()
    return {layer: total / len(some) for layer, total in totals.items()}
