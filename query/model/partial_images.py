"""Images of which only some patches are shown, and what a model says of them. Imports torch: it runs a model.

    partial = PartialImages(live, image_id=83, class_id=2, baseline="blur")
    partial.probabilities(shown)    # float64 [any], for shown bool [any, patch]

Where a patch is not shown stands a baseline in its place: the same image blurred, or plain grey.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad

from .live_model import BATCH, LiveModel

REACH = 3  # standard deviations of a blur that are computed


class PartialImages:
    """One image with any of its patches shown; `tell` hears how many such images the model has answered more."""

    def __init__(self, live: LiveModel, image_id: int, class_id: int, baseline: Literal["blur", "grey"]) -> None:
        self.live, self.class_id = live, class_id
        self.image = live.pixels([image_id])
        self.baseline = blurred(self.image, live.spec.grid) if baseline == "blur" else live.mean.expand_as(self.image)
        height, width = self.image.shape[2:]
        self.patches = torch.from_numpy(patch_of_pixels(live.spec.grid, (height, width))).to(live.device)

    def pixels(self, shown: Tensor) -> Tensor:
        """The images themselves, 0 to 1: float32 [any, channel, y, x], for shown bool [any, patch]."""
        return torch.where(shown[:, self.patches][:, None], self.image, self.baseline)

    def probabilities(self, shown: NDArray[np.bool_], tell: Callable[[int], object] = int) -> NDArray[np.float64]:
        """The class's probability (softmax over all classes) with only these patches: float64 [any]."""
        out = np.empty(len(shown))
        for start in range(0, len(shown), BATCH):
            some = torch.from_numpy(shown[start : start + BATCH]).to(self.live.device)
            with torch.inference_mode():
                logits = self.live(self.pixels(some), [])[0]
                out[start : start + len(some)] = logits.double().softmax(1)[:, self.class_id].cpu().numpy()
            tell(len(some))
        return out


def patch_of_pixels(grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """The patch that every pixel lies in: int64 [y, x]."""
    y, x = (np.arange(length) * parts // length for length, parts in zip(size, grid, strict=True))
    return np.add.outer(y * grid[1], x)


def by_patch(values: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Values on patches as they are, values by pixel as their mean over every patch: float64 [patch]."""
    if values.shape == tuple(grid):
        return values.astype(np.float64).reshape(-1)
    patches = patch_of_pixels(grid, (values.shape[0], values.shape[1])).reshape(-1)
    sums: NDArray[np.float64] = np.bincount(patches, values.reshape(-1)) / np.bincount(patches)
    return sums


def blurred(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """An image [1, channel, y, x] under a Gaussian whose standard deviation is one side of a patch, border repeated."""
    for axis, parts in enumerate(grid):
        spread = image.shape[2 + axis] / parts
        reach = int(np.ceil(REACH * spread))
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / spread) ** 2).to(image)
        kernel = (weights / weights.sum()).reshape((1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1))
        ends = (0, 0, reach, reach) if axis == 0 else (reach, reach, 0, 0)
        image = conv2d(pad(image, ends, "replicate"), kernel.expand(image.shape[1], 1, -1, -1), groups=image.shape[1])
    return image
