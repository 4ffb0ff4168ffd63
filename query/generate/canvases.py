"""How an image is held while it is optimised: as pixels or as Fourier coefficients. Imports torch."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

# Opponent colours (Ohta et al. 1980): brightness, red against blue, green against both; with the sizes that they have
# in photographs, so that a step of the optimiser changes brightness more easily than colour.
OPPONENT = torch.tensor([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]]) * torch.tensor([[0.58], [0.18], [0.1]])


class Canvas(Protocol):
    """Images as an optimiser sees them."""

    held: Tensor

    def pixels(self) -> Tensor:
        """The images [image, 3, y, x], 0 to 1, differentiable in `held`."""
        ...

    def settle(self) -> None:
        """After a step: back into what can be shown."""
        ...


class PixelCanvas:
    """The pixels themselves, clamped to 0 and 1 after every step."""

    def __init__(self, start: Tensor, draw: torch.Generator) -> None:
        noise = 0.01 * torch.randn(start.shape, generator=draw).to(start.device)
        self.held = (start + noise).clamp(0, 1).requires_grad_()

    def pixels(self) -> Tensor:
        return self.held

    def settle(self) -> None:
        with torch.no_grad():
            self.held.clamp_(0, 1)


class FourierCanvas:
    """Coefficients of a Fourier series scaled by 1/f^decay in opponent colours, through a sigmoid (Olah et al. 2017).

    Natural images have such a spectrum: in these coordinates a step changes every scale alike, not single pixels first.
    """

    def __init__(self, start: Tensor, draw: torch.Generator, decay: float) -> None:
        height, width = self.size = (int(start.shape[-2]), int(start.shape[-1]))
        y, x = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        frequency = (y.square() + x.square()).sqrt().clamp(min=1 / max(height, width))
        self.scale = ((frequency * max(height, width)) ** -decay * 4).to(start.device)
        self.colours = OPPONENT.to(start.device)
        inside = start.clamp(0.02, 0.98).logit()
        opponent = torch.einsum("nchw,ck->nkhw", inside, torch.linalg.inv(self.colours))
        held = torch.view_as_real(torch.fft.rfft2(opponent, norm="forward") / self.scale)
        self.held = (held + 0.01 * torch.randn(held.shape, generator=draw).to(start.device)).requires_grad_()

    def pixels(self) -> Tensor:
        opponent = torch.fft.irfft2(torch.view_as_complex(self.held) * self.scale, s=self.size, norm="forward")
        return torch.einsum("nkhw,kc->nchw", opponent, self.colours).sigmoid()

    def settle(self) -> None:
        pass


def total_variation(pixels: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels: [image] (Rudin et al. 1992)."""
    down, right = pixels.diff(dim=-2).abs(), pixels.diff(dim=-1).abs()
    return down.mean((1, 2, 3)) + right.mean((1, 2, 3))
