"""What the end of a run works on: the filled arrays, the model, and what was learnt of neurons and images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...data.labels.class_names import ClassNames
from ...data.labels.image_labels import image_classes
from ...data.models.head import Head
from ...schemas.array_specs import arrays
from ...schemas.facts import ImageFacts
from ...schemas.layout import Layout
from ...schemas.run_spec import LayerSpec, RunSpec
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.local_store import LocalStore
from ...schemas.storage.store import Store
from ..statistics.threshold_counts import Statistics
from .class_order import Accuracy, Ints, accuracy, settled_order
from .class_space import ClassSpace

QUANTILES = {"q001": 0.001, "q50": 0.5, "q90": 0.9, "q99": 0.99, "q995": 0.995, "q999": 0.999}
KEPT = ("pre_std", "positive_share", *QUANTILES, "dead")  # columns of `neurons` that no array holds
NORM_BIAS, HEAD_BIAS = "final_norm/bias", "head/bias"  # kept beside them
DEAD_IN_SIZE = 1e-6  # of units of both signs: GELU and SiLU of a gate far below 0 come near 0 and seldom reach it

Columns = dict[str, NDArray[Any]]  # of one layer, by name: an array [neuron]


class Settled(NamedTuple):
    """Names of the rows, the row of every label that is a class, and what is to be said of how it was found out."""

    names: ClassNames | None
    label_rows: dict[str, int]
    note: str | None


@dataclass
class Finish:
    """All that the tables are made of. `statistics` is what a run has counted, or the kept columns of every layer.

    `exemplars_of`: a finished index of the same images and neurons, whose exemplars are copied and not ranked again.
    """

    layout: Layout
    spec: RunSpec
    space: ClassSpace
    head: Head
    names: ClassNames | None
    label_rows: dict[str, int]  # the class of every label that is one, in the order of these names
    statistics: Statistics | dict[str, Columns]
    images: list[ImageFacts]
    exemplars_of: tuple[Layout, RunSpec] | None = None
    store: Store | None = None  # where the arrays lie; None: in `layout`

    def __post_init__(self) -> None:
        self.arrays = arrays(self.spec)
        self.reader = ArrayReader(self.store or LocalStore(self.layout.root), self.arrays)
        self.valid: NDArray[np.bool_] = self.reader.whole("valid")

    @cached_property
    def answers(self) -> Ints:
        """The class of every image's largest logit: int64 [image], -1 where it was not read or there is no head."""
        if "logits" not in self.arrays:
            return np.full(len(self.images), -1)
        largest = np.concatenate([rows.argmax(1) for _, rows in self.reader.parts("logits")])
        return np.where(self.valid, largest, -1).astype(np.int64)

    @cached_property
    def settled(self) -> Settled:
        """Names of the rows and rows of the labels, in the order that fits the model's answers."""
        if self.names is None or self.names.natural is None:
            return Settled(self.names, self.label_rows, None)
        return Settled(*settled_order(self.names, self.label_rows, self._labels, self.answers))

    @cached_property
    def classes(self) -> Ints:
        """The class of every image by its label: int64 [image], -1 for none."""
        return image_classes(self._labels, self.settled.label_rows)

    @cached_property
    def own_logits(self) -> tuple[NDArray[np.float64], Ints]:
        """Of every readable image with a class, the softmax of that class's logit and its rank from 0; else NaN, -1."""
        share, rank = np.full(len(self.images), np.nan), np.full(len(self.images), -1)
        if "logits" in self.arrays:
            for first, rows in self.reader.parts("logits"):
                here = np.flatnonzero((self.classes >= 0) & self.valid)
                here = here[(here >= first) & (here < first + len(rows))]
                logits, own = torch.from_numpy(rows[here - first]).double(), self.classes[here]
                share[here] = logits.softmax(1).numpy()[np.arange(len(here)), own]
                rank[here] = (logits.numpy() > logits.numpy()[np.arange(len(here)), own, None]).sum(1)
        return share, rank

    def accuracy(self) -> Accuracy | None:
        """Of the model's answers on images that have a class; None where there are none."""
        labels = np.where(self.valid, self.classes, -1)
        return accuracy(self.answers, self.own_logits[1], labels, self.spec.classes)

    @property
    def _labels(self) -> list[str | None]:
        return [image.label for image in self.images]

    @property
    def constants(self) -> dict[str, NDArray[np.float32]]:
        """What no array holds of the norm before the head and of the head: with it another head has its own logits."""
        held = {NORM_BIAS: self.space.norm_bias, HEAD_BIAS: self.head.bias}
        return {name: value.numpy() for name, value in held.items() if value is not None}

    def act(self, layer: LayerSpec, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What follows the layer's values: its nonlinearity; without keys of its own, nothing."""
        module = self.space.act(layer.name) if layer.has_value_vectors else nn.Identity()
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
            "dead": self._largest(layer, by_neuron, prefix) <= (DEAD_IN_SIZE if layer.both_signs else 0),
        }
        del self.statistics.counts[layer.name]
        return columns

    def _largest(
        self, layer: LayerSpec, by_neuron: NDArray[np.float32], prefix: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Each neuron's largest value on any token [neuron]; of units that write below 0 as well, in size."""
        largest = np.fmax(np.fmax.reduce(by_neuron, 1), prefix)  # fmax: NaN is an unreadable image
        if layer.both_signs:
            for _, values in self.reader.parts(f"{layer.name}/min"):
                largest = np.fmax(largest, -np.fmin.reduce(values, 0))
        return largest
