"""Where the bins of the thresholds lie: settled before the run by images from all over the set.

A first batch may be anything: blank pages, one class, duplicates. Images at even distances stand for
a set in any order.
"""

from __future__ import annotations

import numpy as np
import torch

from ...data.images.entries import Source
from ...schemas.run_spec import RunSpec
from ..statistics.threshold_counts import Bins
from .capture import Capture
from .feed import Images

LOOKED_AT = 16  # thousands of values a neuron; more images cost time and move the centre by less than its spread


def calibrate(capture: Capture, source: Source, spec: RunSpec) -> Bins:
    """Where the bins of all layers might lie: around what the layers do on images at even distances that can be read.

    Where none can, around nothing.
    """
    images, found = Images(source, spec.preprocessing), []
    places = ((np.arange(LOOKED_AT) + 0.5) * spec.images / LOOKED_AT).astype(int)
    for place in dict.fromkeys([*places.tolist(), *range(spec.images)]):  # the others where these are broken
        pixels = images[place][1]
        if pixels is not None:
            found.append(pixels)
        if len(found) == min(LOOKED_AT, spec.images):
            break
    if not found:
        return {layer.name: torch.zeros(2, layer.units) for layer in spec.layers}
    return capture.calibrate(torch.from_numpy(np.stack(found)))
