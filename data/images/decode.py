"""The bytes of an image file to upright RGB pixels, or the reason why not."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...schemas.errors import UnreadableImage

MAX_PIXELS = 178_956_970  # Pillow's own limit, but whatever the program around us has set there
# Kinds that Pillow decodes by itself and tells by their first bytes; JPEG includes MPO, and not every build has AVIF.
# Not ICO, which decodes before its size can be checked, nor TGA, which has no mark of its own.
Image.init()
KINDS = tuple(
    kind for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if kind in Image.OPEN
)
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels, as in a decompression bomb"
WHITE_IS_ZERO, BITS, PHOTOMETRIC = 0, 258, 262  # of TIFF

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints Pillow's complaints on stderr


def decode(blob: bytes) -> Image.Image:
    """The first frame, upright by its EXIF orientation, in mode RGB with values 0 to 255.

    Plain RGB files give what `Image.open(...).convert("RGB")` gives. Whatever is transparent is composited on
    white: alpha, premultiplied or not, transparent palette entries and colours, what a GIF's first frame leaves out.
    Integer greys of more than 8 bits are scaled so that 65535 (4095 in a 12-bit TIFF) is white, float greys so that
    1.0 is; values beyond white, negative or not finite have no agreed meaning and are an error. Colours of 16 bits
    keep their upper 8, as in Pillow. ICC profiles are left alone, as torchvision and timm do.

    Raises UnreadableImage, with a reason of one line, for everything else, and neither warns nor raises more. (The C
    library of compressed TIFFs writes to stderr about broken ones, which nobody can stop from here.)
    """
    if not blob:
        raise UnreadableImage("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(blob)
        except UnreadableImage:
            raise
        except Image.DecompressionBombError:
            raise UnreadableImage(TOO_LARGE) from None
        except UnidentifiedImageError:
            raise UnreadableImage(_unidentified(blob)) from None
        except Exception as error:  # on broken files Pillow's plugins raise nearly anything
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnreadableImage(f"broken {_kind(blob) or 'image'}: {detail}") from None


def _decode(blob: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(blob), formats=KINDS)
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(TOO_LARGE)
    painted = image.tile[0][1] if image.format == "GIF" else None
    image.load()
    # Broken EXIF data costs the rotation, not the image; broken pixels have shown by now.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(image)
    if image.format == "PNG":
        _fit_key(image, depth=blob[24])
    pixels = _on_white(image) if image.has_transparency_data else image.convert("RGB")
    if painted and painted != (0, 0, *image.size):
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(pixels.crop(painted), painted)
        return canvas
    return pixels


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Modes of more than 8 bits, which Pillow would clip at 255."""
    tags = getattr(image, "tag_v2", {})
    white = 1 if image.mode == "F" else 4095 if tags.get(BITS) == (12,) else 65535
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (0 <= low <= high <= white):  # also where one is NaN
        raise UnreadableImage(f"grey values from {low:g} to {high:g}, of which only 0 to {white} are defined")
    scaled = np.rint(values.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = 255 - scaled
    key = image.info.get("transparency")
    if isinstance(key, int):
        scaled[values == key] = 255
    return Image.fromarray(scaled).convert("RGB")


def _fit_key(image: Image.Image, depth: int) -> None:
    """Bring a PNG's transparent colour from the file's bits to the 8 that Pillow has brought the pixels to."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * (255 // ((1 << depth) - 1))
    elif image.mode == "RGB" and depth == 16 and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _kind(blob: bytes) -> str | None:
    """What the first bytes say."""
    for kind in KINDS:
        accept = Image.OPEN[kind][1]
        if accept and accept(blob[:16]) is True:
            return kind
    return None


def _unidentified(blob: bytes) -> str:
    if not blob.strip(b"\0"):
        return "the file holds only zeros"
    kind = _kind(blob)
    if kind:
        return f"broken {kind}: its header is damaged, cut off or of an unknown variant"
    return f"not an image of a kind that is read ({', '.join(KINDS)})"
