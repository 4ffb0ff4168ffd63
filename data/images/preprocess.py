"""An image as the model sees it, and where in the image that is. Imports timm: only for code that runs a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from ...schemas.facts import Crop
from ...schemas.run_spec import Preprocessing


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

    def __call__(self, image: Image.Image) -> tuple[NDArray[np.uint8], Crop]:
        """Pixels uint8 [y, x, channel] and what of the image they show."""
        resized = self.resize(image)
        pixels = np.asarray(self.cut(resized))
        left, top = round((resized.width - self.width) / 2), round((resized.height - self.height) / 2)
        across, down = image.width / resized.width, image.height / resized.height
        return pixels, (left * across, top * down, (left + self.width) * across, (top + self.height) * down)
