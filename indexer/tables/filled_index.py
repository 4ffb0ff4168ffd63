"""What the end of a run works on: the filled arrays, the model, and what was learnt of neurons and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.labels.class_names import ClassNames
from ...data.labels.image_labels import image_classes
from ...data.models.anatomy import Anatomy
from ...data.models.head import Head
from ...schemas.array_specs import arrays
from ...schemas.facts import ImageFacts
from ...schemas.layout import Layout
from ...schemas.run_spec import LayerSpec, RunSpec
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.local_store import LocalStore
from ..statistics.threshold_counts import Statistics
from .class_order import Accuracy, accuracy, settled_order

QUANTILES = {"q001": 0.001, "q50": 0.5, "q90": 0.9, "q99": 0.99, "q995": 0.995, "q999": 0.999}
KEPT = ("pre_std", "positive_share", *QUANTILES, "dead")  # columns of `neurons` that no array holds
DEAD_IN_SIZE = 1e-6  # of gated units: GELU and SiLU of a gate far below 0 come near 0 and seldom reach it

Columns = dict[str, NDArray[Any]]  # of one layer, by name: an array [neuron]


@dataclass
class Finish:
    """All that the tables are made of. `statistics` is what a run has counted, or the kept columns of every layer."""

    layout: Layout
    spec: RunSpec
    anatomy: Anatomy
    head: Head
    names: ClassNames | None
    label_rows: dict[str, int]  # the class of every label that is one
    statistics: Statistics | dict[str, Columns]
    images: list[ImageFacts]

    def __post_init__(self) -> None:
        self.arrays = arrays(self.spec)
        self.reader = ArrayReader(LocalStore(self.layout.root), self.spec)
        self.valid: NDArray[np.bool_] = self.reader.whole("valid")
        self.hidden = {layer.name: layer for layer in self.anatomy.layers}
        self.notes: list[str] = []  # what has shown by now and a user should know
        self._settle_classes()

    def _settle_classes(self) -> None:
        """The model's answers, and the class of every image (-1 for none) by names in the order that fits them."""
        labels = [image.label for image in self.images]
        if "logits" in self.arrays:
            parts = (rows.argmax(1) for _, rows in self.reader.parts("logits"))
            self.answers = np.where(self.valid, np.concatenate(list(parts)), -1).astype(np.int64)
            if self.names is not None and self.names.natural is not None:
                self.names, self.label_rows, note = settled_order(self.names, self.label_rows, labels, self.answers)
                self.notes.append(note)
        self.classes = image_classes(labels, self.label_rows)

    def accuracy(self) -> Accuracy | None:
        """Of the model's answers on images that have a class; None where there are none."""
        if "logits" not in self.arrays:
            return None
        labels = np.where(self.valid, self.classes, -1)
        places = np.zeros_like(labels)
        for first, rows in self.reader.parts("logits"):
            own = rows[np.arange(len(rows)), np.maximum(labels[first : first + len(rows)], 0), None]
            places[first : first + len(rows)] = (rows > own).sum(1)
        return accuracy(self.answers, places, labels, self.spec.classes)

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
            "dead": self._largest(layer, by_neuron, prefix) <= (DEAD_IN_SIZE if layer.kind == "gated" else 0),
        }
        del self.statistics.counts[layer.name]
        return columns

    def _largest(
        self, layer: LayerSpec, by_neuron: NDArray[np.float32], prefix: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Each neuron's largest value on any token [neuron]; of gated units, which speak below 0 too, in size."""
        largest = np.fmax(np.fmax.reduce(by_neuron, 1), prefix)  # fmax: NaN is an unreadable image
        if layer.kind == "gated":
            for _, values in self.reader.parts(f"{layer.name}/min"):
                largest = np.fmax(largest, -np.fmin.reduce(values, 0))
        return largest
