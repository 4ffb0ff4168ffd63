"""Neurons' activation replaced while the model runs: exact ablation. Imports torch: it runs a model.

    substitute = Substitute(live, "mean", seed=0)
    with replaced(live, neurons, substitute, image_ids, weight=None):
        live(live.pixels(image_ids), [])

What is replaced is h, the activation after the nonlinearity, as the last linear layer of the MLP reads it (of
attention: what attn.proj reads), on all tokens at once or on a part of the patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...schemas.errors import QueryError
from ..stored.names import Neuron
from .edits import changed, recording
from .live_model import LiveModel
from .mean_activations import mean_activations

Kind = Literal["mean", "zero", "resample", "times"]
REPLACEMENTS = "mean, zero, resample (another image's), or times:F (F times what it is)"


def parsed(replace: str) -> tuple[Kind, float]:
    """The kind of a replacement, and its factor. Raises QueryError for any other text."""
    kind, _, factor = replace.partition(":")
    try:
        times = float(factor) if kind == "times" else 0.0
    except ValueError:
        times = float("nan")
    if (kind == "times") != bool(factor) or kind not in ("mean", "zero", "resample", "times") or not np.isfinite(times):
        raise QueryError(f"no replacement '{replace}'", f"One of {REPLACEMENTS}.")
    return kind, times  # type: ignore[return-value]


def by_layer(neurons: Sequence[Neuron]) -> dict[str, list[int]]:
    """Units by layer, each once."""
    layers: dict[str, list[int]] = {}
    for layer, unit in dict.fromkeys(neurons):
        layers.setdefault(layer, []).append(unit)
    return layers


@dataclass
class Substitute:
    """What stands in place of neurons: `kind` zero, mean, resample or times `factor`."""

    live: LiveModel
    kind: Kind
    factor: float = 0.0
    seed: int = 0
    _means: dict[str, Tensor] = field(default_factory=dict)  # by layer [token, unit]

    @property
    def is_drawn(self) -> bool:
        return self.kind == "resample"

    def prepare(self, units: dict[str, list[int]], image_ids: Sequence[int], draw: int) -> dict[str, Tensor] | None:
        """What stands in place on a batch of images, by layer [token, unit] or [image, token, unit]; None of a dose.

        To be called before the hooks are in place: it runs the model itself.
        """
        if self.kind == "times" or self.kind == "zero":
            return None
        if self.kind == "mean":
            return {layer: self._mean(layer)[:, some] for layer, some in units.items()}
        donors = [self._donor(image_id, draw) for image_id in image_ids]
        modules = {layer: self.live.layer(layer).out for layer in units}
        with torch.inference_mode(), recording(inputs=modules, no_more=True) as read:
            self.live(self.live.pixels(donors), [])
        return {layer: read[layer][..., some] for layer, some in units.items()}

    def instead(self, layer: str, now: Tensor, prepared: dict[str, Tensor] | None) -> Tensor:
        """What stands in place of a layer's values `now` [image, token, unit], of what `prepare` gave."""
        return self.factor * now if prepared is None else prepared[layer].to(now)

    def _donor(self, image_id: int, draw: int) -> int:
        """Another image of the index that can be read, drawn for this one."""
        others = self._readable[self._readable != image_id]
        if not len(others):
            raise QueryError("no other image to take values from", "Replace by mean or zero.")
        return int(np.random.default_rng((self.seed, image_id, draw)).choice(others))

    @cached_property
    def _readable(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.live.index.reader.whole("valid"))

    def _mean(self, layer: str) -> Tensor:
        """The mean of h over all images, the same number on all patches: [token, unit] of all units of a layer."""
        if layer not in self._means:
            rows = mean_activations(self.live, [layer], self.seed)[layer]
            patches = rows[-1:].expand(self.live.spec.patches, -1)
            self._means[layer] = torch.cat([rows[:-1], patches]).to(self.live.device)
        return self._means[layer]


@contextmanager
def replaced(
    live: LiveModel,
    neurons: Sequence[Neuron],
    substitute: Substitute,
    image_ids: Sequence[int],
    weight: Tensor | None = None,
    draw: int = 0,
) -> Iterator[None]:
    """While inside, on a batch of these images neurons write h + weight (h' - h) instead of h.

    weight: 0 to 1 for every token [image, token]; None for 1 everywhere. draw: which of several draws ('resample').
    """
    units = by_layer(neurons)
    prepared = substitute.prepare(units, image_ids, draw)

    def change(layer: str, some: list[int], h: Tensor) -> Tensor:
        now = h[..., some]
        new = substitute.instead(layer, now, prepared)
        out = h.clone()
        out[..., some] = new if weight is None else now + weight[..., None] * (new - now)
        return out

    with ExitStack() as hooks:
        for layer, some in units.items():
            hooks.enter_context(changed(live.layer(layer).out, partial(change, layer, some), "input"))
        yield
