"""What a run takes of the memory at its peak, told before it begins: this process and those that decode.

Two stages hold the most: images through the model, and the tables. Each is the libraries and the model, as this process
holds them by now, and what the stage adds, most of which the sizes of its arrays say. The numbers here were fitted to
runs on CPUs; benchmarks/memory.py compares the sum with what the system counts (benchmarks/NOTES.md). What a CUDA
device holds is told beside it; tests compare a batch's share with a trace of its tensors.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import psutil
import torch

from ..data.models.device import DTYPES
from ..schemas.array_specs import part_bytes, part_bytes_of_one_image
from ..schemas.database import TABLES_MEMORY
from ..schemas.run_spec import EXEMPLARS, RunSpec
from ..schemas.sizes import bytes_text
from .memory import BATCHES_HELD
from .place import tables_bytes
from .statistics.bins import BINS
from .statistics.threshold_counts import tail_length

FLOAT = 4  # bytes
VALUES_HELD = 7  # layers' values [image, token, neuron] that a forward pass holds at once, with what malloc keeps
SUMMARIES = 7  # numbers of every neuron and image of a batch, beside its map
BY_CLASS = 8  # numbers of every neuron and class that are held while the tables of classes are made
KERNELS = 100_000_000  # compiled functions and libraries that a run loads
TABLES = 200_000_000  # what the tables load: DuckDB, pandas, pages of mapped files
STREAMS_HELD = 4  # of the residual stream, in float32, that a forward pass on CUDA holds beside a layer's values
CUDA = 500_000_000  # what the device holds for the process: kernels, libraries and their scratch
DECODER = 80_000_000  # what a process that decodes holds for itself, beside its batches


def needed_bytes(spec: RunSpec, classes: int, decoders: int, own: int | None = None) -> int:
    """Bytes of memory at the peak of a run.

    Args:
        classes: those that have a name.
        decoders: processes that decode images.
        own: bytes that this process holds, its libraries and the model among them; by default as it is now.
    """
    own = psutil.Process().memory_info().rss if own is None else own
    counts = spec.neurons * BINS * FLOAT
    return own + counts + max(_run(spec, decoders), _tables(spec, classes))


def lacking(needed: int) -> str:
    """A line where the machine has less memory than a run needs; else ''."""
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    remedy = "the system may end the run. A smaller --batch-size and fewer --workers need less."
    return _short(needed, free, "memory", remedy)


def _run(spec: RunSpec, decoders: int) -> int:
    """What images through the model add."""
    batch, widest = spec.batch_size, max(layer.units for layer in spec.layers)
    pixels = batch * prod(spec.preprocessing["input_size"])
    values = VALUES_HELD * FLOAT * batch * spec.tokens * widest if spec.device == "cpu" else 0
    neurons = batch * spec.neurons * SUMMARIES * FLOAT
    code = {"uint8": 1, "exemplars": 1, "float16": 2, "none": 0}[spec.maps]
    codes = code * batch * spec.neurons * spec.patches
    running = _running_maps(spec)
    decoding = decoders * (DECODER + BATCHES_HELD * pixels)
    parts = part_bytes(spec) * (2 if spec.device.startswith("cuda") else 1)  # one is written, one is filled (lanes.py)
    return KERNELS + parts + values + neurons + codes + running + (1 + FLOAT) * pixels + decoding


def _running_maps(spec: RunSpec) -> int:
    """Maps of the top exemplars so far: on the device."""
    return spec.neurons * min(EXEMPLARS, spec.images) * spec.patches if spec.maps == "exemplars" else 0


def device_bytes(spec: RunSpec, weights: int) -> int:
    """Bytes of a CUDA device's memory at the peak of a run; 0 on other devices.

    A batch is held as it is recorded (replay.py) and once more as it is launched; its arrays, while they are copied to
    the host, three times: of two batches, and as they are laid out for the file.

    Args:
        weights: bytes of the model's parameters.
    """
    if not spec.device.startswith("cuda"):
        return 0
    rounded = 0 if spec.precision == "float32" else weights // 2
    return CUDA + weights + rounded + _counts(spec) + _running_maps(spec) + 2 * batch_bytes(spec) + 3 * _arrays(spec)


def _counts(spec: RunSpec) -> int:
    """What is counted of all neurons, and the largest values of a small set."""
    return spec.neurons * (BINS + tail_length(spec.images, spec.patches)) * FLOAT


def batch_bytes(spec: RunSpec) -> int:
    """Bytes that one batch holds on a CUDA device at its peak: a layer's values before and after the nonlinearity, the
    stream, pixels as bytes and in float32, and what all layers leave."""
    images, widest = min(spec.batch_size, spec.part_images), max(layer.units for layer in spec.layers)
    values = 2 * DTYPES[spec.precision].itemsize * images * spec.tokens * widest
    stream = STREAMS_HELD * FLOAT * images * spec.tokens * spec.features
    pixels = (1 + FLOAT) * images * prod(spec.preprocessing["input_size"])
    tail = 2 * FLOAT * images * spec.patches * widest if tail_length(spec.images, spec.patches) else 0
    return values + stream + pixels + tail + _arrays(spec)


def _arrays(spec: RunSpec) -> int:
    """What a batch leaves; with maps of exemplars also the maps of its images."""
    images = min(spec.batch_size, spec.part_images)
    maps = spec.neurons * spec.patches if spec.maps == "exemplars" else 0
    return images * (part_bytes_of_one_image(replace(spec, inputs=False)) + maps)


def lacking_on_device(needed: int, device: str) -> str:
    """A line where a CUDA device has less free memory than a run needs; else ''."""
    if not needed:
        return ""
    free = torch.cuda.mem_get_info(device)[0]
    return _short(
        needed, free, f"{device}'s memory", "the run may end for lack of it. A smaller --batch-size needs less."
    )


def _short(needed: int, free: int, memory: str, remedy: str) -> str:
    if needed <= free:
        return ""
    return f"about {bytes_text(needed)} of {memory} are needed and {bytes_text(free)} are free: {remedy}"


def _tables(spec: RunSpec, classes: int) -> int:
    """What the tables add: DuckDB's share, a layer's largest patches of all images, numbers by class."""
    by_neuron = max(layer.units for layer in spec.layers) * spec.images * FLOAT
    by_class = BY_CLASS * spec.neurons * max(classes, spec.classes) * FLOAT
    return TABLES + min(TABLES_MEMORY, tables_bytes(spec, classes)) + by_neuron + by_class
