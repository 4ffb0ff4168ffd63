"""Where the bins of the thresholds lie: settled before the run by images from all over the set.

A first batch may be anything: blank pages, one class, duplicates. Images at even distances stand for
a set in any order.
"""

from __future__ import annotations

import numpy as np
import torch

from ...data.images.entries import Source
from ...schemas.run_spec import RunSpec
from .capture import Capture
from .feed import Images

LOOKED_AT = 16  # thousands of values a neuron; more images cost time and move the centre by less than its spread


def calibrate(capture: Capture, source: Source, spec: RunSpec) -> None:
    """Lay the bins of all layers. Where one batch holds all images, or none can be read, the first batch lays them."""
    if spec.images <= spec.batch_size:
        return
    images = Images(source, spec.preprocessing)
    places = ((np.arange(LOOKED_AT) + 0.5) * spec.images / LOOKED_AT).astype(int)
    pixels = [p for _, p, _ in (images[i] for i in np.unique(places).tolist()) if p is not None]
    if pixels:
        capture.calibrate(torch.from_numpy(np.stack(pixels)))
