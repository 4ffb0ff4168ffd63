"""Procedural backgrounds for the sample's composites: nothing in them belongs to a class."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Rng = np.random.Generator


def colour(rng: Rng) -> Floats:
    """A random colour, more often muted than garish."""
    grey, vividness = rng.uniform(0.1, 0.9), rng.beta(1.3, 2.0)
    return np.clip(grey + vividness * rng.uniform(-0.6, 0.6, 3), 0, 1).astype(np.float32)


def _axes(rng: Rng, size: int) -> tuple[Floats, Floats]:
    """Two perpendicular coordinates in [-1, 1] or so, turned by a random angle."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    turn = np.float32(rng.uniform(0, 2 * np.pi))
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def _blend(rng: Rng, weight: Floats) -> Floats:
    weight = weight[..., None]
    return colour(rng) * weight + colour(rng) * (1 - weight)


def _noise(rng: Rng, size: int, cells: int) -> Floats:
    """One smooth random field in [0, 1] with about ``cells`` bumps along a side."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def gradient(rng: Rng, size: int) -> Floats:
    along, _ = _axes(rng, size)
    return _blend(rng, np.clip(along * np.float32(rng.uniform(0.3, 1.0)) / 2 + 0.5, 0, 1))


def clouds(rng: Rng, size: int) -> Floats:
    cells = int(rng.integers(2, 7))
    return _blend(rng, 0.65 * _noise(rng, size, cells) + 0.35 * _noise(rng, size, 4 * cells))


def patches(rng: Rng, size: int) -> Floats:
    """Two or three flat colours with wavy borders, like camouflage or terrain."""
    picture = gradient(rng, size)
    for _ in range(rng.integers(1, 4)):
        picture[_noise(rng, size, int(rng.integers(3, 9))) > rng.uniform(0.45, 0.65)] = colour(rng)
    return picture


def stripes(rng: Rng, size: int) -> Floats:
    along, across = _axes(rng, size)
    wave = np.sin(along * rng.uniform(4, 30) + rng.uniform(0, 6) + rng.uniform(0, 1.5) * np.sin(3 * across))
    return _blend(rng, np.clip(wave * np.float32(rng.uniform(0.4, 6)) / 2 + 0.5, 0, 1).astype(np.float32))


def tiles(rng: Rng, size: int) -> Floats:
    along, across = _axes(rng, size)
    count = rng.uniform(2, 9)
    cell = (np.floor(along * count).astype(int) * 7 + np.floor(across * count).astype(int) * 13) % 64
    shade = rng.uniform(0, 1, 64).astype(np.float32) if rng.random() < 0.6 else np.arange(64) % np.float32(2)
    return _blend(rng, shade[cell])


def grain(rng: Rng, size: int) -> Floats:
    fine = _noise(rng, size, int(rng.integers(size // 4, size)))
    return np.clip(clouds(rng, size) + (fine[..., None] - 0.5) * np.float32(rng.uniform(0.2, 0.6)), 0, 1)


def clutter(rng: Rng, size: int) -> Floats:
    """Plain ellipses, polygons and lines, often out of focus."""
    image = Image.fromarray((gradient(rng, size) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 14)):
        fill = tuple(int(c) for c in colour(rng) * 255)
        x, y = rng.uniform(0, size, 2)
        reach = rng.uniform(0.05, 0.3) * size
        kind = rng.integers(3)
        if kind == 0:
            wide, high = reach * rng.uniform(0.3, 1, 2)
            draw.ellipse((x - wide, y - high, x + wide, y + high), fill=fill)
        elif kind == 1:
            corners = rng.uniform(-reach, reach, (int(rng.integers(3, 6)), 2))
            draw.polygon([(float(x + a), float(y + b)) for a, b in corners], fill=fill)
        else:
            right, bottom = rng.uniform(0, size, 2)
            draw.line((x, y, right, bottom), fill=fill, width=int(rng.integers(1, 1 + size // 16)))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, size / 24)))
    return np.asarray(blurred, np.float32) / np.float32(255)


def photograph(rng: Rng, size: int, surfaces: Sequence[Image.Image]) -> Floats:
    """A tinted crop of a photographed surface: stone, bark, foliage, cloud tops."""
    surface = surfaces[int(rng.integers(len(surfaces)))]
    side = min(surface.size) * rng.uniform(0.35, 1)
    left, top = (rng.uniform(0, length - side) for length in surface.size)
    crop = surface.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    turned = np.rot90(np.asarray(crop, np.float32) / np.float32(255), int(rng.integers(4)))
    tint = colour(rng) - np.float32(0.5)
    lit: Floats = turned * np.float32(rng.uniform(0.6, 1.2)) + tint * np.float32(rng.uniform(0, 0.6))
    return np.clip(lit, 0, 1)


PROCEDURAL: tuple[Callable[[Rng, int], Floats], ...] = (
    gradient, clouds, patches, stripes, tiles, grain, clutter, clutter,
)  # fmt: skip


def background(rng: Rng, size: int, surfaces: Sequence[Image.Image]) -> Floats:
    """A random picture of ``size`` x ``size`` x 3 in [0, 1]."""
    kind = rng.integers(len(PROCEDURAL) + 2)
    if kind >= len(PROCEDURAL):
        return photograph(rng, size, surfaces)
    return PROCEDURAL[kind](rng, size)
