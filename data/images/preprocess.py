"""An image as the model sees it, and where in the image that is. Imports timm: only for code that runs a model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from ...schemas.errors import UnreadableImage
from ...schemas.facts import Crop
from ...schemas.run_spec import Preprocessing
from .decode import MAX_PIXELS


class Preprocess:
    """timm's own evaluation transform, stopped before the normalisation."""

    def __init__(self, config: Preprocessing) -> None:
        transform = create_transform(
            input_size=tuple(config["input_size"]),
            is_training=False,
            use_prefetcher=True,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
        self.resize, self.cut = transform.transforms[:2]
        _, self.height, self.width = config["input_size"]
        self.crop_mode = config["crop_mode"]
        self.scaled = [max(1, int(side / config["crop_pct"])) for side in (self.height, self.width)]

    def __call__(self, image: Image.Image) -> tuple[NDArray[np.uint8], Crop]:
        """Pixels uint8 [y, x, channel] and what of the image they show.

        Raises UnreadableImage for an image so thin that, resized, it would be larger than any that is decoded, or none.
        """
        self._check_shape(image)
        resized = self.resize(image)
        pixels = np.asarray(self.cut(resized))
        left, top = round((resized.width - self.width) / 2), round((resized.height - self.height) / 2)
        across, down = image.width / resized.width, image.height / resized.height
        return pixels, (left * across, top * down, (left + self.width) * across, (top + self.height) * down)

    def _check_shape(self, image: Image.Image) -> None:
        """The short side is brought to the model's input (the long one where the crop adds a border)."""
        if self.crop_mode == "squash":
            return
        choose = max if self.crop_mode == "border" else min
        ratio = choose(image.height / self.scaled[0], image.width / self.scaled[1])
        height, width = image.height / ratio, image.width / ratio
        if height * width > MAX_PIXELS or min(height, width) < 0.5:
            raise UnreadableImage(
                f"{image.width} x {image.height} pixels: too thin for the model's input, resized it would have "
                f"{width:,.0f} x {height:,.0f}"
            )


def mean_and_std(config: Preprocessing, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """What the normalisation subtracts and what it divides by: each float32 [channel, 1, 1]."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (config["mean"], config["std"]))
    return mean, std


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels uint8 [image, y, x, channel] as the model reads them: float32 [image, channel, y, x]."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
