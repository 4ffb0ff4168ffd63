"""Bytes of an image file to upright RGB pixels, or the reason why not."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from ..schemas.errors import UnreadableImage

MAX_PIXELS = 178_956_970  # beyond this a small file may unpack to gigabytes
# Raster formats that Pillow decodes by itself; none that calls another program.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    AssertionError,
    MemoryError,
    NotImplementedError,
    ZeroDivisionError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def decode(blob: bytes) -> Image.Image:
    """The first frame of an image, upright by its EXIF orientation, as RGB.

    16-bit greys are scaled (value / 257), not clipped; transparency is laid on white, as a viewer would; colour
    profiles are left alone, as torchvision does. Raises UnreadableImage with the reason.
    """
    if not blob:
        raise UnreadableImage("empty file")
    if not any(blob[:4096]):
        raise UnreadableImage("zero-filled file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about odd files; what matters is raised
        try:
            known = [f for f in FORMATS if f in Image.OPEN or (Image.init() and f in Image.OPEN)]
            image = Image.open(io.BytesIO(blob), formats=known)
        except Image.DecompressionBombError:
            raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels") from None
        except _ERRORS:
            raise UnreadableImage("not an image") from None
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage(f"more than {MAX_PIXELS:,} pixels")
        try:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
        except UnreadableImage:
            raise
        except _ERRORS as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise UnreadableImage(f"damaged: {reason}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def _from_grey(image: Image.Image) -> Image.Image:
    """16-bit and 32-bit integers are read as 16-bit; floats as 0 to 1."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("values that are not finite")
    scaled = values * 255 if image.mode == "F" else values / 257
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).convert("RGB")
