"""Composites for the packaged sample: one stamp at a random place, size, tilt and colour on a background.

Every random draw comes from a generator seeded by ``(stream, ...)``. The streams never meet, so no
picture of the index, of the validation or of the evaluation was ever trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .backgrounds import Floats, Rng, background, colour
from .stamps import Stamp

LINE_ART = {"hand", "letter"}  # black on white: they take any two colours
ONE_WAY = {"letter", "sign"}  # never mirrored
GREY = np.array([0.299, 0.587, 0.114], np.float32)
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class Stream(IntEnum):
    """The first word of every seed."""

    TRAINING = 1
    VALIDATION = 2
    INDEX = 3
    EVALUATION = 4


@dataclass(frozen=True)
class Recipe:
    """How far the random changes go."""

    size: tuple[float, float]  # root of width times height, in parts of the picture's side
    largest: float  # the tilted stamp's longer side at most, in the same unit
    overhang: float  # part of it that may leave the picture
    tilt: float  # degrees
    stretch: float
    hue: float  # radians
    any_hue: float  # how often the hue is turned at will instead
    saturation: tuple[float, float]
    grey: float  # how often all colour is taken away
    gain: float
    contrast: float  # least distance between the mean colours of object and background


PICTURE = Recipe((0.48, 0.85), 0.96, 0.0, 35, 0.08, 0.25, 0.0, (0.7, 1.3), 0.0, 0.2, 0.2)
TRAINING = Recipe((0.34, 0.9), 1.1, 0.12, 50, 0.3, 0.5, 0.25, (0.2, 1.7), 0.12, 0.4, 0.1)


def _placed(rng: Rng, stamp: Stamp, recipe: Recipe, side: int) -> Floats:
    """The stamp alone on a transparent square, RGBA in [0, 1]."""
    width, height = stamp.levels[0].size
    turn = np.radians(rng.uniform(-recipe.tilt, recipe.tilt))
    stretch = np.exp(rng.normal(0, recipe.stretch / 2))
    flip = 1 if stamp.label in ONE_WAY or rng.random() < 0.5 else -1
    shear = rng.normal(0, recipe.stretch / 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shape = rotation @ np.array([[flip * stretch, shear], [0, 1 / stretch]])
    shape *= rng.uniform(*recipe.size) * side / np.sqrt(width * height)
    extent = np.abs(shape) @ (width, height)
    fit = min(1.0, recipe.largest * side / extent.max())
    shape, extent = shape * fit, extent * fit
    slack = np.maximum(0, side - extent) / 2 + recipe.overhang * extent
    centre = side / 2 + rng.uniform(-1, 1, 2) * slack
    # The level is chosen so that bilinear sampling skips no pixel.
    scale = np.sqrt(abs(np.linalg.det(shape)))
    level = stamp.levels[int(np.clip(np.floor(-np.log2(scale) + 0.3), 0, len(stamp.levels) - 1))]
    back = np.diag((level.width / width, level.height / height)) @ np.linalg.inv(shape)
    offset = np.array(level.size) / 2 - back @ centre
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    image = level.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / np.float32(255)


def _recoloured(rng: Rng, rgb: Floats, recipe: Recipe) -> Floats:
    reach = np.pi if rng.random() < recipe.any_hue else recipe.hue
    angle = rng.uniform(-reach, reach)
    saturation = 0.0 if rng.random() < recipe.grey else rng.uniform(*recipe.saturation)
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.linalg.inv(YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ YIQ
    gain = np.exp(rng.normal(0, recipe.gain / 2)) * np.exp(rng.normal(0, recipe.gain / 4, 3))
    shift = rng.normal(0, recipe.gain / 4)
    changed: Floats = rgb @ (turn.T * gain).astype(np.float32) + np.float32(shift)
    return np.clip(changed, 0, 1)


def _inked(rng: Rng, rgb: Floats) -> Floats:
    """Line art in two colours far apart."""
    ink, paper = colour(rng), colour(rng)
    while abs((paper - ink) @ GREY) < 0.35:
        ink, paper = colour(rng), colour(rng)
    return ink + (paper - ink) * rgb


def _finished(rng: Rng, picture: Floats) -> Image.Image:
    """Camera faults: a little blur, a little noise."""
    side = len(picture)
    noise = rng.normal(0, rng.uniform(0, 0.02), (side, side, 1)).astype(np.float32)
    image = Image.fromarray((np.clip(picture + noise, 0, 1) * 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, side / 128))) if rng.random() < 0.3 else image


def compose(
    rng: Rng, stamp: Stamp, surfaces: Sequence[Image.Image], recipe: Recipe, side: int
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """One picture and the pixels of its object."""
    placed = _placed(rng, stamp, recipe, side)
    alpha = placed[..., 3:]
    inked = stamp.label in LINE_ART
    for _ in range(8):
        rgb = _inked(rng, placed[..., :3]) if inked else _recoloured(rng, placed[..., :3], recipe)
        behind = background(rng, side, surfaces)
        weight = max(float(alpha.sum()), 1.0)
        difference = ((rgb - behind) * alpha).sum((0, 1)) / weight
        if np.abs(difference).mean() >= recipe.contrast:
            break
    return _finished(rng, rgb * alpha + behind * (1 - alpha)), alpha[..., 0] > 0.5
