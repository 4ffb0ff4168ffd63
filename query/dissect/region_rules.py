"""Where a neuron's region begins on an image: above the neuron's own quantile, or above the image's own percentile.

rule = region_rule(MapSource(index), "image:80")
neurons = rule.thresholded(ranked)              # with the columns threshold and negative
limits, active = rule.each(neurons, maps)       # every neuron's region on one image: bool [neuron, y, x]
owners = rule.together(neurons, maps, (1, 3))   # the first 1 and 3 together: int64 [top, y, x]

'q99', 'q995', 'q95', any 'qNN': the upsampled map before the nonlinearity above the neuron's own quantile over all
patches of all images (Bau et al. 2017); digits after the first two are decimals. Neurons together have the union of
their regions. A quantile below zero is flagged (`negative`): such a neuron has no region of its own, so unions leave it
out. The quantiles that the table of neurons does not hold are computed from the stored maps of all images.

'image:P': the upsampled map after the nonlinearity, negative values cut to 0, above the P-th percentile of its own
pixels. Neurons together have the region of their summed maps. A neuron that is positive nowhere has an empty region.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress
from ...schemas.run_spec import NO_ACTIVATION
from ..drawing.upsample import smooth
from ..lookups.neuron import Quantile, with_thresholds
from ..model.map_quantiles import map_quantiles
from ..model.map_source import MapSource

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Threshold = str  # 'qNN', or 'image:P' with 0 < P < 100
THRESHOLDS = (
    "qNN, the neuron's own quantile (q95 is 0.95, q995 is 0.995), or image:P, the image's own percentile with "
    "0 < P < 100"
)
NOBODY = -1  # owns the pixels outside of every region


def region_rule(reader: MapSource, threshold: Threshold) -> RegionRule:
    """The rule that a threshold names. Raises QueryError where it names none."""
    digits = re.fullmatch(r"q([0-9]{2})\.?([0-9]*)", str(threshold))
    if digits and float(f"0.{digits[1]}{digits[2]}") > 0:
        return AboveOwnQuantile(reader, digits[1] + digits[2].rstrip("0"))
    kind, _, text = str(threshold).partition(":")
    try:
        percent = float(text)
    except ValueError:
        percent = float("nan")
    if kind != "image" or not 0 < percent < 100:
        raise QueryError(f"no threshold '{threshold}'", f"One of {THRESHOLDS}.")
    return AboveImagePercentile(reader, percent)


@dataclass(frozen=True)
class RegionRule(ABC):
    """What is active on an image. `neurons` below: a row a neuron, best first, as `thresholded` returns them."""

    reader: MapSource

    @property
    @abstractmethod
    def words(self) -> str:
        """The rule for a title: the regions of several neurons together are ..."""

    @property
    @abstractmethod
    def owner(self) -> str:
        """Which neuron a pixel belongs to, for a legend."""

    @abstractmethod
    def thresholded(self, neurons: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        """Rows of layer, unit with `threshold` (NaN where every image has its own) and `negative`.

        progress: told of the maps that are read, where the threshold is not stored.
        """

    @abstractmethod
    def each(self, neurons: pd.DataFrame, maps: Floats) -> tuple[Floats, Bools]:
        """Thresholds [neuron] and regions [neuron, y, x] on one image, of maps [neuron, row, column]."""

    @abstractmethod
    def together(self, neurons: pd.DataFrame, maps: Floats, tops: Sequence[int]) -> Ints:
        """The region of the first neurons, for each number of `tops`: int64 [top, y, x], the row that owns a pixel.

        NOBODY outside the region.
        """

    def pixels(self, maps: Floats) -> Floats:
        """Maps [neuron, row, column] at the model's input size: [neuron, y, x]."""
        _, height, width = self.reader.index.spec.preprocessing["input_size"]
        return smooth(maps, height, width)


@dataclass(frozen=True)
class AboveOwnQuantile(RegionRule):
    """Each neuron by itself; where regions overlap, the better neuron owns the pixel."""

    digits: str  # of the quantile, after the point

    @property
    def words(self) -> str:
        return f"each above its own 0.{self.digits} quantile over all images"

    @property
    def owner(self) -> str:
        return "the best on top"

    def thresholded(self, neurons: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        index = self.reader.index
        for stored in get_args(Quantile):
            if stored == f"q{self.digits}":
                return with_thresholds(index, neurons, stored)
        units = {str(layer): np.unique(one.unit.to_numpy(np.int64)) for layer, one in neurons.groupby("layer")}
        found = map_quantiles(index, units, float(f"0.{self.digits}"), progress)
        threshold = np.empty(len(neurons), np.float32)
        for layer, rows in neurons.groupby("layer").indices.items():
            own = np.searchsorted(units[str(layer)], neurons.unit.to_numpy(np.int64)[rows])
            threshold[rows] = found[str(layer)][own]
        return neurons.assign(threshold=threshold, negative=threshold < 0)

    def each(self, neurons: pd.DataFrame, maps: Floats) -> tuple[Floats, Bools]:
        limits = neurons.threshold.to_numpy()
        return limits, self.pixels(maps) > limits[:, None, None]

    def together(self, neurons: pd.DataFrame, maps: Floats, tops: Sequence[int]) -> Ints:
        _, active = self.each(neurons, maps)
        active &= ~neurons.negative.to_numpy()[:, None, None]
        return np.stack([_owned(np.asarray(active[:top].any(0)), active[:top]) for top in tops])


@dataclass(frozen=True)
class AboveImagePercentile(RegionRule):
    """The first study's rule; the neuron with the largest value owns the pixel."""

    percent: float

    @property
    def words(self) -> str:
        spec = self.reader.index.spec
        after = "" if spec.activation == NO_ACTIVATION else f" after {spec.activation}"
        after += " (attention units as they are)" if after and spec.attention_layers else ""
        return f"summed{after}, negative values cut to 0, above the image's own {_ordinal(self.percent)} percentile"

    @property
    def owner(self) -> str:
        return "the largest there"

    def thresholded(self, neurons: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        return neurons.assign(threshold=np.float32(np.nan), negative=False)

    def each(self, neurons: pd.DataFrame, maps: Floats) -> tuple[Floats, Bools]:
        pixels = self.pixels(self._activations(neurons, maps))
        limits = np.percentile(pixels, self.percent, axis=(1, 2)).astype(np.float32)
        return limits, pixels > limits[:, None, None]

    def together(self, neurons: pd.DataFrame, maps: Floats, tops: Sequence[int]) -> Ints:
        pixels = self.pixels(self._activations(neurons, maps))
        sums = [pixels[:top].sum(0) for top in tops]
        regions = [total > np.percentile(total, self.percent) for total in sums]
        return np.stack([_owned(region, pixels[:top]) for top, region in zip(tops, regions, strict=True)])

    def _activations(self, neurons: pd.DataFrame, maps: Floats) -> Floats:
        """Maps after the nonlinearity, negative values cut to 0."""
        after = np.empty_like(maps)
        for layer, rows in neurons.groupby("layer").indices.items():
            after[rows] = self.reader.activated(str(layer), maps[rows])
        return np.maximum(after, 0)


def _owned(region: Bools, by: Bools | Floats) -> Ints:
    """The row [y, x] whose value of `by` [row, y, x] is largest, the first of equals; NOBODY outside the region."""
    return np.where(region, by.argmax(0), NOBODY)


def _ordinal(percent: float) -> str:
    """80 as 80th, 2.5 as 2.5th, 91 as 91st."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if percent % 1 or 10 < percent < 14 else endings.get(int(percent % 10), "th")
    return f"{percent:g}{ending}"
