"""Statistics of every neuron over patches, gathered while indexing: counts for the thresholds, moments, the tail.

    statistics = Statistics(layers, exact=tail_length(values), device="cpu")
    statistics.add("blocks.0.mlp.fc1", values)      # [neuron, value], float32
    state = statistics.state_of("blocks.0.mlp.fc1")  # arrays; saved_state.py packs those of all layers for `load`

Values fall into bins on a float scale around the neuron's own 0.99 quantile and in units of its own spread (both of
images from all over the set, run/calibrate.py): 128 steps an octave from 2**-8 to 2**10, both ways, so that bins are
finest where the thresholds are. Where many values lie beyond, the bins become wider by octaves (wider_bins.py).
Between bin edges a quantile is interpolated. Largest rank errors at 0.99 on real activations (benchmarks/NOTES.md):
bins around zero, alike for all, 0.0015; around the mean 0.0007; these 0.0001. Sets of at most EXACT_VALUES values a
neuron also keep their largest values themselves: their quantiles from 0.99 upwards are exact (Hazen's definition).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.run_spec import LayerSpec
from ..memory import as_stored, large_zeros
from . import count_kernels
from .bins import BINS, EDGES
from .wider_bins import counted, needed_octaves, overflowing, where_bins_lie, widen

EXACT_VALUES = 2**16
COUNTED_VALUES = 800_000  # enough for a standard error of 1.1e-4 of rank at 0.99


def counted_patches(images: int, patches: int) -> int:
    """How many patches of every image are counted: all in small sets, else enough for COUNTED_VALUES a neuron.

    A few patches of every image, not all patches of a few: patches of one image resemble each other.
    """
    return min(patches, max(1, ceil(COUNTED_VALUES / images)))


def tail_length(images: int, patches: int) -> int:
    """Largest values kept for each neuron: enough for the 0.99 quantile of a small set, none in a large one."""
    values = images * patches
    return min(values, ceil(0.01 * values) + 2) if values <= EXACT_VALUES else 0


def pick_patches(image_ids: Sequence[int], patches: int, count: int) -> Tensor:
    """The counted patches of each image, chosen by a hash of image and patch: int64 [image, count]."""
    first = np.asarray(image_ids, np.uint64)[:, None] * np.uint64(65536)
    x: NDArray[np.uint64] = np.add(first, np.arange(patches, dtype=np.uint64), dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finaliser
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return torch.from_numpy(np.argsort(x, axis=1, kind="stable")[:, :count].copy())


class Statistics:
    """Counts, moments and tails of the neurons of some layers. Parts may be added in any order."""

    def __init__(self, layers: Sequence[LayerSpec], tail: int, device: str | torch.device) -> None:
        self.tail = tail
        self.counts = {a.name: _zero_counts(a.units, device) for a in layers}
        # [2, neuron]: 0.99 quantile and deviation of the images that were looked at first; NaN before them
        self.centre = {a.name: torch.full((2, a.units), torch.nan, device=device) for a in layers}
        self._centred: set[str] = set()
        exact = torch.float32 if torch.device(device).type == "mps" else torch.float64  # MPS has no float64
        self.positive = {a.name: torch.zeros(a.units, dtype=torch.int64, device=device) for a in layers}
        self.square = {a.name: torch.zeros(a.units, dtype=exact, device=device) for a in layers}
        self.total = {a.name: torch.zeros(a.units, dtype=exact, device=device) for a in layers}
        self._both_signs = {a.name for a in layers if a.both_signs}
        # the largest value on prefix tokens; of units that write below 0 as well, the largest in size
        self.prefix_max = {a.name: torch.full((a.units,), -torch.inf, device=device) for a in layers}
        self.largest = {a.name: torch.full((a.units, tail), -torch.inf, device=device) for a in layers}
        self._counted = {a.name: 0 for a in layers}  # values of each neuron so far, where kernels count on the device

    def count(self, layer: str, x: Tensor, prefix: int, picked: Tensor | None, compiled: bool) -> None:
        """Add a batch of one layer, [image, token, neuron]: of the patches the picked ones [image, k], or all."""
        self.add_prefix(layer, x[:, :prefix].float())
        values = None
        if not compiled or layer not in self._centred:
            values = _values_of(x, prefix, picked)
        if not compiled:
            assert values is not None
            self.add(layer, values)
            return
        if values is not None:
            self.centre_on(layer, values)
        if picked is None:
            picked = torch.arange(x.shape[1] - prefix, device=x.device).repeat(x.shape[0], 1)
        if x.device.type == "cpu":
            self._add_compiled(layer, x, prefix, picked)
            self._widen(layer, lambda units: _values_of(x[..., units], prefix, picked))
        else:
            self._add_fused(layer, x, prefix, picked)

    def _add_fused(self, layer: str, x: Tensor, prefix: int, picked: Tensor) -> None:
        """On the device, widening included: nothing waits for the host."""
        from .fused_counts import count  # Triton is there where torch is made for CUDA

        shape, x = (x.shape[0], x.shape[2]), x.contiguous()
        total, square = (torch.empty(shape, dtype=torch.float32, device=x.device) for _ in range(2))
        positive = torch.empty(shape, dtype=torch.int32, device=x.device)
        self._counted[layer] += picked.numel()
        counts, counted = self.counts[layer], self._counted[layer]
        count(x, prefix, picked, *self.centre[layer], counts, counted, total, square, positive)
        self.total[layer] += total.sum(0, dtype=self.total[layer].dtype)
        self.square[layer] += square.sum(0, dtype=self.square[layer].dtype)
        self.positive[layer] += positive.sum(0)
        if self.tail:
            both = torch.cat([self.largest[layer], _values_of(x, prefix, None)], 1)
            self.largest[layer] = both.topk(self.tail, 1).values

    def _add_compiled(self, layer: str, x: Tensor, prefix: int, picked: Tensor) -> None:
        raw = as_stored(x)
        totals = (sums[layer].numpy() for sums in (self.total, self.square, self.positive))
        centre = self.centre[layer].numpy()
        count_kernels.count(raw, prefix, picked.numpy(), *centre, self.counts[layer].numpy(), *totals)
        if self.tail:
            count_kernels.keep_largest(raw, prefix, self.largest[layer].numpy())

    @property
    def centred(self) -> bool:
        """Whether every layer knows where its bins lie."""
        return self._centred == set(self.counts)

    def centre_on(self, layer: str, values: Tensor) -> None:
        """Lay a layer's bins around values [neuron, value] that stand for all that will come."""
        torch.stack(where_bins_lie(values), out=self.centre[layer])
        self._centred.add(layer)

    def add(self, layer: str, values: Tensor) -> None:
        """Add values [neuron, value] of one layer."""
        if layer not in self._centred:
            self.centre_on(layer, values)
        centre, spread = self.centre[layer][..., None]
        self.positive[layer] += (values > 0).sum(1)
        self.counts[layer] += counted((values - centre) / spread)
        self.total[layer] += values.sum(1, dtype=self.total[layer].dtype)
        self.square[layer] += values.square().sum(1, dtype=self.square[layer].dtype)
        if self.tail:
            both = torch.cat([self.largest[layer], values], 1)
            self.largest[layer] = both.topk(self.tail, 1).values
        self._widen(layer, lambda units: values[units])

    def _widen(self, layer: str, values_of: Callable[[Tensor], Tensor]) -> None:
        """Where too many values lie beyond the bins, make them wider and count this batch's values once more.

        `values_of` gives the batch's values [neuron, value] of some neurons.
        """
        counts, (centre, spread) = self.counts[layer], self.centre[layer]
        units = overflowing(counts)
        if not len(units):
            return
        values = (values_of(units) - centre[units, None]) / spread[units, None]
        octaves = needed_octaves(values)
        units, values, octaves = (of[octaves > 0] for of in (units, values, octaves))
        widened = widen(counts[units] - counted(values), octaves) + counted(torch.ldexp(values, -octaves[:, None]))
        counts[units] = widened
        spread[units] = torch.ldexp(spread[units], octaves)

    def add_prefix(self, layer: str, values: Tensor) -> None:
        """Prefix tokens' values [image, token, neuron]: they decide with the patches whether a neuron is dead."""
        if values.shape[1]:
            if layer in self._both_signs:
                values = values.abs()
            torch.maximum(self.prefix_max[layer], values.amax((0, 1)), out=self.prefix_max[layer])

    def state_of(self, layer: str) -> dict[str, NDArray[np.generic]]:
        """Everything of a layer as arrays on the host."""
        counts = self.counts[layer].cpu().numpy()
        return {
            "counts": counts.astype(np.uint16 if counts.max() < 2**16 else np.int32),
            "centre": self.centre_of(layer),
            "positive": self.positive[layer].cpu().numpy().copy(),
            "total": self.total[layer].cpu().numpy().astype(np.float64),
            "square": self.square[layer].cpu().numpy().astype(np.float64),
            "prefix_max": self.prefix_max[layer].cpu().numpy().copy(),
            "largest": np.sort(self.largest[layer].cpu().numpy(), 1),  # ascending is also a heap
        }

    def centre_of(self, layer: str) -> NDArray[np.float32]:
        """Centre and unit of a layer's bins: float32 [2, neuron]; NaN while nothing was counted."""
        centre: NDArray[np.float32] = self.centre[layer].cpu().numpy().copy()
        return centre

    def load(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from what `state_of` gave for every layer, by LAYER/name."""
        for layer, counts in self.counts.items():
            device = counts.device
            before = state[f"{layer}/counts"].astype(np.int32)
            counts.copy_(torch.from_numpy(before))
            self._counted[layer] = int(before[0].sum())
            centre = torch.tensor(state[f"{layer}/centre"], device=device)
            if not bool(centre.isnan().any()):
                self.centre[layer].copy_(centre)
                self._centred.add(layer)
            for name, sums in (("positive", self.positive), ("total", self.total), ("square", self.square)):
                sums[layer] = torch.tensor(state[f"{layer}/{name}"], dtype=sums[layer].dtype, device=device)
            self.prefix_max[layer] = torch.tensor(state[f"{layer}/prefix_max"], device=device)
            self.largest[layer] = torch.tensor(state[f"{layer}/largest"], device=device)

    def quantiles(self, layer: str, shares: Sequence[float]) -> NDArray[np.float32]:
        """Quantiles of every neuron: float32 [neuron, share]; NaN where nothing was counted."""
        counts = self.counts[layer].cpu().numpy()
        centre, spread = self.centre_of(layer).astype(np.float64)[..., None]
        out: NDArray[np.float64] = np.stack([_from_counts(row, shares) for row in counts]) * spread + centre
        if self.tail:
            total = int(counts[0].sum())
            largest = np.sort(self.largest[layer].cpu().numpy(), 1)[:, ::-1].astype(np.float64)
            for i, share in enumerate(shares):
                place = total - 1 - (share * total - 0.5)  # Hazen's position, counted from the largest
                if total and share >= 0.99:
                    below, above = int(np.ceil(place)), int(np.floor(place))
                    below, above = min(max(below, 0), total - 1), min(max(above, 0), total - 1)
                    weight = min(max(place - above, 0.0), 1.0)
                    out[:, i] = largest[:, above] * (1 - weight) + largest[:, below] * weight
        return out.astype(np.float32)

    def positive_share(self, layer: str) -> NDArray[np.float32]:
        """Share of the counted patches above 0."""
        counted = np.maximum(self.counts[layer].sum(1).cpu().numpy(), 1)
        share: NDArray[np.float64] = self.positive[layer].cpu().numpy() / counted
        return share.astype(np.float32)

    def deviation(self, layer: str) -> NDArray[np.float32]:
        """Standard deviation over the counted patches."""
        n = np.maximum(self.counts[layer].cpu().numpy().sum(1, dtype=np.int64), 1)
        square, total = (sums[layer].cpu().numpy().astype(np.float64) for sums in (self.square, self.total))
        variance = square / n - (total / n) ** 2
        deviation: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0))
        return deviation.astype(np.float32)


def _zero_counts(units: int, device: str | torch.device) -> Tensor:
    if torch.device(device).type != "cpu":
        return torch.zeros(units, BINS, dtype=torch.int32, device=device)
    return torch.from_numpy(large_zeros((units, BINS), np.int32))


def _values_of(x: Tensor, prefix: int, picked: Tensor | None) -> Tensor:
    """Patches of x [image, token, neuron], the picked ones [image, k] or all: float32 [neuron, value]."""
    values = x[:, prefix:].float()
    if picked is not None:
        values = values.gather(1, picked[..., None].expand(-1, -1, values.shape[2]))
    return values.flatten(0, 1).T.contiguous()


def _from_counts(counts: NDArray[np.int32], shares: Sequence[float]) -> NDArray[np.float64]:
    total = int(counts.sum())
    if total == 0:
        return np.full(len(shares), np.nan)
    used = np.flatnonzero(counts)  # an empty bin holds no value: never interpolate through it
    upper = np.cumsum(counts[used])
    place = np.asarray(shares) * total
    at = np.minimum(np.searchsorted(upper, place, side="left"), len(used) - 1)
    within = (place - (upper[at] - counts[used[at]])) / counts[used[at]]
    low, high = EDGES[used[at]], EDGES[used[at] + 1]
    value: NDArray[np.float64] = low + within * (high - low)
    return value
