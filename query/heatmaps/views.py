"""The values, scales and captions of every view of neurons on images; docs/concepts/views.md defines them.

Maps and the contribution lens come from stored maps; the gradient views run the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..drawing.colours import Scale, symmetric
from ..drawing.text import number
from ..lookups.neuron import quantiles
from ..model.map_source import MapSource
from ..stored.names import Neuron

Values = NDArray[np.float32]

OF_A_CLASS = ("logit-gradient", "grad-times-activation", "contribution", "effect")
SIGNED = ("grad-times-activation", "contribution", "effect")
BY_PIXEL = ("neuron-gradient", "logit-gradient")
View = Literal["map", "post", "neuron-gradient", "logit-gradient", "grad-times-activation", "contribution", "effect"]
VIEWS: tuple[View, ...] = get_args(View)
ScaleOf = Literal["neuron", "image"]  # whose colour scale: one a neuron, or one an image and neuron
SCALES: tuple[ScaleOf, ...] = get_args(ScaleOf)

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
    if view == "post":
        return _activations(reader, neurons, ids)
    if view == "contribution":
        return _contributions(reader, neurons, ids, class_id, name)
    if view in ("grad-times-activation", "effect"):
        return _to_first_order(reader, view, neurons, ids, class_id, name)
    return _pixel_gradients(reader, view, neurons, ids, class_id, name)


def scale_words(view: View) -> str:
    """Where the colours of a neuron end, in words."""
    if view in BY_PIXEL:
        return f"Colours: from 0 to the {GRADIENT_END} quantile of the pixels shown."
    if view == "grad-times-activation":
        return "Colours: ± the largest value shown."
    if view == "effect":
        return "Colours: ± the largest value shown, in logits; the mean is that of all patches."
    if view == "contribution":
        return "Colours: ± the largest value shown, at least that of the 0.001 and 0.999 quantiles over all images."
    red = "red to the largest value shown (at least to the neuron's 0.999 quantile over all images)"
    blue = "" if view == "post" else ", blue to the smallest (at least to its 0.001 quantile)"
    return f"Colours: {red}{blue}."


def image_scales(values: Values, view: View) -> tuple[tuple[tuple[Scale, ...], ...], str]:
    """Every image's own scale for every column [image][column], of the shape that the view's scales have; what it is.

    Maps run from the image's smallest to its largest value. Where zero must stay in the middle: ± its largest value.
    """
    if view in BY_PIXEL:
        high = np.quantile(values, GRADIENT_END, axis=(2, 3))
        low, what = np.zeros_like(high), f"from 0 to the {GRADIENT_END} quantile of each image's own pixels"
    elif view in SIGNED:
        high = np.abs(values).max((2, 3))
        low, what = -high, "± each image's own largest value"
    else:
        low, high, what = values.min((2, 3)), values.max((2, 3)), "each image's own minimum to maximum"
    scales = tuple(tuple(map(Scale, *ends)) for ends in zip(low.tolist(), high.tolist(), strict=True))
    return scales, f"Colours: {what}; they cannot be compared between images."


def _maps(reader: MapSource, neurons: Sequence[Neuron], ids: list[int]) -> Shown:
    values = _values(reader, neurons, ids)
    lows, highs = values.min((0, 2, 3)).tolist(), values.max((0, 2, 3)).tolist()
    ends = zip(_quantiles(reader, neurons), lows, highs, strict=True)
    scales = tuple(Scale(min(q001, low, 0.0), max(q999, high, 0.0)) for (q001, q999), low, high in ends)
    return Shown(values, scales, _read_from(reader, neurons))


def _activations(reader: MapSource, neurons: Sequence[Neuron], ids: list[int]) -> Shown:
    """max(act(a), 0). The scale ends at the largest value shown, or at the neuron's own q999 where that is larger.

    Where that is not positive either it ends at the neuron's largest value.
    """
    for layer, unit in neurons:
        kind = reader.index.neuron_layer(layer, unit).kind
        if kind != "hidden":
            what = f"{kind} units" if kind != "residual" else "coordinates of the stream"
            remedy = "Name an fc1 layer, or take --view map." if kind == "residual" else "Take --view map."
            raise QueryError(f"{layer} holds {what}: no nonlinearity follows it", remedy)
    values, scales = _values(reader, neurons, ids), []
    for column, (layer, unit) in enumerate(neurons):
        values[:, column] = np.maximum(reader.activated(layer, values[:, column]), 0)
        q999 = _quantiles(reader, [Neuron(layer, unit)])[0][1]
        end = reader.activated(layer, np.array([q999], np.float32))[0]
        largest = end if q999 > 0 else reader.index.exemplars(layer, unit, k=1).post[0]
        scales.append(Scale(0.0, max(float(largest), float(values[:, column].max()), 0.0)))
    title = f"Activation on the patches, after {_act(reader)}, negative values cut to 0"
    return Shown(values, tuple(scales), title)


def _contributions(reader: MapSource, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str) -> Shown:
    """act(a) * P[c]: what the neuron's value vector says of a class, times its activation on each patch."""
    values = _values(reader, neurons, ids)
    scales = []
    for column, (layer, unit) in enumerate(neurons):
        score = _score(reader, layer, unit, class_id)
        ends = reader.activated(layer, np.array(_quantiles(reader, [Neuron(layer, unit)])[0], np.float32))
        values[:, column] = score * reader.activated(layer, values[:, column])
        scales.append(symmetric(max(abs(score) * float(np.abs(ends).max()), float(np.abs(values[:, column]).max()))))
    notes = ("A lens: the raw score of the value vector, no share of the logit.",)
    title = f"{_after(reader, neurons)} × raw score for {name}"
    return Shown(values, tuple(scales), title, (*notes, *_unread(reader, neurons)))


def _to_first_order(
    reader: MapSource, view: View, neurons: Sequence[Neuron], ids: list[int], class_id: int, name: str
) -> Shown:
    """What a gradient says of each patch, in logits: of silence (gradient x activation), or of the mean (effect)."""
    from ..model.gradients import effect_on_tokens, gradient_times_activation

    is_effect = view == "effect"
    values = np.empty((len(ids), len(neurons), *reader.index.spec.grid), np.float32)
    notes = list(_unread(reader, neurons))
    for layer, columns in _by_layer(neurons):
        units = [neurons[c][1] for c in columns]
        for row, image_id in enumerate(ids):
            asked = (reader.live, layer, units, class_id, image_id)
            found = effect_on_tokens(*asked, reader.means) if is_effect else gradient_times_activation(*asked)
            values[row, columns] = found.patches
            if len(ids) == 1 and reader.index.spec.cls:
                notes += [
                    f"{layer}:{unit} on the CLS token: {number(share)} logits."
                    for unit, share in zip(units, found.prefix[:, 0], strict=True)
                ]
    scales = tuple(symmetric(float(np.abs(values[:, c]).max())) for c in range(len(neurons)))
    title = f"Gradient × activation: logit of {name}"
    if is_effect:
        lost = f"what the logit of {name}, minus the mean of all logits, loses"
        title = f"Effect, to first order: {lost} with the neuron at its mean there"
    return Shown(values, scales, title, tuple(notes))


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
    reader.index.vectors_of(layer)  # raises where it has none
    query = "SELECT score FROM class_scores WHERE class_id = ? AND layer = ? AND unit = ?"
    return float(reader.index.look_up(query, [class_id, layer, unit]).score[0])


def _act(reader: MapSource) -> str:
    return reader.index.spec.activation


def _read_from(reader: MapSource, neurons: Sequence[Neuron]) -> str:
    """What the maps hold, by the kinds of the neurons' layers."""
    words = {
        "hidden": f"Activation on the patches, before {_act(reader)}",
        "gated": "Value that fc2 reads on the patches",
        "attention": "Value that attn.proj reads on the patches",
        "residual": "Coordinate of what fc2 writes on the patches",
    }
    return "; ".join(dict.fromkeys(words[reader.index.neuron_layer(*neuron).kind] for neuron in neurons))


def _after(reader: MapSource, neurons: Sequence[Neuron]) -> str:
    """What a last linear layer reads of the neurons, by the kinds of their layers."""
    words = {"hidden": f"{_act(reader)}(a)", "gated": "Value that fc2 reads", "attention": "Value that attn.proj reads"}
    kinds = dict.fromkeys(reader.index.neuron_layer(*neuron).kind for neuron in neurons)
    return " or ".join(words[kind] for kind in kinds)


def _unread(reader: MapSource, neurons: Sequence[Neuron]) -> tuple[str, ...]:
    """Why patches have no part in the answer: in the last block of a model whose head reads token 0."""
    spec = reader.index.spec
    last = max(layer.block for layer in spec.layers)
    if spec.readout != "token" or last not in {reader.index.neuron_layer(*neuron).block for neuron in neurons}:
        return ()
    return (f"Block {last} is the last and the head reads token 0: its patches never reach the logit.",)
