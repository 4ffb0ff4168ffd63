"""What the end of a run works on: the filled arrays, the model, and what was learnt of neurons and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.labels.class_names import ClassNames
from ...data.models.anatomy import Anatomy
from ...data.models.head import Head
from ...schemas.array_specs import arrays
from ...schemas.facts import ImageFacts
from ...schemas.layout import Layout
from ...schemas.run_spec import LayerSpec, RunSpec
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.local_store import LocalStore
from ..statistics.threshold_counts import Statistics

QUANTILES = {"q001": 0.001, "q50": 0.5, "q90": 0.9, "q99": 0.99, "q995": 0.995, "q999": 0.999}
KEPT = ("pre_std", "positive_share", *QUANTILES, "dead")  # columns of `neurons` that no array holds

Columns = dict[str, NDArray[Any]]  # of one layer, by name: an array [neuron]


@dataclass
class Finish:
    """All that the tables are made of. `statistics` is what a run has counted, or the kept columns of every layer."""

    layout: Layout
    spec: RunSpec
    anatomy: Anatomy
    head: Head
    names: ClassNames | None
    statistics: Statistics | dict[str, Columns]
    images: list[ImageFacts]

    def __post_init__(self) -> None:
        self.arrays = arrays(self.spec)
        self.reader = ArrayReader(LocalStore(self.layout.root), self.spec)
        self.valid: NDArray[np.bool_] = self.reader.whole("valid")
        self.hidden = {layer.name: layer for layer in self.anatomy.layers}

    def act(self, layer: LayerSpec, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What follows the layer's values: its nonlinearity; fc2 has none, and in a gated unit it has had its part."""
        module = self.hidden[layer.name].act if layer.has_value_vectors else nn.Identity()
        with torch.inference_mode():  # torch wants arrays that may be written to, and does not write
            out: NDArray[np.float32] = module(torch.from_numpy(np.require(values, requirements="W"))).numpy()
        return out

    def kept(self, layer: LayerSpec, by_neuron: NDArray[np.float32]) -> Columns:
        """The KEPT columns of a layer, whose counts are let go; `by_neuron` holds its maxima [neuron, image]."""
        if not isinstance(self.statistics, Statistics):
            return self.statistics[layer.name]
        quantiles = self.statistics.quantiles(layer.name, list(QUANTILES.values()))
        prefix = self.statistics.prefix_max[layer.name].cpu().numpy()
        columns = {
            "pre_std": self.statistics.deviation(layer.name),
            "positive_share": self.statistics.positive_share(layer.name),
            **{name: np.ascontiguousarray(quantiles[:, i]) for i, name in enumerate(QUANTILES)},
            "dead": np.fmax(np.fmax.reduce(by_neuron, 1), prefix) <= 0,  # fmax: NaN is an unreadable image
        }
        if layer.kind == "gated":  # it speaks below 0 as well
            for _, values in self.reader.parts(f"{layer.name}/min"):
                columns["dead"] &= np.fmin.reduce(values, 0) >= 0
        del self.statistics.counts[layer.name]
        return columns
