"""The model behind an index, for what no index stores. Imports torch: only questions that run a model import this.

with StoredIndex("sample.vitdex") as index:
    live = open_model(index)                                   # the weights that the index was made with, or an error
    live.maps("blocks.4.mlp.fc1", [7, 9], image_ids=[0, 1])    # float32 [image, unit, rows, columns]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.images.preprocess import mean_and_std
from ...data.models.anatomy import Anatomy, UnitLayer
from ...data.models.configs import CONFIG_FILE
from ...data.models.device import choose_device
from ...data.models.load import LOCAL, Loaded, load_model
from ...data.models.probe import dissect
from ...data.models.remembered_weights import remember_weights, remembered_weights
from ...data.packaged import MODEL
from ...schemas.errors import ModelError
from ...schemas.run_spec import RunSpec
from ..stored.stored_index import StoredIndex
from .edits import End, recording

BATCH = 32


@dataclass(frozen=True)
class LiveModel:
    """A model that was proved to hold the weights of an index. Its parameters are frozen."""

    index: StoredIndex
    anatomy: Anatomy
    device: torch.device
    mean: Tensor
    std: Tensor

    @property
    def spec(self) -> RunSpec:
        return self.index.spec

    def layer(self, name: str) -> UnitLayer:
        """The MLP or attention that holds a layer of the index."""
        self.index.neuron_layer(name, 0)
        return next(a for a in self.anatomy.every_layer if name in (a.name, a.residual_name))

    def module(self, name: str) -> tuple[nn.Module, End]:
        """The module whose input or output a layer of the index holds, and which of the two."""
        layer = self.layer(name)
        if name != layer.name:
            return layer.out, "output"
        return (layer.out, "input") if layer.keys is None else (layer.keys, "output")

    def pixels(self, image_ids: Sequence[int]) -> Tensor:
        """The stored inputs of images, 0 to 1: float32 [image, channel, y, x]. Raises QueryError where none are."""
        stored = self.index.inputs(image_ids)
        return torch.from_numpy(stored).to(self.device).permute(0, 3, 1, 2).float() / 255

    def __call__(self, pixels: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The answer and layers' values [image, token, unit] for pixels 0 to 1, in float32, differentiable.

        The answer is that of the index's own head, whoever brought it: logits [image, class]; without any, features.
        """
        with recording(*self._ends(names)) as kept, recording(inputs={"head": self.anatomy.head}) as read:
            answer: Tensor = self.anatomy.model((pixels - self.mean) / self.std)
        if self.spec.head not in ("model", "none"):
            weight, bias = self._brought_head
            answer = read["head"].float() @ weight.T + bias
        return answer, kept

    @cached_property
    def _brought_head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a head that a file brought. No array holds the bias: it is what is left of a logit."""
        weight, norm = self.index.reader.whole("head"), self.anatomy.readout.norm
        if norm is not None and self.anatomy.readout.defined:
            beta = norm.bias.double().cpu().expand(self.spec.features).numpy()
            offsets = self.index.look_up("SELECT logit_offset FROM classes ORDER BY class_id", [])
            bias = offsets.logit_offset.to_numpy(np.float64) - weight @ beta
        else:
            image = int(np.flatnonzero(self.index.reader.whole("valid"))[0])
            with torch.inference_mode(), recording(inputs={"head": self.anatomy.head}) as read:
                self.anatomy.model((self.pixels([image]) - self.mean) / self.std)
            bias = self.index.reader.rows("logits", [image])[0] - weight @ read["head"][0].float().cpu().numpy()
        with torch.inference_mode(False):  # kept for passes that are differentiated, whoever asks first
            return torch.tensor(weight, device=self.device), torch.tensor(bias, dtype=torch.float32, device=self.device)

    def values(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The same values without the answer: nothing behind the last of these layers runs."""
        with recording(*self._ends(names), no_more=True) as kept:
            self.anatomy.model((pixels - self.mean) / self.std)
        return kept

    def _ends(self, names: Sequence[str]) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """The modules whose outputs, and those whose inputs, hold layers."""
        modules = {name: self.module(name) for name in names}
        outputs, inputs = ({n: m for n, (m, at) in modules.items() if at == end} for end in ("output", "input"))
        return outputs, inputs

    def activated(self, layer: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values after the model's own nonlinearity."""
        with torch.inference_mode():
            after: NDArray[np.float32] = self.layer(layer).act(torch.tensor(values, device=self.device)).cpu().numpy()
        return after

    def patches(self, values: Tensor) -> Tensor:
        """Values [image, token, ...] without CLS and register tokens."""
        return values[:, values.shape[1] - self.spec.patches :]

    def maps(self, layer: str, units: Sequence[int], image_ids: Sequence[int]) -> NDArray[np.float32]:
        """Maps computed anew from the stored inputs: float32 [image, unit, rows, columns]; NaN where unreadable."""
        out = np.empty((len(image_ids), len(units), *self.spec.grid), np.float32)
        for start, ids in _batches(image_ids):
            with torch.inference_mode():
                values = self.values(self.pixels(ids), [layer])[layer]
            found = self.patches(values)[..., list(units)].permute(0, 2, 1).cpu().numpy()
            out[start : start + len(ids)] = found.reshape(len(ids), len(units), *self.spec.grid)
        valid = self.index.reader.rows("valid", image_ids)
        out[~valid] = np.nan
        return out


def _batches(image_ids: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    for start in range(0, len(image_ids), BATCH):
        yield start, image_ids[start : start + BATCH]


def open_model(index: StoredIndex, weights: str | Path | None = None, device: str | None = None) -> LiveModel:
    """Load the model of an index and prove by hash that it is the one.

    Args:
        weights: a safetensors file, the index of several, or a model's folder. Once proved, the place is remembered in
            the user's own config. Without it, the place that is remembered for the index's hash; else the packaged
            model where it is the one, else timm's own weights of that name. An index may come from a stranger: what it
            names on the hub (`hf-hub:`) is taken from this machine's cache, never downloaded.
        device: 'cpu', 'cuda', 'mps'; by default the best there is.

    Returns:
        A LiveModel, its parameters frozen.

    Raises:
        ModelError: other weights come, or there is no such device.

    Example:
        >>> open_model(index).maps("blocks.4.mlp.fc1", [7, 9], image_ids=[0, 1])
    """
    spec = index.spec
    _, height, width = spec.preprocessing["input_size"]
    loaded = _found(index) if weights is None else _proved(index, spec.model, Path(weights))
    if weights is not None:
        remember_weights(spec.weights_sha256, weights)
    anatomy = dissect(loaded.model, (height, width))
    target = torch.device(choose_device(device))
    loaded.model.to(target)
    return LiveModel(index, anatomy, target, *mean_and_std(spec.preprocessing, target))


def _proved(index: StoredIndex, name: str, weights: Path | None) -> Loaded:
    """What load_model gives for a name and weights. Raises ModelError where it is not the index's."""
    loaded = load_model(name, weights, model_args=index.spec.model_args, download=False)
    if loaded.sha256 != index.spec.weights_sha256:
        raise ModelError(
            f"these weights of {index.spec.model} are not those that {index.layout.root} was made with",
            "Give --weights FILE with the ones that were used.",
        )
    return loaded


def _found(index: StoredIndex) -> Loaded:
    """The index's weights where nobody says where they are: where they are remembered, packaged, or on timm's hub."""
    spec = index.spec
    at = remembered_weights(spec.weights_sha256)
    if at is not None:
        with suppress(ModelError):
            return _proved(index, spec.model, at)
    config = json.loads((MODEL / CONFIG_FILE).read_text(encoding="utf-8"))
    ours = (config["architecture"], config["model_args"]) == (spec.model, spec.model_args)
    try:
        return _proved(index, f"{LOCAL}{MODEL}" if ours else spec.model, None)
    except ModelError as error:
        if at is None:
            raise
        now = "holds others now" if at.exists() else "is not there any more"
        raise ModelError(
            f"{at}, where the weights lay that {index.layout.root} was made with, {now}",
            "Give --weights FILE with the ones that were used.",
        ) from error
