"""The exact shape, chunks and files of every array of an index. FORMAT.md says the same in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, isqrt, prod
from typing import NamedTuple

import numpy as np

from .run_spec import EXEMPLARS, READOUTS, TOKEN_TOP, LayerSpec, RunSpec

ARRAYS = "activations.zarr"  # their folder
CHECKSUM_BYTES = 4  # crc32c after every chunk
INNER_CHUNK_BYTES = 1_000_000  # one read of a neuron over one part: small, and few of them
PART_IMAGES = 256
PART_BYTES = 1_000_000_000

MAP_ABOUT = {
    "uint8": "value = min + code / 255 * (max - min)",
    "float16": "value on the patch",
}


class VectorArrays(NamedTuple):
    """The arrays of a kind of layers with value vectors: as stored, folded, and the folded biases."""

    vectors: str
    folded: str
    biases: str


MLP_ARRAYS = VectorArrays("value_vectors", "folded_vectors", "folded_biases")
ATTENTION_ARRAYS = VectorArrays("attention_vectors", "folded_attention_vectors", "folded_attention_biases")


@dataclass(frozen=True)
class ArraySpec:
    """One Zarr array. `chunks` is what is read at once, `shards` one file (None: a chunk is a file)."""

    path: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    about: str
    folder: str = ARRAYS  # in which it lies

    @property
    def by_part(self) -> bool:
        """Whether the array is written part by part (its first axis is `image`)."""
        return self.axes[0] == "image"

    @property
    def file_shape(self) -> tuple[int, ...]:
        return self.shards or self.chunks

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one encoded chunk: chunks are padded to full size at the array's edge."""
        return prod(self.chunks) * np.dtype(self.dtype).itemsize + CHECKSUM_BYTES

    @cached_property
    def chunks_per_file(self) -> int:
        return prod(s // c for s, c in zip(self.file_shape, self.chunks, strict=True))

    @property
    def file_bytes(self) -> int:
        index = 16 * self.chunks_per_file + CHECKSUM_BYTES if self.shards else 0
        return self.chunks_per_file * self.chunk_bytes + index

    @property
    def files(self) -> int:
        return prod(-(-n // f) for n, f in zip(self.shape, self.file_shape, strict=True))

    @property
    def total_bytes(self) -> int:
        return self.files * self.file_bytes

    @property
    def file_names(self) -> list[str]:
        """Paths of all its files inside the index: they split its first axis alone."""
        return [self.part_file(i) for i in range(self.files)]

    def part_file(self, part: int) -> str:
        """Path of a file by its place on the first axis: of a part's, where the array is written by parts."""
        return self.file(part, *[0] * (len(self.shape) - 1))

    def file(self, *position: int) -> str:
        """Path of one chunk or shard file inside the index (Zarr's default key encoding)."""
        return "/".join([self.folder, self.path, "c", *map(str, position)])


def units_per_chunk(units: int, unit_bytes: int, most: int = INNER_CHUNK_BYTES) -> int:
    """The largest divisor of `units` whose chunk stays within `most` bytes (at least 1)."""
    small = [n for n in range(1, isqrt(units) + 1) if units % n == 0]
    return max(n for d in small for n in (d, units // d) if n == 1 or n * unit_bytes <= most)


def arrays(spec: RunSpec) -> dict[str, ArraySpec]:
    """Every array of the index that `spec` describes, by path."""
    return {a.path: a for a in (*_root_arrays(spec), *_layer_arrays(spec))}


def _root_arrays(spec: RunSpec) -> Iterator[ArraySpec]:
    n, part = spec.images, spec.part_images
    _, height, width = spec.preprocessing["input_size"]

    def rows(path: str, axes: str, shape: tuple[int, ...], dtype: str, about: str) -> ArraySpec:
        return ArraySpec(path, ("image", *axes.split()), (n, *shape), dtype, (part, *shape), None, about)

    def whole(path: str, axes: str, shape: tuple[int, ...], about: str) -> ArraySpec:
        chunks = (1, *shape[1:]) if len(shape) == 3 else shape
        return ArraySpec(path, tuple(axes.split()), shape, "float32", chunks, None, about)

    yield rows("valid", "", (), "bool", "false where the image could not be read; its rows hold NaN or 0")
    if spec.inputs:
        yield ArraySpec(
            "inputs",
            ("image", "y", "x", "channel"),
            (n, height, width, 3),
            "uint8",
            (1, height, width, 3),
            (part, height, width, 3),
            "the pixels the model saw, before normalisation",
        )
    yield rows("features", "feature", (spec.features,), "float16", "what the head read")
    yield rows("sigma", "", (), "float32", "standard deviation of the final norm on what the head reads")
    if spec.classes:
        yield rows("logits", "class", (spec.classes,), "float32", "the model's answer")
        yield whole("head", "class feature", (spec.classes, spec.features), "the classifier's weight E")
    for names, layers, linear in (
        (MLP_ARRAYS, spec.neuron_layers, "fc2"),
        (ATTENTION_ARRAYS, spec.attention_layers, "attn.proj"),
    ):
        if not layers:
            continue
        shape = len(layers), layers[0].units, spec.features
        yield whole(names.vectors, "layer neuron feature", shape, f"rows of {linear}'s W_out as stored")
        if spec.readout in READOUTS:
            yield whole(
                names.folded,
                "layer neuron feature",
                shape,
                "value vectors with all gains folded in: folded score = head @ vector",
            )
            yield whole(names.biases, "layer feature", (shape[0], shape[2]), f"{linear}'s bias, folded likewise")


def _layer_arrays(spec: RunSpec) -> Iterator[ArraySpec]:
    for layer in spec.layers:
        yield from _one_layer(spec, layer)


def _one_layer(spec: RunSpec, layer: LayerSpec) -> Iterator[ArraySpec]:
    n, part, name, units = spec.images, spec.part_images, layer.name, layer.units

    def rows(leaf: str, dtype: str, about: str) -> ArraySpec:
        return ArraySpec(f"{name}/{leaf}", ("image", "neuron"), (n, units), dtype, (part, units), None, about)

    yield from _map_arrays(spec, name, units)
    yield rows("max", "float32", "largest patch")
    yield rows("min", "float32", "smallest patch")
    yield rows("mean", "float32", "mean over the patches")
    yield rows("argmax", "uint16", "the patch of the largest value; the first where several are")
    if layer.both_signs:
        yield rows("argmin", "uint16", "the patch of the smallest value; the first where several are")
    yield rows("post_mean", "float32", "mean over the patches after the nonlinearity")
    if spec.cls:
        yield rows("cls", "float32", "value on the CLS token")
    if layer.has_value_vectors and spec.readout in READOUTS:
        yield rows("read", "float32", "activation as the head reads it: contribution = folded score * read")
        yield ArraySpec(
            f"{name}/scale",
            ("image",),
            (n,),
            "float32",
            (part,),
            None,
            "what a constant activation of 1 reads: share of the last bias = folded bias score * scale",
        )
    yield ArraySpec(
        f"{name}/token_top",
        ("image", "token", "top"),
        (n, spec.tokens, TOKEN_TOP),
        "uint16",
        (part, spec.tokens, TOKEN_TOP),
        None,
        "the largest neurons of every token, in descending order",
    )
    chunk = units_per_chunk(units, 4 * n)
    yield ArraySpec(
        f"{name}/max_by_neuron",
        ("neuron", "image"),
        (units, n),
        "float32",
        (chunk, n),
        (units, n),
        "max, the other way round",
    )


def _map_arrays(spec: RunSpec, name: str, units: int) -> Iterator[ArraySpec]:
    """The maps as `--maps` keeps them, if at all."""
    n, part, patches = spec.images, spec.part_images, spec.patches
    if spec.maps in ("uint8", "float16"):
        chunk = units_per_chunk(units, part * patches * np.dtype(spec.maps).itemsize)
        yield ArraySpec(
            f"{name}/map",
            ("image", "neuron", "patch"),
            (n, units, patches),
            spec.maps,
            (part, chunk, patches),
            (part, units, patches),
            MAP_ABOUT[spec.maps],
        )
    if spec.maps == "exemplars":
        ranks = min(EXEMPLARS, n)
        chunk = units_per_chunk(units, ranks * patches)
        yield ArraySpec(
            f"{name}/exemplar_map",
            ("neuron", "rank", "patch"),
            (units, ranks, patches),
            "uint8",
            (chunk, ranks, patches),
            (units, ranks, patches),
            "maps of the top exemplars, coded like map",
        )


def part_files(spec: RunSpec, part: int) -> list[str]:
    """Paths, inside the index, of a part's files: its chunk or shard of every array that is written by parts."""
    return [a.part_file(part) for a in arrays(spec).values() if a.by_part]


def part_bytes(spec: RunSpec) -> int:
    """Bytes of one part's files."""
    return sum(a.file_bytes for a in arrays(spec).values() if a.by_part)


def fitting_part_images(spec: RunSpec) -> int:
    """Images of a part: at most PART_IMAGES, about PART_BYTES, whole batches; parts alike, as files are padded."""
    most = max(1, min(PART_IMAGES, PART_BYTES // part_bytes_of_one_image(spec)))
    step = spec.batch_size if spec.batch_size <= most else 1
    parts = ceil(spec.images / (most - most % step))
    return min(step * ceil(spec.images / parts / step), spec.images)


def part_bytes_of_one_image(spec: RunSpec) -> int:
    return sum(prod(a.shape[1:]) * np.dtype(a.dtype).itemsize for a in arrays(spec).values() if a.by_part)
