"""Arrays that are written whole, once all parts stand; and the metadata of all arrays."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from ...schemas.array_specs import ARRAYS, ATTENTION_ARRAYS, MLP_ARRAYS, ArraySpec, arrays
from ...schemas.facts import Files, file_facts
from ...schemas.layout import Layout
from ...schemas.run_spec import FORMAT_VERSION, LayerSpec, RunSpec
from ...schemas.storage.atomic_files import write_file
from ...schemas.storage.zarr_group import open_group
from ..run.part_writer import encode_file
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
            file = spec.file(i, *[0] * (array.ndim - 1))
            content = encode_file(array[i : i + 1] if spec.files > 1 else array, spec)
            written[file] = write_file(layout.root / file, content)
    return written


def write_by_neuron(finish: Finish, layer: LayerSpec) -> Files:
    """max_by_neuron: max, the other way round."""
    by_neuron = np.empty((layer.units, finish.spec.images), np.float32)
    for first, values in finish.reader.parts(f"{layer.name}/max"):
        sorting.transpose(values, by_neuron[:, first : first + len(values)])
    return _write_whole(finish, f"{layer.name}/max_by_neuron", by_neuron)


def write_exemplar_maps(finish: Finish, layer: LayerSpec) -> Files:
    """exemplar_map, from the candidates that all parts have left; only with `--maps exemplars`."""
    path = f"{layer.name}/exemplar_map"
    candidates = [finish.layout.candidates(part.index, layer.name) for part in finish.spec.parts]
    by_neuron = finish.reader.whole(f"{layer.name}/max_by_neuron")
    no_class = np.full(finish.spec.images, -1)
    top = rank_images(by_neuron, finish.valid, no_class, 0).sides["top"]
    codes = np.zeros(finish.arrays[path].shape, np.uint8)
    codes[:, : top.shape[1]] = gather(candidates, top, finish.spec.images)
    return _write_whole(finish, path, codes)


def _write_whole(finish: Finish, path: str, values: NDArray[Any]) -> Files:
    """Write an array that is one file."""
    spec = finish.arrays[path]
    file = spec.file(*[0] * len(spec.shape))
    return {file: write_file(finish.layout.root / file, encode_file(values, spec))}


def write_metadata(spec: RunSpec, layout: Layout) -> Files:
    """Every zarr.json, by zarr-python itself, with consolidated metadata at the root."""
    for leftover in layout.arrays.rglob("zarr.json"):
        leftover.unlink()
    root = open_group(layout.arrays, mode="a", zarr_format=3, attributes={"vitdex_format": FORMAT_VERSION})
    for array in arrays(spec).values():
        declare(root, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is widely read, though not yet in the specification
        zarr.consolidate_metadata(layout.arrays, zarr_format=3)
    files = sorted(layout.arrays.rglob("zarr.json"))
    return {f"{ARRAYS}/{path.relative_to(layout.arrays).as_posix()}": file_facts(path) for path in files}


def declare(root: zarr.Group, array: ArraySpec) -> None:
    """Write an array's metadata; its files are ours to write."""
    root.create_array(
        array.path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunks,
        shards=array.shards,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=float("nan") if array.dtype.startswith("float") else 0,
        dimension_names=array.axes,
        attributes={"about": array.about, "vitdex_format": FORMAT_VERSION},
    )
