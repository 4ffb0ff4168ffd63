"""Maps of each neuron's top images alone (`--maps exemplars`): a running top-k on the device, saved part by part.

A part's file holds the maps that are in the top k when the part ends and belong to the part's own images; together the
parts hold every map of the final top k. A resumed run and each of several workers begin with an empty top k: they keep
some maps too many, never one too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

_ID_BITS = 32
_NO_KEY = -(2**63)


def rank_keys(values: Tensor, ids: Tensor) -> Tensor:
    """int64 keys that sort by value descending, then by id ascending, as plain descending integers."""
    bits = values.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys: Tensor = (ordered << _ID_BITS) | (2**_ID_BITS - 1 - ids.long())
    return keys


def key_ids(keys: Tensor) -> Tensor:
    """The ids that keys hold."""
    ids: Tensor = 2**_ID_BITS - 1 - (keys & (2**_ID_BITS - 1))
    return ids


class RunningMaps:
    """The k best images of every neuron of one layer so far, with their codes: uint8 [neuron, k, patch]."""

    def __init__(self, units: int, k: int, patches: int, device: torch.device) -> None:
        self.keys = torch.full((units, k), _NO_KEY, dtype=torch.int64, device=device)
        self.codes = torch.zeros(units, k, patches, dtype=torch.uint8, device=device)
        self._rows = torch.arange(units, device=device)

    def add(self, high: Tensor, ids: Tensor, codes: Tensor) -> None:
        """A batch's maxima [image, neuron], image ids and codes [image, neuron, patch]."""
        add = self.one_by_one if self.keys.device.type == "cpu" else self.together
        add(rank_keys(high, ids[:, None].expand_as(high)), codes)

    def one_by_one(self, keys: Tensor, codes: Tensor) -> None:
        """Moves nothing but the maps of images that are better, soon few; but looks at each image."""
        for new, maps in zip(keys, codes, strict=True):
            least, slot = self.keys.min(1)
            better = self._rows[new > least]
            self.keys[better, slot[better]] = new[better]
            self.codes[better, slot[better]] = maps[better]

    def together(self, keys: Tensor, codes: Tensor) -> None:
        """Moves every map that is kept, and asks the device nothing: launches would be too many, and wait for it."""
        k = self.keys.shape[1]
        self.keys, at = torch.cat([self.keys, keys.T], 1).topk(k, 1)
        here = self.codes.gather(1, at.clamp(max=k - 1)[..., None].expand_as(self.codes))
        self.codes = torch.where((at < k)[..., None], here, codes[(at - k).clamp(min=0), self._rows[:, None]])

    def of_images(self, start: int, stop: int) -> Callable[[], bytes]:
        """What packs the maps of the images [start, stop) that are kept now, as a safetensors file.

        On a device it waits, so it is for another thread; `together` leaves the tensors that it holds as they are.
        """
        pack = partial(_packed, self.keys, self.codes, start, stop)
        if self.keys.device.type != "cpu":
            return pack
        content = pack()  # before the next images change them
        return lambda: content


def _packed(keys: Tensor, codes: Tensor, start: int, stop: int) -> bytes:
    ids = key_ids(keys)
    unit, slot = torch.nonzero((ids >= start) & (ids < stop) & (keys != _NO_KEY), as_tuple=True)
    return save(
        {
            "image": ids[unit, slot].cpu().numpy().astype(np.int32),
            "unit": unit.cpu().numpy().astype(np.int32),
            "codes": codes[unit, slot].cpu().numpy(),
        }
    )


def gather(kept: Iterable[bytes], top: NDArray[np.int64], images: int) -> NDArray[np.uint8]:
    """Codes [neuron, rank, patch] of the images top [neuron, rank] (-1: none) from what parts have kept."""
    units, ranks = top.shape
    flat = np.arange(units)[:, None] * images + top
    order = np.argsort(flat, axis=None)
    keys = flat.ravel()[order]
    out: NDArray[np.uint8] | None = None
    filled = 0
    for content in kept:
        saved = load(content)
        own = saved["unit"].astype(np.int64) * images + saved["image"]
        at = np.searchsorted(keys, own)
        hit = (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == own)
        if out is None:
            out = np.zeros((units * ranks, saved["codes"].shape[1]), np.uint8)
        out[order[at[hit]]] = saved["codes"][hit]
        filled += int(hit.sum())
    assert out is not None
    assert filled == int((top >= 0).sum()), "a map of the top exemplars was not kept"
    return out.reshape(units, ranks, -1)
