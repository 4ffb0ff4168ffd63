"""What a dissected model consists of: layers of units, the norms around them, and how its head reads the stream.

    anatomy.layers[7].value_vectors          # of an MLP: [neuron, d]
    anatomy.attention[7].value_vectors       # of attention: [unit, d]
    anatomy.readout.kind                     # 'token', 'mean', 'mean of normed' or 'none: why'

`probe.dissect` makes these records and proves them. Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...schemas.run_spec import READOUTS, Kind


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
class UnitLayer:
    """The units of one branch of a block: an MLP's neurons, or what attention hands to its last linear layer.

    `out` is the linear layer that reads them and writes to the stream: fc2, or attn.proj. `gain` is LayerScale's gamma
    after it (ones without it), `post_norm` the norm after it. `keys` is the module whose output holds the units' values
    before `act`; where there is none (gated and attention units), they are what `out` reads, and `act` changes nothing.
    """

    name: str
    block: int
    kind: Kind
    keys: nn.Module | None
    act: nn.Module
    out: nn.Linear
    gain: Tensor
    post_norm: Norm | None
    post_norm_module: nn.Module | None

    @property
    def units(self) -> int:
        return self.out.in_features

    @property
    def residual_name(self) -> str:
        """The name of the layer of `out`'s outputs."""
        return self.name.removesuffix("fc1") + "fc2" if self.kind == "hidden" else self.name.removesuffix(".input")

    @property
    def value_vectors(self) -> Tensor:
        """Rows of W_out as stored: float32 [unit, d]."""
        return self.out.weight.detach().float().T

    @property
    def bias(self) -> Tensor:
        """What `out` adds whatever the units' values: float32 [d]."""
        bias = self.out.bias
        return torch.zeros(self.out.out_features) if bias is None else bias.detach().float()

    def into_stream(self, vectors: Tensor) -> Tensor:
        """Vectors [..., d] at the output of `out` as they reach the residual stream (post-norm: up to its sigma)."""
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
    """A model and where its units are. `prefix` tokens (CLS, registers) stand before rows * columns patches.

    `layers` are those of the MLPs, `attention` those of attention: none where `no_attention` says why not.
    """

    model: nn.Module
    layers: tuple[UnitLayer, ...]
    attention: tuple[UnitLayer, ...]
    no_attention: str
    prefix: int
    cls: bool
    grid: tuple[int, int]
    head: nn.Module
    readout: Readout
    features: int

    @property
    def units(self) -> int:
        return self.layers[0].units

    @property
    def every_layer(self) -> tuple[UnitLayer, ...]:
        """All layers in order of blocks; in a block attention comes first, as in the model."""
        return tuple(sorted((*self.attention, *self.layers), key=lambda layer: layer.block))

    def fold(self, layer: UnitLayer, vectors: Tensor) -> Tensor:
        """Vectors [..., d] at a layer's output as the head sees them, up to sigma: score = head @ folded."""
        assert self.readout.norm is not None
        return self.readout.norm.fold(layer.into_stream(vectors))
