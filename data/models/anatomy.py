"""What a dissected model consists of: its MLP layers, the norms around them, and how its head reads the stream.

    anatomy.layers[7].value_vectors          # [neuron, d]
    anatomy.readout.kind                     # 'token', 'mean', 'mean of normed' or 'none: why'

`probe.dissect` makes these records and proves them. Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...schemas.run_spec import READOUTS


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm as arithmetic: (x - mean if centred) / sigma * weight + bias."""

    centred: bool
    weight: Tensor
    bias: Tensor
    eps: float
    scales: bool = True

    def sigma(self, x: Tensor) -> Tensor:
        """The divisor for tokens [..., d]: float32 [...]."""
        x = x.float()
        if not self.scales:
            return torch.ones(x.shape[:-1], device=x.device)
        square = x.var(-1, unbiased=False) if self.centred else x.square().mean(-1)
        return (square + self.eps).sqrt()

    def fold(self, vectors: Tensor) -> Tensor:
        """What the norm does to vectors [..., d] that are added to its input, up to sigma."""
        if self.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors * self.weight

    def __call__(self, x: Tensor) -> Tensor:
        return self.fold(x.float()) / self.sigma(x)[..., None] + self.bias


@dataclass(frozen=True)
class MlpLayer:
    """The MLP of one block. `gain` is LayerScale's gamma (ones without it), `post_norm` the norm after the MLP.

    `keys` is the module whose output holds the units' values, and `act` makes of them what fc2 reads: fc1 and the
    nonlinearity, or, in a gated MLP, the module before fc2, whose output fc2 reads as it is.
    """

    name: str
    block: int
    keys: nn.Module
    act: nn.Module
    fc2: nn.Linear
    gain: Tensor
    post_norm: Norm | None
    post_norm_module: nn.Module | None
    gated: bool

    @property
    def units(self) -> int:
        return self.fc2.in_features

    @property
    def residual_name(self) -> str:
        """The name of the layer of fc2's outputs."""
        return self.name.removesuffix(".input") if self.gated else self.name.removesuffix("fc1") + "fc2"

    @property
    def value_vectors(self) -> Tensor:
        """Rows of W_out as stored: float32 [neuron, d]."""
        return self.fc2.weight.detach().float().T

    def into_stream(self, vectors: Tensor) -> Tensor:
        """Vectors [..., d] at fc2's output as they reach the residual stream (post-norm: up to its sigma)."""
        return self.post_norm.fold(vectors) if self.post_norm else vectors * self.gain


@dataclass(frozen=True)
class Readout:
    """How the head reads the stream after the last block: one of run_spec.READOUTS, or 'none: why'."""

    kind: str
    norm: Norm | None
    norm_module: nn.Module | None

    @property
    def defined(self) -> bool:
        return self.kind in READOUTS


@dataclass(frozen=True)
class Anatomy:
    """A model and where its neurons are. `prefix` tokens (CLS, registers) stand before rows * columns patches."""

    model: nn.Module
    layers: tuple[MlpLayer, ...]
    prefix: int
    cls: bool
    grid: tuple[int, int]
    head: nn.Module
    readout: Readout
    features: int

    @property
    def units(self) -> int:
        return self.layers[0].units

    def fold(self, layer: MlpLayer, vectors: Tensor) -> Tensor:
        """Vectors [..., d] at fc2's output as the head sees them, up to sigma: score = head @ folded."""
        assert self.readout.norm is not None
        return self.readout.norm.fold(layer.into_stream(vectors))
