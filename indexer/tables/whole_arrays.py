"""Arrays that are written whole, once all parts stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...schemas.array_specs import ATTENTION_ARRAYS, MLP_ARRAYS, arrays
from ...schemas.facts import Files
from ...schemas.layout import Layout
from ...schemas.run_spec import LayerSpec
from ...schemas.storage.atomic_files import write_file
from ...schemas.storage.chunk_files import encode_file
from ..statistics import sorting
from ..statistics.exemplar_maps import gather
from ..statistics.image_ranks import rank_images
from .filled_index import Finish

if TYPE_CHECKING:
    from ..plan import Plan


def write_weights(plan: Plan, layout: Layout) -> Files:
    """head, and of the MLPs and of attention value vectors, folded vectors and folded biases: one file a layer."""
    run, anatomy, specs = plan.spec, plan.anatomy, arrays(plan.spec)
    values: dict[str, torch.Tensor] = {}
    if plan.head.weight is not None:
        values["head"] = plan.head.weight
    units = {layer.name: layer for layer in anatomy.every_layer}
    for names, indexed in ((MLP_ARRAYS, run.neuron_layers), (ATTENTION_ARRAYS, run.attention_layers)):
        layers = [units[layer.name] for layer in indexed]
        if names.vectors in specs:
            values[names.vectors] = torch.stack([layer.value_vectors for layer in layers])
        if names.folded in specs:
            values[names.folded] = torch.stack([anatomy.fold(layer, layer.value_vectors) for layer in layers])
            values[names.biases] = torch.stack([anatomy.fold(layer, layer.bias) for layer in layers])
    written = {}
    for path, tensor in values.items():
        spec, array = specs[path], tensor.numpy()
        for i in range(spec.files):
            file = spec.part_file(i)
            content = encode_file(array[i : i + 1] if spec.files > 1 else array, spec)
            written[file] = write_file(layout.root / file, content)
    return written


def write_by_neuron(finish: Finish, layer: LayerSpec) -> Files:
    """max_by_neuron: max, the other way round."""
    by_neuron = np.empty((layer.units, finish.spec.images), np.float32)
    for first, values in finish.reader.parts(f"{layer.name}/max"):
        sorting.transpose(values, by_neuron[:, first : first + len(values)])
    return _write_whole(finish, f"{layer.name}/max_by_neuron", by_neuron)


def write_exemplar_maps(finish: Finish, layer: LayerSpec, candidates: Iterable[bytes]) -> Files:
    """exemplar_map, from the candidates that all parts have left; only with `--maps exemplars`."""
    path = f"{layer.name}/exemplar_map"
    by_neuron = finish.reader.whole(f"{layer.name}/max_by_neuron")
    no_class = np.full(finish.spec.images, -1)
    top = rank_images(by_neuron, finish.valid, no_class, 0).sides["top"]
    codes = np.zeros(finish.arrays[path].shape, np.uint8)
    codes[:, : top.shape[1]] = gather(candidates, top, finish.spec.images)
    return _write_whole(finish, path, codes)


def _write_whole(finish: Finish, path: str, values: NDArray[Any]) -> Files:
    """Write an array that is one file."""
    spec = finish.arrays[path]
    file = spec.part_file(0)
    return {file: write_file(finish.layout.root / file, encode_file(values, spec))}
