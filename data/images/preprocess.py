"""An image as the model sees it, and where in the image that is. Imports timm: only for code that runs a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform


class Preprocess:
    """timm's own evaluation transform, stopped before the normalisation.

    config: timm's data config (input_size, interpolation, crop_pct, crop_mode, mean, std).
    """

    def __init__(self, config: dict[str, Any]) -> None:
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

    def __call__(self, image: Image.Image) -> tuple[NDArray[np.uint8], list[float]]:
        """Pixels uint8 [y, x, channel] and what they show: left, top, right, bottom in the image's own pixels."""
        resized = self.resize(image)
        pixels = np.asarray(self.cut(resized))
        left, top = round((resized.width - self.width) / 2), round((resized.height - self.height) / 2)
        across, down = image.width / resized.width, image.height / resized.height
        crop = [left * across, top * down, (left + self.width) * across, (top + self.height) * down]
        return pixels, crop
