"""What the tables ask of a model: value vectors, what follows a unit, and what every logit holds whatever the image.

space = ModelSpace(plan.anatomy)                # of the model that runs
space = StoredSpace(reader, spec, act, bias)    # of an index: the same numbers, without a model
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...data.models.anatomy import Anatomy
from ...schemas.array_specs import ATTENTION_ARRAYS, MLP_ARRAYS, VectorArrays
from ...schemas.run_spec import READOUTS, LayerSpec, RunSpec
from ...schemas.storage.array_reader import ArrayReader


class ClassSpace(Protocol):
    """Layers are given by name. Vectors are float32 [unit, d], in memory one row after the other."""

    @property
    def norm_bias(self) -> Tensor | None:
        """The bias of the norm before the head: float32 [feature]; None where contributions are not defined."""
        ...

    def act(self, layer: str) -> nn.Module:
        """The nonlinearity after a layer's units."""
        ...

    def vectors(self, layer: str) -> Tensor:
        """Value vectors as the model stores them."""
        ...

    def folded(self, layer: str) -> Tensor:
        """The same with all gains folded in; only where contributions are defined."""
        ...


class ModelSpace:
    """Of a dissected model."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._layers = {layer.name: layer for layer in anatomy.every_layer}

    @property
    def norm_bias(self) -> Tensor | None:
        norm = self._anatomy.readout.norm
        return None if norm is None else norm.bias.detach().float().expand(self._anatomy.features).contiguous()

    def act(self, layer: str) -> nn.Module:
        return self._layers[layer].act

    def vectors(self, layer: str) -> Tensor:
        return self._layers[layer].value_vectors.contiguous()

    def folded(self, layer: str) -> Tensor:
        return self._anatomy.fold(self._layers[layer], self._layers[layer].value_vectors).contiguous()


class StoredSpace:
    """Of an index: its arrays, and what they do not hold."""

    def __init__(self, reader: ArrayReader, spec: RunSpec, act: nn.Module, norm_bias: Tensor | None) -> None:
        assert (norm_bias is not None) == (spec.readout in READOUTS)
        self.norm_bias, self._reader, self._act = norm_bias, reader, act
        self._layers: dict[str, tuple[VectorArrays, int, LayerSpec]] = {
            layer.name: (names, place, layer)
            for names, layers in ((MLP_ARRAYS, spec.neuron_layers), (ATTENTION_ARRAYS, spec.attention_layers))
            for place, layer in enumerate(layers)
        }

    def act(self, layer: str) -> nn.Module:
        return nn.Identity() if self._layers[layer][2].both_signs else self._act

    def vectors(self, layer: str) -> Tensor:
        names, place, _ = self._layers[layer]
        return self._stored(names.vectors, place)

    def folded(self, layer: str) -> Tensor:
        names, place, _ = self._layers[layer]
        return self._stored(names.folded, place)

    def _stored(self, path: str, place: int) -> Tensor:
        return torch.from_numpy(np.array(self._reader.chunk(path, place)[0]))
