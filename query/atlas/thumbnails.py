"""Pictures for pages: an image as the model saw it, small or whole, as JPEG; and many of them in one answer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..drawing.colours import Scale
from ..drawing.overlay import overlay
from ..drawing.upsample import smooth

SIDE = 112  # pixels of a thumbnail's longer side; smaller images keep their own size
QUALITY, WHOLE_QUALITY = 82, 92


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """An image [y, x, channel] as a small JPEG, of the same proportions."""
    return _jpeg(_small(pixels), QUALITY)


def overlaid(pixels: NDArray[np.uint8], values: NDArray[np.float32], scale: Scale) -> bytes:
    """The same with a map [rows, columns] over it in colour."""
    small = np.asarray(_small(pixels))
    return _jpeg(Image.fromarray(overlay(small, smooth(values, *small.shape[:2]), scale)), QUALITY)


def whole_picture(pixels: NDArray[np.uint8]) -> bytes:
    """An image [y, x, channel] as a JPEG of every pixel."""
    return _jpeg(Image.fromarray(pixels), WHOLE_QUALITY)


def pack(pictures: Sequence[bytes]) -> bytes:
    """Pictures as one file: how many, the length of each (uint32, little-endian), then one after the other.

    A page of fifty thumbnails is one request, and none is encoded anew where it is shown again.
    """
    lengths = struct.pack(f"<{len(pictures) + 1}I", len(pictures), *map(len, pictures))
    return b"".join([lengths, *pictures])


def _small(pixels: NDArray[np.uint8]) -> Image.Image:
    height, width = pixels.shape[:2]
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=1.0)  # by whole pixels first


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
