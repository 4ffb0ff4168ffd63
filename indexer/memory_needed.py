"""What a run takes of the memory at its peak, told before it begins: this process and those that decode.

Two stages hold the most: images through the model, and the tables. Each is the libraries and the model, as this process
holds them by now, and what the stage adds, most of which the sizes of its arrays say. The numbers here were fitted to
runs on CPUs; benchmarks/memory.py compares the sum with what the system counts (benchmarks/NOTES.md).
"""

from __future__ import annotations

from math import prod

import psutil

from ..schemas.array_specs import part_bytes
from ..schemas.database import TABLES_MEMORY
from ..schemas.run_spec import EXEMPLARS, RunSpec
from ..schemas.sizes import bytes_text
from .memory import BATCHES_HELD
from .place import tables_bytes
from .statistics.bins import BINS

FLOAT = 4  # bytes
VALUES_HELD = 7  # layers' values [image, token, neuron] that a forward pass holds at once, with what malloc keeps
SUMMARIES = 7  # numbers of every neuron and image of a batch, beside its map
BY_CLASS = 8  # numbers of every neuron and class that are held while the tables of classes are made
KERNELS = 100_000_000  # compiled functions and libraries that a run loads
TABLES = 200_000_000  # what the tables load: DuckDB, pandas, pages of mapped files
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
    if needed <= free:
        return ""
    fact = f"about {bytes_text(needed)} of memory are needed and {bytes_text(free)} are free"
    return f"{fact}: the system may end the run. A smaller --batch-size and fewer --workers need less."


def _run(spec: RunSpec, decoders: int) -> int:
    """What images through the model add."""
    batch, widest = spec.batch_size, max(layer.units for layer in spec.layers)
    pixels = batch * prod(spec.preprocessing["input_size"])
    values = VALUES_HELD * FLOAT * batch * spec.tokens * widest if spec.device == "cpu" else 0
    neurons = batch * spec.neurons * SUMMARIES * FLOAT
    code = {"uint8": 1, "exemplars": 1, "float16": 2, "none": 0}[spec.maps]
    codes = code * batch * spec.neurons * spec.patches
    running = spec.neurons * min(EXEMPLARS, spec.images) * spec.patches if spec.maps == "exemplars" else 0
    decoding = decoders * (DECODER + BATCHES_HELD * pixels)
    parts = part_bytes(spec) * (2 if spec.device.startswith("cuda") else 1)  # one is written, one is filled (lanes.py)
    return KERNELS + parts + values + neurons + codes + running + (1 + FLOAT) * pixels + decoding


def _tables(spec: RunSpec, classes: int) -> int:
    """What the tables add: DuckDB's share, a layer's largest patches of all images, numbers by class."""
    by_neuron = max(layer.units for layer in spec.layers) * spec.images * FLOAT
    by_class = BY_CLASS * spec.neurons * max(classes, spec.classes) * FLOAT
    return TABLES + min(TABLES_MEMORY, tables_bytes(spec, classes)) + by_neuron + by_class
