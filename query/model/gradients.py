"""Gradients of neurons and logits, in pixels and at the neurons. Imports torch: these run the model.

live = open_model(index)
neuron_gradients(live, "blocks.4.mlp.fc1", [473], image_id=83)             # float32 [unit, y, x, channel]
logit_gradient(live, class_id=2, image_id=83)                              # float32 [y, x, channel]
gradient_times_activation(live, "blocks.4.mlp.fc1", [473], 2, 83).patches  # float32 [unit, rows, columns]
effect_on_tokens(live, "blocks.4.mlp.fc1", [473], 2, 83).patches           # float32 [unit, rows, columns]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.errors import QueryError
from .edits import changed
from .live_model import LiveModel
from .replacement import Substitute, parsed

BATCH = 4  # noisy copies at once: a backward pass keeps every block's activations


@dataclass(frozen=True)
class Smoothing:
    """SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825): the mean gradient over noisy copies of an image.

    noise: standard deviation as a share of the image's own range of values. copies=1, noise=0: the plain gradient.
    """

    copies: int = 25
    noise: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class Attribution:
    """What neurons do to a logit, token by token: float32 `patches` [unit, rows, columns], `prefix` [unit, token]."""

    patches: NDArray[np.float32]
    prefix: NDArray[np.float32]


def neuron_gradients(
    live: LiveModel, layer: str, units: Sequence[int], image_id: int, smoothing: Smoothing = Smoothing()
) -> NDArray[np.float32]:
    """d a / d pixel for pixels from 0 to 1, smoothed: float32 [unit, y, x, channel].

    a: the neuron before the nonlinearity, on the patch where it is largest on the unchanged image.
    """
    for unit in units:
        live.index.neuron_layer(layer, unit)
    patches = live.index.reader.cell(f"{layer}/argmax", image_id)[list(units)]

    def activations(pixels: Tensor) -> list[Tensor]:
        values = live.patches(live.values(pixels, [layer])[layer])
        return [values[:, int(patch), unit] for unit, patch in zip(units, patches, strict=True)]

    return _smoothed(live, image_id, activations, smoothing)


def logit_gradient(
    live: LiveModel, class_id: int, image_id: int, smoothing: Smoothing = Smoothing()
) -> NDArray[np.float32]:
    """d logit / d pixel for pixels from 0 to 1, smoothed: float32 [y, x, channel]."""
    gradient: NDArray[np.float32] = _smoothed(live, image_id, lambda p: [live(p, [])[0][:, class_id]], smoothing)[0]
    return gradient


def gradient_times_activation(
    live: LiveModel, layer: str, units: Sequence[int], class_id: int, image_id: int
) -> Attribution:
    """h * d logit / d h on every token, where h is what the last linear layer reads: a neuron after the nonlinearity.

    To first order, what the logit would lose were the neuron silent on that token. Exactly zero on the patches of
    the last block where the head reads token 0. For a coordinate of the stream (fc2) h is the coordinate itself.
    """
    h, gradient = _at_neurons(live, layer, units, image_id, lambda logits: logits[:, class_id])
    return _by_token(live, h * gradient)


def effect_on_tokens(
    live: LiveModel,
    layer: str,
    units: Sequence[int],
    class_id: int,
    image_id: int,
    replace: str | Substitute = "mean",
) -> Attribution:
    """(h - h') * d L / d h on every token: to first order, what the answer loses where h' stands in place of h there.

    L: the class's logit minus the mean of all logits. replace: as in `vitdex ablate`; a Substitute keeps its means from
    image to image. Raises QueryError for a coordinate of the stream: nothing is defined to stand in its place.
    """
    if not live.index.neuron_layer(layer, 0).has_value_vectors:
        fact = f"{layer} holds coordinates of the stream, which are no neurons to replace"
        raise QueryError(fact, "Name a layer of fc1 or attn, or take grad-times-activation.")
    substitute = Substitute(live, *parsed(replace)) if isinstance(replace, str) else replace
    prepared = substitute.prepare({layer: list(units)}, [image_id], draw=0)
    h, gradient = _at_neurons(live, layer, units, image_id, lambda logits: logits[:, class_id] - logits.mean(1))
    return _by_token(live, (h - substitute.instead(layer, h, prepared)) * gradient)


def _at_neurons(
    live: LiveModel, layer: str, units: Sequence[int], image_id: int, answer: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """h, and the gradient by it of an answer made of the logits [image, class]: both [1, token, unit]."""
    for unit in units:
        live.index.neuron_layer(layer, unit)
    with _leaf(live, layer) as leaves:
        answered = answer(live(live.pixels([image_id]), [])[0])
        gradient = torch.autograd.grad(answered.sum(), leaves[0])[0]
    return leaves[0].detach()[..., list(units)], gradient[..., list(units)]


def _by_token(live: LiveModel, values: Tensor) -> Attribution:
    """Values [1, token, unit] on the patches and on the tokens before them."""
    of_units: NDArray[np.float32] = values[0].T.cpu().numpy()
    first = of_units.shape[1] - live.spec.patches
    return Attribution(of_units[:, first:].reshape(len(of_units), *live.spec.grid), of_units[:, :first])


@contextmanager
def _leaf(live: LiveModel, layer: str) -> Iterator[list[Tensor]]:
    """While inside, what a layer hands on is a leaf of the graph: gradients reach it and go no further."""
    leaves: list[Tensor] = []

    def cut(value: Tensor) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]

    units = live.layer(layer)
    with changed(units.out, cut, "input" if layer == units.name else "output"):
        yield leaves


def _smoothed(
    live: LiveModel, image_id: int, outputs: Callable[[Tensor], list[Tensor]], smoothing: Smoothing
) -> NDArray[np.float32]:
    """Mean gradient over noisy copies of several outputs: float32 [output, y, x, channel]."""
    clean = live.pixels([image_id])
    spread = smoothing.noise * (clean.max() - clean.min())
    random = torch.Generator().manual_seed(smoothing.seed)
    total: Tensor | None = None
    for start in range(0, smoothing.copies, BATCH):
        shape = (min(BATCH, smoothing.copies - start), *clean.shape[1:])
        noisy = (clean + spread * torch.randn(shape, generator=random).to(live.device)).requires_grad_()
        found = [torch.autograd.grad(out.sum(), noisy, retain_graph=True)[0].sum(0) for out in outputs(noisy)]
        total = torch.stack(found) if total is None else total + torch.stack(found)
    assert total is not None
    mean: NDArray[np.float32] = (total / smoothing.copies).permute(0, 2, 3, 1).cpu().numpy()
    return mean
