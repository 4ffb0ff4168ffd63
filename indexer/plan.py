"""Plan a run: everything is loaded, matched, sized and checked before anything is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict, Unpack, get_args

import torch

from ..data.images.elsewhere import SourceElsewhere
from ..data.images.entries import Source, left_out
from ..data.images.sources import list_hash, open_source
from ..data.labels.class_names import ClassNames, name_rows
from ..data.labels.image_labels import label_rows, matched_text, without_class
from ..data.labels.label_files import image_labels, read_labels
from ..data.models.anatomy import Anatomy
from ..data.models.device import choose_device
from ..data.models.head import Head, find_head
from ..data.models.load import Loaded, load_model
from ..data.models.probe import dissect
from ..data.packaged import IMAGES, MODEL_NAME
from ..schemas.array_specs import arrays, fitting_part_images
from ..schemas.errors import BadIndex, BadRequest, ModelError
from ..schemas.run_bounds import beyond_bounds
from ..schemas.run_spec import LayerSpec, Linear, Maps, Precision, RunSpec
from ..schemas.sizes import bytes_text
from .memory import fitting_decoders
from .memory_needed import device_bytes, lacking, lacking_on_device, needed_bytes
from .place import tables_bytes
from .run.prepared import forward_of, prepared_bytes
from .run.read_ahead import held_bytes
from .run.reduce import without_kernels
from .statistics.threshold_counts import counted_patches

VERSIONS = ("torch", "numba", "timm", "torchvision", "pillow", "numpy")


class Settings(TypedDict, total=False):
    """Fields of a Request that have a default, but for those of tests."""

    weights: str | Path | None
    head: str | Path | None
    class_names: str | Path | None
    labels: str | Path | None
    maps: Maps
    layers: tuple[Linear, ...]
    device: str | None
    precision: Precision
    img_size: tuple[int, int] | None
    batch_size: int
    workers: int | None
    limit: int | None
    inputs: bool
    overwrite: bool


@dataclass(frozen=True)
class Request:
    """What a user asks for. Raises BadRequest for a setting that there is not."""

    out: Path | str  # a folder, or an address
    model: str
    images: str
    weights: str | Path | None = None
    head: str | Path | None = None
    class_names: str | Path | None = None
    labels: str | Path | None = None
    maps: Maps = "uint8"
    layers: tuple[Linear, ...] = ("fc1",)
    device: str | None = None
    precision: Precision = "float32"
    img_size: tuple[int, int] | None = None
    batch_size: int = 32
    workers: int | None = None
    limit: int | None = None
    inputs: bool = True
    overwrite: bool = False
    part_images: int | None = None  # for tests: smaller parts than would fit

    def __post_init__(self) -> None:
        _one_of("maps", self.maps, get_args(Maps))
        _one_of("precision", self.precision, get_args(Precision))
        for layer in self.layers:
            _one_of("layers", layer, get_args(Linear))
        if not self.layers:
            raise BadRequest("no layers are given", f"Some of {', '.join(get_args(Linear))}.")
        _at_least(1, batch_size=self.batch_size, limit=self.limit, part_images=self.part_images)
        _at_least(0, workers=self.workers)
        if self.img_size is not None:
            height, width = self.img_size
            _at_least(1, height=height, width=width)


@dataclass(frozen=True)
class Announced:
    """What is told of a run before it begins."""

    spec: RunSpec
    labelled: str  # how many images have a class
    notes: tuple[str, ...]  # what a user should know before it starts
    warnings: tuple[str, ...]  # what is likely to be a mistake
    index_bytes: int
    memory_bytes: int
    device_bytes: int  # of a CUDA device's memory; 0 on others


@dataclass(frozen=True)
class Plan:
    """A run of which everything is settled."""

    spec: RunSpec
    source: Source
    anatomy: Anatomy
    head: Head
    names: ClassNames | None
    label_rows: dict[str, int]  # the class of every label that is one
    labelled: str  # how many images have a class
    notes: tuple[str, ...]  # what a user should know before it starts
    warnings: tuple[str, ...]  # what is likely to be a mistake
    decoders: int  # processes that decode images

    @property
    def named_classes(self) -> int:
        return len(self.names.names) if self.names else 0

    @property
    def index_bytes(self) -> int:
        return sum(a.total_bytes for a in arrays(self.spec).values()) + tables_bytes(self.spec, self.named_classes)

    @property
    def memory_bytes(self) -> int:
        """Of a run at its peak, libraries, model and decoders included."""
        weights = prepared_bytes(self.anatomy.model, self.spec)
        ahead = 0
        if isinstance(self.source, SourceElsewhere):
            ahead = held_bytes(self.source, self.spec.images, self.spec.batch_size, self.decoders)
        return needed_bytes(self.spec, self.named_classes, self.decoders) + weights + ahead

    @property
    def device_bytes(self) -> int:
        """Of a CUDA device's memory at the peak of a run; 0 on others."""
        return device_bytes(self.spec, sum(p.nbytes for p in self.anatomy.model.parameters()))

    def announced(self) -> Announced:
        """What is told of it; a machine or a device with too little memory among the warnings."""
        memory, of_device = self.memory_bytes, self.device_bytes
        short = [line for line in (lacking(memory), lacking_on_device(of_device, self.spec.device)) if line]
        warnings = (*self.warnings, *short)
        return Announced(self.spec, self.labelled, self.notes, warnings, self.index_bytes, memory, of_device)


def sample_request(out: Path, part_images: int | None = None, **settings: Unpack[Settings]) -> Request:
    """A request for the packaged images and model."""
    return Request(out, MODEL_NAME, str(IMAGES), part_images=part_images, **settings)


def make_plan(request: Request) -> Plan:
    """Load the model, list the images, and settle every choice of the run."""
    device = choose_device(request.device)
    source = _labelled(open_source(request.images, but=request.out), request.labels)
    count = min(len(source.entries), request.limit or len(source.entries))
    loaded = load_model(request.model, request.weights, request.img_size)
    _, height, width = loaded.preprocessing["input_size"]
    anatomy = dissect(loaded.model, (height, width))
    head = find_head(anatomy, request.head)
    names, of_labels, notes = _classes(request, source, head, loaded)
    kernels_fault = without_kernels(device)
    if kernels_fault:
        notes.append(f"torch's own operations reduce the layers, slower than kernels: {kernels_fault}")
    forward, plain_fault = forward_of(device, request.precision, kernels_fault is None)
    if plain_fault:
        notes.append(f"weights are laid out anew for every batch, slower than once: {plain_fault}")
    spec = RunSpec(
        model=loaded.name,
        model_args=loaded.model_args,
        weights_sha256=loaded.sha256,
        head=head.origin,
        head_sha256=head.sha256,
        class_names=names.origin if names else "none",
        preprocessing=loaded.preprocessing,
        activation=type(anatomy.layers[0].act).__name__,
        layers=layer_specs(anatomy, request.layers),
        grid=anatomy.grid,
        prefix=anatomy.prefix,
        cls=anatomy.cls,
        features=anatomy.features,
        classes=head.rows,
        readout=anatomy.readout.kind,
        precision=request.precision,
        tf32=torch.backends.cuda.matmul.allow_tf32,
        compiled=kernels_fault is None,
        device=device,
        maps=request.maps,
        inputs=request.inputs,
        source=source.name,
        images=count,
        images_sha256=list_hash(source.entries[:count]),
        batch_size=min(request.batch_size, count),
        part_images=count,
        counted_patches=counted_patches(count, anatomy.grid[0] * anatomy.grid[1]),
        versions={name: version(name) for name in VERSIONS},
        forward=forward,
    )
    spec = replace(spec, part_images=min(request.part_images or fitting_part_images(spec), count))
    if fault := beyond_bounds(spec):
        raise BadRequest(f"no index can hold this run: {fault}")
    anatomy.model.to(device)
    asked = default_workers(device) if request.workers is None else request.workers
    decoders = fitting_decoders(asked, spec.batch_size * 3 * height * width)
    if decoders < asked:
        notes.append(f"{decoders} processes decode, not {asked}: shared memory (/dev/shm) has no room for more")
    used = [entry.label for entry in source.entries[:count]]
    return Plan(
        spec,
        source,
        anatomy,
        head,
        names,
        of_labels,
        labelled=matched_text(used, of_labels),
        notes=(*loaded.notes, *notes),
        warnings=(*left_out(source.skipped), *(without_class(used, of_labels) if names else ())),
        decoders=decoders,
    )


def _classes(
    request: Request, source: Source, head: Head, loaded: Loaded
) -> tuple[ClassNames | None, dict[str, int], list[str]]:
    """Names of the head's rows, the row of every label that is a class, and what a user should know of both."""
    own = head.names or (loaded.class_names if head.origin == "model" else None)
    labels = sorted({entry.label for entry in source.entries if entry.label is not None})
    names, notes = name_rows(head.rows, labels, own, request.class_names, source.classes)
    return names, label_rows(labels, names), notes


def _labelled(source: Source, labels: str | Path | None) -> Source:
    """The source with the labels that a file gives its images, in place of its folders."""
    if labels is None:
        return source
    file = Path(labels)
    given = image_labels(read_labels(file), [entry.path for entry in source.entries], file)
    return source.relabelled(given)


def default_workers(device: str = "cpu", cores: int | None = None) -> int:
    """Half the cores, at most eight, the others run the model; where a GPU does, three quarters, at most 32.

    A GPU waits for its images: 15 processes decode a fifth of what an H100 could read in bfloat16.
    """
    cores = cores or os.cpu_count() or 2
    return max(1, min(32, 3 * cores // 4) if device.startswith("cuda") else min(8, cores // 2))


def layer_specs(anatomy: Anatomy, kinds: tuple[Linear, ...]) -> tuple[LayerSpec, ...]:
    """The layers that are indexed, in order of blocks. Raises ModelError where attention is wanted and unreadable."""
    if "attn" in kinds and not anatomy.attention:
        fact = f"the units of this model's attention cannot be read: {anatomy.no_attention}"
        raise ModelError(fact, "Leave --layer attn out.")
    out = []
    for layer in anatomy.every_layer:
        if ("attn" if layer.kind == "attention" else "fc1") in kinds:
            out.append(LayerSpec(layer.name, layer.block, layer.kind, layer.units))
        if layer.kind != "attention" and "fc2" in kinds:
            out.append(LayerSpec(layer.residual_name, layer.block, "residual", layer.out.out_features))
    return tuple(out)


def check_space(plan: Plan, out: Path, already: int) -> None:
    """Raise BadIndex where the index would not fit on the disk."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    needed = plan.index_bytes - already
    if needed > free:
        choices: tuple[Maps, ...] = ("uint8", "exemplars", "none")
        smaller = {m: replace(plan, spec=replace(plan.spec, maps=m)).index_bytes for m in choices}
        fitting = [f"--maps {m} ({bytes_text(b)})" for m, b in smaller.items() if b < min(free, plan.index_bytes)]
        remedy = f"Choose {' or '.join(fitting)}." if fitting else "Choose another disk or fewer images (--limit)."
        raise BadIndex(f"the index needs {bytes_text(needed)} and {bytes_text(free)} are free", remedy)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadRequest(f"'{value}' is no choice for {what}", f"One of {', '.join(known)}.")


def _at_least(least: int, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < least:
            raise BadRequest(f"{name} is {number}", f"At least {least}.")
