"""What proves a claim about a model: two tensors compared, and a block run again with something changed.

Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .anatomy import Norm

TOLERANCE = 1e-3  # of the largest value: float32 through one block
Way = Literal["gain", "norm"]  # how what a linear layer writes reaches the stream


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-12))


@dataclass(frozen=True)
class BlockRun:
    """A block of the probe run: what it read and wrote, so that it can be run again."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    def change(self, outputs: Mapping[nn.Module, Tensor]) -> Tensor:
        """What the block writes more where some of its modules write these outputs instead of their own."""
        with ExitStack() as hooks:
            for module, out in outputs.items():
                hooks.enter_context(module.register_forward_hook(lambda m, args, _, out=out: out))
            changed: Tensor = self.module(*self.args, **self.kwargs)
        return changed - self.output


def way_to_stream(
    block: BlockRun,
    linear: nn.Module,
    out: Tensor,
    gain: Tensor,
    norm: Norm | None,
    still: Mapping[nn.Module, Tensor] | None = None,
) -> Way | None:
    """How a shift of a linear layer's output `out` reaches the stream: by the gain, by the norm, or in no known way.

    still: modules that would answer to the shift, and what they are to write all the same.
    """
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    shift = noise / gain.abs().max().clamp(min=1e-12)
    if close(block.change({linear: out + shift, **(still or {})}), gain * shift):
        return "gain"
    if norm is None:
        return None
    shift = noise * out.std()
    expected = norm(out + shift) - norm(out)
    return "norm" if close(block.change({linear: out + shift, **(still or {})}), expected) else None


def norm_of(module: nn.Module | None) -> Norm | None:
    """The arithmetic of a norm module, or None where it is of an unknown kind."""
    weight = getattr(module, "weight", None)
    if module is None or isinstance(module, nn.Identity):
        return Norm(False, torch.ones(1), torch.zeros(1), 0.0, scales=False)
    if not isinstance(weight, Tensor):
        return None
    bias = getattr(module, "bias", None)
    bias = bias.detach().float() if isinstance(bias, Tensor) else torch.zeros_like(weight, dtype=torch.float32)
    eps = float(getattr(module, "eps", 1e-6) or 1e-6)
    probe = torch.randn(2, 3, weight.shape[0], generator=torch.Generator().manual_seed(2)) + 0.5
    for centred in (True, False):
        norm = Norm(centred, weight.detach().float(), bias, eps)
        if close(module(probe), norm(probe)):
            return norm
    return None
