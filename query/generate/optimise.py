"""The loop that optimises images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.live_model import LiveModel
from .canvases import Canvas, total_variation
from .objectives import Objective, gram_cosines, see
from .recipes import Recipe

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Snapshot:
    """Images [image, y, x, channel], 0 to 255, after so many steps."""

    step: int
    pixels: NDArray[np.uint8]


def optimise(
    live: LiveModel,
    objective: Objective,
    recipe: Recipe,
    images: int,
    seed: int,
    start: Tensor | None = None,
    diverse_in: str | None = None,
    report: Report = lambda step, value: None,
) -> Iterator[Snapshot]:
    """Optimise a batch of images; one snapshot at each of the recipe's steps, or where Ctrl-C stopped it.

    start: float [image, channel, y, x], 0 to 1 (grey without it). diverse_in: the layer whose Gram matrices are
    pushed apart.
    Memory holds one pass of the batch, whatever the recipe's copies. Equal seeds give equal images on one device.
    """
    draw = torch.Generator().manual_seed(seed)
    _, height, width = live.spec.preprocessing["input_size"]
    if start is None:
        start = torch.full((images, 3, height, width), 0.5, device=live.device)
    canvas = recipe.canvas(start, draw)
    optimiser = recipe.optimiser(canvas)
    step = 0
    try:
        for step in range(1, recipe.steps + 1):
            optimiser.param_groups[0]["lr"] = recipe.rate_at(step - 1)
            optimiser.zero_grad()
            value = sum(_climb(live, objective, recipe, canvas, step, draw, diverse_in) for _ in range(recipe.copies))
            optimiser.step()
            canvas.settle()
            report(step, value / recipe.copies)
            if step in recipe.snapshots:
                yield Snapshot(step, shown(canvas))
    except KeyboardInterrupt:
        yield Snapshot(step, shown(canvas))
        raise


def _climb(
    live: LiveModel,
    objective: Objective,
    recipe: Recipe,
    canvas: Canvas,
    step: int,
    draw: torch.Generator,
    diverse_in: str | None,
) -> float:
    """Add one view's share to the gradient; the objective's mean over the images."""
    pixels = canvas.pixels()
    view = recipe.augment(pixels, live.std, draw, left=1 - step / recipe.steps)
    diverse = diverse_in if recipe.diversity and len(pixels) > 1 else None
    seen = see(live, view, [*dict.fromkeys((*objective.layers, *([diverse] if diverse else [])))], objective.answer)
    value = objective(seen)
    loss = recipe.tv * total_variation(pixels) - value
    if diverse:
        loss = loss + recipe.diversity * likeness(gram_cosines(seen.values[diverse]))
    torch.autograd.backward(loss.sum() / recipe.copies)
    return float(value.detach().mean())


def likeness(cosines: Tensor) -> Tensor:
    """Each image's mean cosine with the others: [image] from [image, image]."""
    return (cosines.sum(1) - cosines.diagonal()) / (len(cosines) - 1)


def shown(canvas: Canvas) -> NDArray[np.uint8]:
    """The images as they are saved, and judged: 8 bits."""
    with torch.no_grad():
        return (canvas.pixels() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
