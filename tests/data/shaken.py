"""Small models with random weights of which every one matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def shaken(model: Any) -> Any:
    """Noise on every parameter: no gain, bias or token stays at the value that would hide it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim == 1 or parameter.shape[0] == 1 else 0.1))
    return model.eval()


def pixels(height: int = 32, width: int | None = None) -> Tensor:
    return torch.randn(3, 3, height, width or height, generator=torch.Generator().manual_seed(11))


def saved(file: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, file)
    return file
