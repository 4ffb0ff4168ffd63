"""The values, scales and captions of every view of neurons on images; docs/heatmaps.md defines them.

Maps and the contribution lens come from stored maps; the gradient views run the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erf
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..drawing.colours import Scale, symmetric
from ..drawing.text import number
from ..lookups.neuron import needs_value_vectors, quantiles
from ..model.map_source import MapSource
from ..stored.names import Neuron

Values = NDArray[np.float32]

OF_A_CLASS = ("logit-gradient", "grad-times-activation", "contribution")
View = Literal["map", "neuron-gradient", "logit-gradient", "grad-times-activation", "contribution"]
VIEWS: tuple[View, ...] = get_args(View)

GRADIENT_END = 0.995  # quantile of the shown pixels where the scale of a gradient ends: single pixels stand far out


@dataclass(frozen=True)
class Shown:
    """values: float32 [image, column, rows, columns], on patches or on pixels; one scale a column."""

    values: Values
    scales: tuple[Scale, ...]
    title: str
    notes: tuple[str, ...] = ()


def compute(
    reader: MapSource, view: View, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str
) -> Shown:
    """A view of neurons on readable images. `class_id` and its `name` count only for the views of OF_A_CLASS."""
    if view == "map":
        return _maps(reader, neurons, ids)
    if view == "contribution":
        return _contributions(reader, neurons, ids, class_id, name)
    if view == "grad-times-activation":
        return _gradient_times_activation(reader, neurons, ids, class_id, name)
    return _pixel_gradients(reader, view, neurons, ids, class_id, name)


def _maps(reader: MapSource, neurons: Sequence[Neuron], ids: list[int]) -> Shown:
    scales = tuple(Scale(min(low, 0.0), max(high, 0.0)) for low, high in _quantiles(reader, neurons))
    return Shown(_values(reader, neurons, ids), scales, f"Activation on the patches, before {_act(reader)}")


def _contributions(reader: MapSource, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str) -> Shown:
    """act(a) * P[c]: what the neuron's value vector says of a class, times its activation on each patch."""
    values = _values(reader, neurons, ids)
    scales = []
    for column, (layer, unit) in enumerate(neurons):
        score = _score(reader, layer, unit, class_id)
        ends = _activated(reader, layer, np.array(_quantiles(reader, [Neuron(layer, unit)])[0], np.float32))
        values[:, column] = score * _activated(reader, layer, values[:, column])
        scales.append(symmetric(abs(score) * float(np.abs(ends).max())))
    notes = ("A lens: the raw score of the value vector, no share of the logit.",)
    return Shown(
        values, tuple(scales), f"{_act(reader)}(a) × raw score for {name}", (*notes, *_unread(reader, neurons))
    )


def _gradient_times_activation(
    reader: MapSource, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str
) -> Shown:
    from ..model.gradients import gradient_times_activation

    values = np.empty((len(ids), len(neurons), *reader.index.spec.grid), np.float32)
    notes = list(_unread(reader, neurons))
    for layer, columns in _by_layer(neurons):
        units = [neurons[c][1] for c in columns]
        for row, image_id in enumerate(ids):
            found = gradient_times_activation(reader.live, layer, units, class_id, image_id)
            values[row, columns] = found.patches
            if len(ids) == 1 and reader.index.spec.cls:
                notes += [
                    f"{layer}:{unit} on the CLS token: {number(share)} logits."
                    for unit, share in zip(units, found.prefix[:, 0], strict=True)
                ]
    scales = tuple(symmetric(float(np.abs(values[:, c]).max())) for c in range(len(neurons)))
    return Shown(values, scales, f"Gradient × activation: logit of {name}", tuple(notes))


def _pixel_gradients(
    reader: MapSource, view: View, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str
) -> Shown:
    """Magnitude per pixel: the sum of absolute values over the channels."""
    from ..model.gradients import Smoothing, logit_gradient, neuron_gradients

    of_logit = view == "logit-gradient"
    values = np.empty(
        (len(ids), 1 if of_logit else len(neurons), *reader.index.spec.preprocessing["input_size"][1:]), np.float32
    )
    for row, image_id in enumerate(ids):
        if of_logit:
            values[row, 0] = np.abs(logit_gradient(reader.live, class_id, image_id)).sum(-1)
            continue
        for layer, columns in _by_layer(neurons):
            found = neuron_gradients(reader.live, layer, [neurons[c][1] for c in columns], image_id)
            values[row, columns] = np.abs(found).sum(-1)
    ends = np.quantile(values, GRADIENT_END, axis=(0, 2, 3))
    what = f"logit of {name}" if of_logit else "neuron on its strongest patch"
    title = f"Gradient by pixel: {what} (SmoothGrad, {Smoothing().copies} copies)"
    return Shown(values, tuple(Scale(0.0, float(end)) for end in ends), title)


def _values(reader: MapSource, neurons: Sequence[Neuron], ids: list[int]) -> Values:
    out = np.empty((len(ids), len(neurons), *reader.index.spec.grid), np.float32)
    for layer, columns in _by_layer(neurons):
        out[:, columns] = reader(layer, [neurons[c][1] for c in columns], ids)
    return out


def _by_layer(neurons: Sequence[Neuron]) -> Iterator[tuple[str, list[int]]]:
    """Every layer and the columns of its neurons: a layer is read, or the model run, once."""
    for name in dict.fromkeys(layer for layer, _ in neurons):
        yield name, [c for c, (layer, _) in enumerate(neurons) if layer == name]


def _quantiles(reader: MapSource, neurons: Sequence[Neuron]) -> list[tuple[float, float]]:
    """Every neuron's own q001 and q999 over all patches of all images."""
    ends = [[quantiles(reader.index, layer, [unit], q)[0] for q in ("q001", "q999")] for layer, unit in neurons]
    return [(float(low), float(high)) for low, high in ends]


def _score(reader: MapSource, layer: str, unit: int, class_id: int) -> float:
    needs_value_vectors(reader.index, layer)
    query = "SELECT score FROM class_scores WHERE class_id = ? AND layer = ? AND unit = ?"
    return float(reader.index.look_up(query, [class_id, layer, unit]).score[0])


def _activated(reader: MapSource, layer: str, values: Values) -> Values:
    """Values after the model's nonlinearity; only one other than GELU needs the model."""
    if reader.index.spec.activation != "GELU":
        from ..model.gradients import activate

        return activate(reader.live, layer, values)
    phi = np.array([erf(v / 2**0.5) for v in values.ravel().tolist()]).reshape(values.shape)
    activated: Values = (values * (1 + phi) / 2).astype(np.float32)
    return activated


def _act(reader: MapSource) -> str:
    return reader.index.spec.activation


def _unread(reader: MapSource, neurons: Sequence[Neuron]) -> tuple[str, ...]:
    """Why patches have no part in the answer: in the last block of a model whose head reads token 0."""
    spec = reader.index.spec
    last = max(layer.block for layer in spec.layers)
    if spec.readout != "token" or last not in {reader.index.neuron_layer(*neuron).block for neuron in neurons}:
        return ()
    return (f"Block {last} is the last and the head reads token 0: its patches never reach the logit.",)
