"""Plan a run: everything is loaded, matched, sized and checked before anything is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from ..data.images.sources import Source, list_hash, open_source
from ..data.labels.class_names import ClassNames
from ..data.models.anatomy import Anatomy
from ..data.models.device import choose_device
from ..data.models.head import Head, find_head
from ..data.models.load import LOCAL, Loaded, load_model
from ..data.models.probe import dissect
from ..data.packaged import IMAGES, MODEL
from ..schemas.array_specs import arrays, fitting_part_images, part_bytes
from ..schemas.errors import BadIndex, ModelError
from ..schemas.run_spec import EXEMPLARS, LayerSpec, Maps, Precision, RunSpec
from ..schemas.sizes import bytes_text
from .statistics.bins import BINS
from .statistics.threshold_counts import counted_patches

VERSIONS = ("torch", "numba", "timm", "torchvision", "pillow", "numpy")


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    out: Path
    model: str
    images: str
    weights: Path | None = None
    head: Path | None = None
    class_names: Path | None = None
    maps: Maps = "uint8"
    layers: tuple[str, ...] = ("fc1",)
    device: str | None = None
    precision: Precision = "float32"
    img_size: tuple[int, int] | None = None
    batch_size: int = 32
    workers: int = 1
    limit: int | None = None
    inputs: bool = True
    overwrite: bool = False
    part_images: int | None = None  # for tests: smaller parts than would fit


@dataclass(frozen=True)
class Plan:
    spec: RunSpec
    source: Source
    anatomy: Anatomy
    head: Head
    names: ClassNames | None
    notes: tuple[str, ...]  # what a user should know before it starts

    @property
    def index_bytes(self) -> int:
        return sum(a.total_bytes for a in arrays(self.spec).values()) + self._tables_bytes

    @property
    def _tables_bytes(self) -> int:
        exemplars = self.spec.neurons * min(150, 2 * self.spec.images) * 12
        return exemplars + self.spec.neurons * len(self.names.names if self.names else ()) * 60 + 2_000_000

    @property
    def memory_bytes(self) -> int:
        """Of a run, beyond the program's own: model, a part, counts and their state, a batch's values and codes."""
        spec = self.spec
        weights = sum(p.numel() * 4 for p in self.anatomy.model.parameters())
        widest = max(layer.units for layer in spec.layers)
        values = 6 * spec.batch_size * spec.tokens * widest * 4  # a layer before and after, and what attention holds
        codes = spec.batch_size * spec.neurons * spec.patches
        counts = spec.neurons * BINS * (4 + 2)
        running = spec.neurons * EXEMPLARS * spec.patches if spec.maps == "exemplars" else 0
        return weights + part_bytes(spec) + values + codes + counts + running


def sample_request(out: Path, **choices: object) -> Request:
    """A request for the packaged images and model."""
    return Request(out, f"{LOCAL}{MODEL}", str(IMAGES), **choices)  # type: ignore[arg-type]


def make_plan(request: Request) -> Plan:
    """Load the model, list the images, and settle every choice of the run."""
    device = choose_device(request.device)
    source = open_source(request.images)
    count = min(len(source.entries), request.limit or len(source.entries))
    loaded = load_model(request.model, request.weights, request.img_size)
    _, height, width = loaded.preprocessing["input_size"]
    anatomy = dissect(loaded.model, (height, width))
    head = find_head(anatomy, request.head)
    labels = sorted({e.label for e in source.entries if e.label is not None})
    names, notes = class_names(request, loaded, head, labels)
    notes = [*loaded.notes, *notes]
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
        classes=len(head.weight) if head.weight is not None else 0,
        readout=anatomy.readout.kind,
        precision=request.precision,
        tf32=torch.backends.cuda.matmul.allow_tf32,
        compiled=device == "cpu",
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
    )
    spec = replace(spec, part_images=min(request.part_images or fitting_part_images(spec), count))
    anatomy.model.to(device)
    return Plan(spec, source, anatomy, head, names, tuple(notes))


def default_workers() -> int:
    """Half the cores decode, at most eight; the rest run the model or wait for it."""
    return max(1, min(8, (os.cpu_count() or 2) // 2))


def layer_specs(anatomy: Anatomy, kinds: tuple[str, ...]) -> tuple[LayerSpec, ...]:
    out = []
    for layer in anatomy.layers:
        if "fc1" in kinds:
            out.append(LayerSpec(layer.name, layer.block, "hidden", layer.fc1.out_features))
        if "fc2" in kinds:
            name = layer.name.removesuffix("fc1") + "fc2"
            out.append(LayerSpec(name, layer.block, "residual", layer.fc2.out_features))
    return tuple(out)


def class_names(request: Request, loaded: Loaded, head: Head, labels: list[str]) -> tuple[ClassNames | None, list[str]]:
    """Names for the head's rows: a file's, the head's, the model's own; else the sorted folders, said aloud."""
    rows = len(head.weight) if head.weight is not None else 0
    if request.class_names:
        try:
            lines = [line.strip() for line in request.class_names.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"no readable class names in {request.class_names}", "Give one name a line.") from error
        if rows and len(lines) != rows:
            raise ModelError(
                f"{request.class_names.name} names {len(lines)} classes, the head has {rows}",
                "Give one name a line, in the head's order.",
            )
        return ClassNames(tuple(lines), None, request.class_names.name), []
    own = head.names or (loaded.class_names if head.origin == "model" else None)
    if own:
        return own, []
    if not rows:
        if not labels:
            return None, []
        return ClassNames(tuple(labels), None, "folders"), ["the model has no head: classes are the image folders"]
    if len(labels) == rows:
        note = f"the model names no classes: its {rows} rows are taken for the folders in sorted order"
        return ClassNames(tuple(labels), None, "folders by sorted position"), [note]
    numbers = tuple(str(i) for i in range(rows))
    note = f"the model names no classes and has {rows}, not {len(labels)}: images have none (see --class-names)"
    return ClassNames(numbers, None, "numbers"), [note]


def check_space(plan: Plan, out: Path, already: int) -> None:
    """Raise BadIndex where the index would not fit on the disk."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    needed = plan.index_bytes - already
    if needed > free:
        smaller = {
            m: replace(plan, spec=replace(plan.spec, maps=m)).index_bytes for m in ("uint8", "exemplars", "none")
        }
        fitting = [f"--maps {m} ({bytes_text(b)})" for m, b in smaller.items() if b < min(free, plan.index_bytes)]
        remedy = f"Choose {' or '.join(fitting)}." if fitting else "Choose another disk or fewer images (--limit)."
        raise BadIndex(f"the index needs {bytes_text(needed)} and {bytes_text(free)} are free", remedy)
