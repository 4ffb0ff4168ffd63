"""From a layer's values to its summaries and maps: once in torch, for every device, and once compiled for the CPU.

reduced = reduce_plain(x, y, prefix, "uint8")     # {"max": [image, neuron], ..., "map": [image, neuron, patch]}

x: values [image, token, neuron] before the nonlinearity, y: behind it, in the precision of the forward pass. Everything
is reduced in float32. The compiled version gives the same extremes, places and codes, and means within 1e-5.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..schemas.codes import CODES
from ..schemas.records import TOKEN_TOP
from . import kernels
from .machine import large_zeros

Room = dict[str, NDArray[Any]]


def reduce_plain(x: Tensor, y: Tensor, prefix: int, maps: str) -> dict[str, Tensor]:
    """The definition, in torch."""
    values = x.float()[:, prefix:].transpose(1, 2).contiguous()
    high, argmax = values.max(2)
    low = values.amin(2)
    out = {
        "max": high,
        "min": low,
        "mean": values.mean(2),
        "argmax": argmax.to(torch.int32),
        "post_mean": y.float()[:, prefix:].mean(1),
        "token_top": x.float().topk(TOKEN_TOP, 2).indices.to(torch.int32),
    }
    if maps == "float16":
        out["map"] = values.half()
    elif maps != "none":
        out["map"] = encode_maps(values, low, high)
    return out


def encode_maps(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Codes of maps [..., patch] between their own minimum and maximum: uint8; a range of 0 is code 0."""
    span = high - low
    scale = torch.where(span > 0, span.new_tensor(CODES) / span, 0.0)  # number / tensor would round twice
    return ((maps - low[..., None]) * scale[..., None]).round_().clamp_(0, CODES).to(torch.uint8)


def reduce_compiled(x: Tensor, y: Tensor, prefix: int, maps: str, room: Room | None = None) -> dict[str, Tensor]:
    """The same on the CPU, by a kernel that reads x once. What it returned for an earlier `room` is overwritten."""
    raw, active = as_stored(x), as_stored(y)
    images, tokens, units = raw.shape
    of_neuron, coded = (images, units), maps in ("uint8", "exemplars")
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "max": (of_neuron, np.float32),
        "min": (of_neuron, np.float32),
        "mean": (of_neuron, np.float32),
        "argmax": (of_neuron, np.uint16),
        "post_mean": (of_neuron, np.float32),
        "token_top": ((images, tokens, TOKEN_TOP), np.uint16),
        "map": ((images, units, tokens - prefix) if coded else (images, 0, 0), np.uint8),
    }
    found = _arrays(shapes, {} if room is None else room)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    kernels.summarise(raw, active, prefix, *found.values())
    if not coded:
        del found["map"]
    out = {leaf: torch.from_numpy(array) for leaf, array in found.items()}
    if maps == "float16":
        out["map"] = x[:, prefix:].transpose(1, 2).half()
    return out


def _arrays(shapes: dict[str, tuple[tuple[int, ...], type]], room: Room) -> Room:
    """The first rows of the arrays in `room`, where they have enough: fresh memory costs more than filling it."""
    for leaf, (shape, dtype) in shapes.items():
        if leaf not in room or len(room[leaf]) < shape[0]:
            room[leaf] = large_zeros(shape, dtype)
    return {leaf: room[leaf][: shape[0]] for leaf, (shape, _) in shapes.items()}


def as_stored(x: Tensor) -> NDArray[Any]:
    """Values on the CPU as the kernels read them: float32, or the bits of bfloat16 as uint16."""
    x = x.contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy()
    return x.float().numpy()
