"""How an image is held, shaken and smoothed while it is optimised: a recipe is one line of `RECIPES`. Imports torch.

    recipe = RECIPES["default"]
    canvas = recipe.canvas(start, generator)      # what the optimiser changes
    pixels = canvas.pixels()                      # [image, 3, y, x], 0 to 1, differentiable
    shaken = recipe.augment(pixels, generator, left=0.5)

All draws come from one generator on the CPU, so that a seed means the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...schemas.errors import QueryError
from ..stored.names import at_least
from .canvases import Canvas, FourierCanvas, PixelCanvas


@dataclass(frozen=True)
class Recipe:
    """What turns an objective into an image. Lengths are shares of the image's height, angles are degrees.

    decay: of the Fourier coefficients' amplitudes with frequency, 1/f^decay; photographs have 1, more is smoother.
    copies: shaken views of every image a step. shift, scale, rotate: uniform draws of an affine map for every view.
    colour, offset: channel gain exp(U(-colour, colour)) and shift U(-colour, colour), and an offset of N(0, offset) for
    each channel that anneals to zero; both in the model's units (Ghiasi et al. 2022).
    tv: weight of the total variation against the objective, which counts in standard deviations of the neuron.
    diversity: weight of the mean cosine of Gram matrices.
    """

    fourier: bool
    rate: float
    cosine: bool  # anneal the rate to zero along a cosine
    decay: float = 1.5
    copies: int = 1
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    colour: float = 0.0
    offset: float = 0.0
    tv: float = 0.0
    diversity: float = 0.0
    descent: bool = False  # plain gradient descent instead of Adam
    snapshots: tuple[int, ...] = (32, 64, 128)  # the last one ends the run

    @property
    def steps(self) -> int:
        return max(self.snapshots)

    def adapted(self, steps: int | None, snapshots: Sequence[int], diversity: float | None) -> Recipe:
        """The same with so many steps in all, snapshots after others than its own, or another weight of diversity.

        Without snapshots its own move with the steps. Raises QueryError where a number makes no sense.
        """
        weight = self.diversity if diversity is None else diversity
        if not 0 <= weight < math.inf:
            raise QueryError(f"diversity is {diversity}", "A weight of 0 or more.")
        if steps is None:
            return replace(self, snapshots=tuple(sorted(snapshots)) or self.snapshots, diversity=weight)
        at_least(1, steps=steps)
        kept = set(snapshots) or {max(1, round(shot * steps / self.steps)) for shot in self.snapshots}
        if max(kept) > steps:
            raise QueryError(f"snapshot {max(kept)} comes after the last of {steps} steps", "Give more steps.")
        return replace(self, snapshots=tuple(sorted({*kept, steps})), diversity=weight)

    def canvas(self, start: Tensor, draw: torch.Generator) -> Canvas:
        """Hold images [image, 3, y, x] for an optimiser, with a little noise so that no two are the same."""
        return FourierCanvas(start, draw, self.decay) if self.fourier else PixelCanvas(start, draw)

    def optimiser(self, canvas: Canvas) -> torch.optim.Optimizer:
        if self.descent:
            return torch.optim.SGD([canvas.held], self.rate)
        return torch.optim.Adam([canvas.held], self.rate, betas=(0.5, 0.99))

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.rate * (0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.cosine else 1.0)

    def augment(self, pixels: Tensor, std: Tensor, draw: torch.Generator, left: float) -> Tensor:
        """A shaken view of every image, each by its own draw. left: the share of the run that is still to come."""
        uniform, normal = _draws(pixels, draw)
        if self.shift or self.scale or self.rotate:
            angle = uniform(1) * math.radians(self.rotate)
            size = 1 + uniform(1) * self.scale
            turn = torch.cat([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2) / size[..., None]
            move = uniform(2)[..., None] * 2 * self.shift
            grid = functional.affine_grid(torch.cat([turn, move], 2), list(pixels.shape), align_corners=False)
            pixels = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
        if self.colour or self.offset:
            gain, shift = (uniform(3) * self.colour).exp(), uniform(3) * self.colour + normal(3) * self.offset * left
            pixels = (pixels - 0.5) * gain[..., None, None] + 0.5 + shift[..., None, None] * std
        return pixels


def _draws(pixels: Tensor, draw: torch.Generator) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    """Draws [image, n] from U(-1, 1) and from N(0, 1)."""

    def uniform(n: int) -> Tensor:
        return (torch.rand(len(pixels), n, generator=draw) * 2 - 1).to(pixels.device)

    def normal(n: int) -> Tensor:
        return torch.randn(len(pixels), n, generator=draw).to(pixels.device)

    return uniform, normal


RecipeName = Literal["default", "robust", "plain"]
RECIPES: dict[RecipeName, Recipe] = {
    # Chosen by benchmarks/recipes.py: a higher score than plain's from images with a good deal less of fine noise.
    "default": Recipe(fourier=True, rate=0.05, cosine=True, tv=12.0, diversity=0.5),
    # Shaken all the while: scores less, but what it shows survives being moved and turned.
    "robust": Recipe(
        fourier=True, rate=0.05, cosine=True, copies=2, shift=0.05, scale=0.05, rotate=5, tv=2.0, diversity=0.5
    ),
    # The first published objective: -mean of the pre-GELU activation, pixels by gradient descent.
    "plain": Recipe(fourier=False, rate=1.0, cosine=False, descent=True, diversity=2.0, snapshots=(250, 500, 750)),
}
