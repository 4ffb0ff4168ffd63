"""A map over an image, its colour scale and the legend. NumPy and Pillow; light.

scale = Scale(-4.2, 2.9)                       # a neuron's own q001 and q999
Image.fromarray(overlay(pixels, values, scale))
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas
from .colours import Scale
from .text import number

# ColorBrewer's RdBu turned round, without its two darkest: blue, nothing, red. Safe for colour-blind readers.
_COLOURS = np.array(
    [
        [33, 102, 172],
        [67, 147, 195],
        [146, 197, 222],
        [209, 229, 240],
        [247, 247, 247],
        [253, 219, 199],
        [244, 165, 130],
        [214, 96, 77],
        [178, 24, 43],
    ]
)
_OPACITY = 0.75  # where the colour is strongest: edges of the image stay visible
_FADE = 2 / 3  # below this strength the colour fades into the image
_PALE = 0.7  # contrast left to the grey image
_PAPER = 235  # the grey behind a legend


def overlay(image: NDArray[np.uint8], values: NDArray[np.float32], scale: Scale) -> NDArray[np.uint8]:
    """Values [y, x] in colour over an image [y, x, channel] in pale grey: uint8. The scale's centre shows it alone."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return _blend(255 - (255 - grey) * _PALE, scale(values))


def _blend(grey: NDArray[np.floating], position: NDArray[np.float32]) -> NDArray[np.uint8]:
    stops = np.linspace(-1, 1, len(_COLOURS))
    colour = np.stack([np.interp(position, stops, _COLOURS[:, channel]) for channel in range(3)], -1)
    opacity = _OPACITY * (np.abs(position) / _FADE).clip(0, 1)[..., None]
    return (grey[..., None] * (1 - opacity) + colour * opacity).round().astype(np.uint8)


def draw_legend(canvas: Canvas, x: int, y: int, width: int, scale: Scale, size: int) -> None:
    """Draw a colour bar with the values at its ends and at zero; the text is `size` high, the whole 3 times that."""
    if scale.low == scale.high:
        text = f"exactly {number(scale.low)} everywhere"
        canvas.text(x + width / 2, y, text, size, "mt")
        return
    left, right = (-1 if scale.low < scale.centre else 0), (1 if scale.high > scale.centre else 0)
    height = size
    position = np.linspace(left, right, width, dtype=np.float32)[None].repeat(height, 0)
    canvas.image(_blend(np.full(position.shape, float(_PAPER)), position), x, y)
    canvas.frame(x, y, width, height)
    ends = {0: 0.0, left: scale.low, right: scale.high}
    for place, value in ends.items():
        at = x + (place - left) / (right - left) * (width - 1)
        anchor = {left: "lt", right: "rt"}.get(place, "mt")
        canvas.line(at, y + height, y + height + size // 3)
        canvas.text(at, y + height + size // 2, number(value), size, anchor)
