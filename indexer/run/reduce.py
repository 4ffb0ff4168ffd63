"""From a layer's values to its summaries and maps: in torch, for every device; compiled for the CPU; fused for CUDA.

reduced = reduce_plain(x, y, prefix, "uint8")     # {"max": [image, neuron], ..., "map": [image, neuron, patch]}

x: values [image, token, neuron] before the nonlinearity, y: after it, in the precision of the forward pass. Everything
is reduced in float32. The other two give the same extremes, places and codes, and means within 1e-5.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from ...data.models.device import current
from ...schemas.run_spec import TOKEN_TOP, Maps
from ...schemas.storage.map_codes import CODES
from ..memory import as_stored, large_zeros
from . import kernels

KERNEL_LEAVES = ("max", "min", "mean", "argmax", "post_mean", "token_top", "map")  # in the order of its arguments
Room = dict[str, Tensor]


def reduce_plain(x: Tensor, y: Tensor, prefix: int, maps: Maps) -> dict[str, Tensor]:
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


def room_for(images: int, tokens: int, prefix: int, units: int, maps: Maps) -> Room:
    """Arrays for what a layer of up to so many images leaves.

    Made before the forward pass and used by every batch: what is allocated within it and stays lands between the large
    tensors that go, and their room cannot be used again (0.7 GB of ViT-S/16 in batches of 32).
    """
    of_neuron, patches = (images, units), tokens - prefix
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "max": (of_neuron, np.float32),
        "min": (of_neuron, np.float32),
        "mean": (of_neuron, np.float32),
        "argmax": (of_neuron, np.uint16),
        "post_mean": (of_neuron, np.float32),
        "token_top": ((images, tokens, TOKEN_TOP), np.uint16),
        "map": ((images, units, patches) if maps in ("uint8", "exemplars") else (images, 0, 0), np.uint8),
        "argmin": (of_neuron, np.uint16),
        "cls": (of_neuron, np.float32),
        "activated": (of_neuron, np.float32),
    }
    return {leaf: torch.from_numpy(large_zeros(shape, dtype)) for leaf, (shape, dtype) in shapes.items()}


def first_rows(room: Tensor, images: int) -> Tensor:
    """Of a whole batch the room itself: even a view is an allocation that stays."""
    return room if len(room) == images else room[:images]


def reduce_compiled(x: Tensor, y: Tensor, prefix: int, maps: Maps, room: Room) -> dict[str, Tensor]:
    """The same on the CPU, by a kernel that reads x once. What it returned for the same room before is overwritten."""
    out = {leaf: first_rows(room[leaf], len(x)) for leaf in KERNEL_LEAVES}
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    kernels.summarise(as_stored(x), as_stored(y), prefix, *(values.numpy() for values in out.values()))
    if maps == "float16":
        out["map"] = x[:, prefix:].transpose(1, 2).half()
    elif maps == "none":
        del out["map"]
    return out


def reduce_fused(x: Tensor, y: Tensor, prefix: int, maps: Maps) -> dict[str, Tensor]:
    """The same on a CUDA device, by kernels that read x twice."""
    from .fused_kernels import summarise  # Triton is there where torch is made for CUDA

    images, tokens, units = x.shape
    coded = maps in ("uint8", "exemplars")
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "max": ((images, units), torch.float32),
        "min": ((images, units), torch.float32),
        "mean": ((images, units), torch.float32),
        "argmax": ((images, units), torch.uint16),
        "post_mean": ((images, units), torch.float32),
        "token_top": ((images, tokens, TOKEN_TOP), torch.uint16),
        "map": ((images, units, tokens - prefix) if coded else (0,), torch.uint8),
    }
    out = {leaf: torch.empty(shape, dtype=dtype, device=x.device) for leaf, (shape, dtype) in shapes.items()}
    summarise(x.contiguous(), y.contiguous(), prefix, *(out[leaf] for leaf in KERNEL_LEAVES))
    if maps == "float16":
        out["map"] = x[:, prefix:].transpose(1, 2).half()
    elif maps == "none":
        del out["map"]
    return out


def without_kernels(device: str) -> str | None:
    """Why the layers cannot be reduced by kernels on a device, found by trying; None where they can."""
    if device == "cpu":
        return None
    if not device.startswith("cuda"):
        return f"there are none for {device}"
    try:
        from ..statistics import fused_counts  # noqa: F401

        with current(device):
            few = torch.zeros(1, 2, TOKEN_TOP, device=device)
            reduce_fused(few, few, 1, "uint8")["map"].cpu()
    except Exception as error:  # no Triton, no compiler for its launchers, a device that it does not know, ...
        return str(error).strip().split("\n")[0] or type(error).__name__
    return None
