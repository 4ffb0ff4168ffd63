"""Statistics of every neuron over patches, gathered while indexing: counts for the thresholds, moments, the tail.

    statistics = Statistics(layers, tail=tail_length(images, patches), device="cpu")
    statistics.lay_bins({"blocks.0.mlp.fc1": where_bins_lie(some)})
    statistics.add("blocks.0.mlp.fc1", values)      # [neuron, value], float32
    sums = statistics.take_sums()                    # at the end of every part: they are added in the order of parts
    state = statistics.state_of("blocks.0.mlp.fc1")  # arrays; saved_state.py packs those of all layers

Values fall into bins on a float scale around the neuron's own 0.99 quantile and in units of its own spread (both of
images from all over the set, run/calibrate.py), so that bins are finest where the thresholds are (bins.py). Between
bin edges a quantile is interpolated. Largest rank errors at 0.99 on real activations (benchmarks/NOTES.md): bins around
zero, alike for all, 0.0015; around the mean 0.0007; these 0.0001. Sets of at most EXACT_VALUES values a neuron also
keep their largest values themselves: their quantiles from 0.99 upwards are exact (Hazen's definition).

Counts, largest values and shares come out alike in whatever order images are added and by whatever workers. Sums of
floats do not: each part's begin at 0, and are added in the order of the parts at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.run_spec import LayerSpec
from ..memory import as_stored, large_zeros
from . import count_kernels
from .bins import BINS, EDGES, counted

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


State = Mapping[str, NDArray[Any]]  # by LAYER/name
Bins = dict[str, Tensor]  # where a layer's bins lie: centre and unit, float32 [2, neuron]


class Statistics:
    """Counts, moments and tails of the neurons of some layers. Images may be added in any order."""

    def __init__(self, layers: Sequence[LayerSpec], tail: int, device: str | torch.device) -> None:
        self.tail = tail
        self.counts = {a.name: _zero_counts(a.units, device) for a in layers}
        self.bins: Bins = {}
        exact = torch.float32 if torch.device(device).type == "mps" else torch.float64  # MPS has no float64
        self.positive = {a.name: torch.zeros(a.units, dtype=torch.int64, device=device) for a in layers}
        # [2, neuron]: sums of the values and of their squares, since they were last taken
        self.sums = {a.name: torch.zeros(2, a.units, dtype=exact, device=device) for a in layers}
        self._both_signs = {a.name for a in layers if a.both_signs}
        # the largest value on prefix tokens; of units that write below 0 as well, the largest in size
        self.prefix_max = {a.name: torch.full((a.units,), -torch.inf, device=device) for a in layers}
        self.largest = {a.name: torch.full((a.units, tail), -torch.inf, device=device) for a in layers}

    def lay_bins(self, bins: Bins) -> None:
        """Settle where the bins of every layer lie: before anything is counted, and once."""
        self.bins = {layer: bins[layer].to(counts.device) for layer, counts in self.counts.items()}

    def count(self, layer: str, x: Tensor, prefix: int, picked: Tensor | None, compiled: bool) -> None:
        """Add a batch of one layer, [image, token, neuron]: of the patches the picked ones [image, k], or all."""
        self.add_prefix(layer, x[:, :prefix].float())
        if not compiled:
            self.add(layer, _values_of(x, prefix, picked))
            return
        if picked is None:
            picked = torch.arange(x.shape[1] - prefix, device=x.device).repeat(x.shape[0], 1)
        add = self._add_compiled if x.device.type == "cpu" else self._add_fused
        add(layer, x, prefix, picked)

    def _add_fused(self, layer: str, x: Tensor, prefix: int, picked: Tensor) -> None:
        """On the device: nothing waits for the host."""
        from .fused_counts import count  # Triton is there where torch is made for CUDA

        shape, x = (x.shape[0], x.shape[2]), x.contiguous()
        total, square = (torch.empty(shape, dtype=torch.float32, device=x.device) for _ in range(2))
        positive = torch.empty(shape, dtype=torch.int32, device=x.device)
        count(x, prefix, picked, *self.bins[layer], self.counts[layer], total, square, positive)
        for sums, of_images in zip(self.sums[layer], (total, square), strict=True):
            sums += of_images.sum(0, dtype=sums.dtype)
        self.positive[layer] += positive.sum(0)
        if self.tail:
            self._keep_largest(layer, _values_of(x, prefix, None))

    def _add_compiled(self, layer: str, x: Tensor, prefix: int, picked: Tensor) -> None:
        raw = as_stored(x)
        totals = (*self.sums[layer].numpy(), self.positive[layer].numpy())
        counts, bins = self.counts[layer].numpy(), self.bins[layer].numpy()
        count_kernels.count(raw, prefix, picked.numpy(), *bins, counts, *totals)
        if self.tail:
            count_kernels.keep_largest(raw, prefix, self.largest[layer].numpy())

    def add(self, layer: str, values: Tensor) -> None:
        """Add values [neuron, value] of one layer."""
        centre, spread = self.bins[layer][..., None]
        total, square = self.sums[layer]
        self.positive[layer] += (values > 0).sum(1)
        self.counts[layer] += counted((values - centre) / spread)
        total += values.sum(1, dtype=total.dtype)
        square += values.square().sum(1, dtype=square.dtype)
        if self.tail:
            self._keep_largest(layer, values)

    def _keep_largest(self, layer: str, values: Tensor) -> None:
        both = torch.cat([self.largest[layer], values], 1)
        self.largest[layer].copy_(
            both.topk(self.tail, 1).values
        )  # in place: recorded batches know no other (replay.py)

    def add_prefix(self, layer: str, values: Tensor) -> None:
        """Prefix tokens' values [image, token, neuron]: they decide with the patches whether a neuron is dead."""
        if values.shape[1]:
            if layer in self._both_signs:
                values = values.abs()
            torch.maximum(self.prefix_max[layer], values.amax((0, 1)), out=self.prefix_max[layer])

    def take_sums(self) -> dict[str, Tensor]:
        """The sums since they were last taken, by layer [2, neuron], on the device; they begin at 0 again."""
        taken = {layer: sums.clone() for layer, sums in self.sums.items()}
        for sums in self.sums.values():
            sums.zero_()
        return taken

    def add_sums(self, sums: Mapping[str, NDArray[np.float64]]) -> None:
        """Add what was taken: part by part in their order, it gives the same sums each time."""
        for layer, own in self.sums.items():
            own += torch.from_numpy(sums[layer]).to(own.dtype).to(own.device)

    def state_of(self, layer: str) -> dict[str, NDArray[np.generic]]:
        """All that comes out alike in whatever order images are added, of a layer, as arrays on the host."""
        counts = self.counts[layer].cpu().numpy()
        return {
            "counts": counts.astype(np.uint16 if counts.max() < 2**16 else np.int32),
            "positive": self.positive[layer].cpu().numpy().copy(),
            "prefix_max": self.prefix_max[layer].cpu().numpy().copy(),
            "largest": np.sort(self.largest[layer].cpu().numpy(), 1),  # ascending is also a heap
        }

    def merge(self, layer: str, state: State) -> None:
        """Add what `state_of` gave for a layer, here or elsewhere, of other images in the same bins."""
        device = self.counts[layer].device
        self.counts[layer] += torch.from_numpy(state["counts"].astype(np.int32)).to(device)
        self.positive[layer] += torch.from_numpy(state["positive"]).to(device)
        prefix_max = torch.from_numpy(state["prefix_max"]).to(device)
        torch.maximum(self.prefix_max[layer], prefix_max, out=self.prefix_max[layer])
        both = torch.cat([self.largest[layer], torch.from_numpy(state["largest"]).to(device)], 1)
        self.largest[layer] = both.topk(self.tail, 1).values.flip(1).contiguous()  # ascending is also a heap

    def quantiles(self, layer: str, shares: Sequence[float]) -> NDArray[np.float32]:
        """Quantiles of every neuron: float32 [neuron, share]; NaN where nothing was counted."""
        counts = self.counts[layer].cpu().numpy()
        centre, spread = self.bins[layer].double().cpu().numpy()[..., None]
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
        total, square = self.sums[layer].cpu().numpy().astype(np.float64)
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
