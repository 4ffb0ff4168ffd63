"""What an image is to excite: objectives, larger is better, in standard deviations over the real images. Imports torch.

objective = excite(live, [Neuron("blocks.5.mlp.fc1", 159)], over="mean")
objective = objective + away_from(live, siblings(index, class_id))
objective(seen)                                # float32 [image], differentiable
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.errors import QueryError
from ..lookups.key_neurons import needs_head
from ..model.edits import recording
from ..model.live_model import LiveModel
from ..stored.names import Neuron

TEMPERATURE = 0.1
MOST_STORED = 4096  # stored features that a contrastive objective compares with


@dataclass(frozen=True)
class Seen:
    """What the model made of images: logits [image, class], patches' values [image, patch, unit], the head's input.

    Logits and features are empty where only layers were looked at.
    """

    logits: Tensor
    values: dict[str, Tensor]
    features: Tensor


def see(live: LiveModel, pixels: Tensor, layers: Sequence[str], answer: bool = True) -> Seen:
    """Run the model on pixels 0 to 1, differentiable; without its answer no further than the last of these layers."""
    if not answer:
        values, none = live.values(pixels, layers), pixels.new_empty(0)
        return Seen(none, {name: live.patches(v) for name, v in values.items()}, none)
    with recording(inputs={"head": live.anatomy.head}) as read:
        logits, values = live(pixels, layers)
    return Seen(logits, {name: live.patches(v) for name, v in values.items()}, read["head"])


@dataclass(frozen=True)
class Objective:
    """A name that the notes keep, the layers it reads, its value for every image; whether it reads the answer, too."""

    name: str
    layers: tuple[str, ...]
    value: Callable[[Seen], Tensor]
    answer: bool = False

    def __call__(self, seen: Seen) -> Tensor:
        return self.value(seen)

    def __add__(self, other: Objective) -> Objective:
        layers = tuple(dict.fromkeys(self.layers + other.layers))
        name, answer = f"{self.name} {other.name}", self.answer or other.answer
        return Objective(name, layers, lambda seen: self(seen) + other(seen), answer)


def standardised(live: LiveModel, neuron: Neuron, post: bool = False) -> Callable[[Seen], Tensor]:
    """A neuron's values on the patches [image, patch], in its standard deviations from its mean on real patches.

    post: after the model's own nonlinearity, in the same unit.
    """
    if post and live.index.neuron_layer(*neuron).kind != "hidden":
        raise QueryError(f"{neuron.layer} has no nonlinearity after it", "Leave --post out.")
    mean, std = live.index.sql("SELECT pre_mean, pre_std FROM neurons WHERE layer = ? AND unit = ?", [*neuron]).iloc[0]
    act: Callable[[Tensor], Tensor] = live.layer(neuron.layer).act if post else lambda values: values - float(mean)

    def value(seen: Seen) -> Tensor:
        return act(seen.values[neuron.layer][..., neuron.unit]) / max(float(std), 1e-6)

    return value


def excite(live: LiveModel, neurons: Sequence[Neuron], over: str | int = "mean", post: bool = False) -> Objective:
    """The mean over neurons of their mean or max over the patches, or of their value on one patch.

    The first published objective is over='mean', post=False, one neuron. Raises QueryError where no such patch is.
    """
    patches = live.spec.patches
    if isinstance(over, int) and not 0 <= over < patches:
        raise QueryError(f"no patch {over}", f"Patches count from 0 to {patches - 1}.")
    values = [standardised(live, neuron, post) for neuron in neurons]

    def pooled(value: Tensor) -> Tensor:
        return value[:, over] if isinstance(over, int) else value.mean(1) if over == "mean" else value.amax(1)

    where = f"patch {over}" if isinstance(over, int) else over
    name = f"{where} {'post' if post else 'pre'} of {', '.join(map(str, neurons))}"
    return Objective(
        name,
        tuple(dict.fromkeys(neuron.layer for neuron in neurons)),
        lambda seen: torch.stack([pooled(value(seen)) for value in values]).mean(0),
    )


def away_from(live: LiveModel, neurons: Sequence[Neuron]) -> Objective:
    """Minus what other neurons are excited above their mean: an image for one class that does not speak for others."""
    values = [standardised(live, neuron) for neuron in neurons]
    return Objective(
        f"without {', '.join(map(str, neurons))}",
        tuple(dict.fromkeys(neuron.layer for neuron in neurons)),
        lambda seen: -torch.stack([value(seen).mean(1).relu() for value in values]).mean(0),
    )


def class_logit(live: LiveModel, class_id: int) -> Objective:
    """A class's logit."""
    needs_head(live.index)
    real = live.index.reader.column("logits", class_id)
    mean, std = float(np.nanmean(real)), float(np.nanstd(real)) or 1.0  # of one image, or of equal ones
    return Objective(f"logit of class {class_id}", (), lambda seen: (seen.logits[:, class_id] - mean) / std, True)


def like_stored(live: LiveModel, positive: NDArray[np.int64], seed: int, called: str) -> Objective:
    """InfoNCE against stored features of real images: close to those of `positive`, far from all others.

    log of the softmax, over stored images, of cosine / 0.1, averaged over the positives (van den Oord et al. 2018; for
    several positives Khosla et al. 2020). Features are centred on their mean. At most 4,096 others are drawn.
    """
    reader = live.index.reader
    valid = np.flatnonzero(reader.whole("valid"))
    others = np.setdiff1d(valid, positive)
    if len(others) > MOST_STORED:
        others = np.sort(np.random.default_rng(seed).choice(others, MOST_STORED, replace=False))
    rows = np.concatenate([positive, others])
    stored = reader.rows("features", rows)
    real = torch.from_numpy(stored.astype(np.float32)).to(live.device)
    mean = real.mean(0)
    real = torch.nn.functional.normalize(real - mean, dim=1)

    def value(seen: Seen) -> Tensor:
        near = torch.nn.functional.normalize(seen.features - mean, dim=1) @ real.T / TEMPERATURE
        return near.log_softmax(1)[:, : len(positive)].mean(1)

    return Objective(f"near {called}", (), value, True)


def gram_cosines(features: Tensor) -> Tensor:
    """Cosines between the Gram matrices of images' features: [image, image] from [image, patch, unit].

    Centred over the image's patches first. With F [patch, unit], <G_i, G_j> = |F_i F_j^T|^2: no unit x unit matrix.
    """
    centred = features - features.mean(1, keepdim=True)
    products = torch.stack([torch.stack([(a @ b.T).square().sum() for b in centred]) for a in centred])
    length = products.diagonal().clamp(min=1e-20).sqrt()
    return products / length[:, None] / length[None]
