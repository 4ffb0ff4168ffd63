"""Make an index: plan, fill part by part, finish. Killed at any point, the same command goes on where it was."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import Crc32cCodec

from ..schemas.errors import BadIndex
from ..schemas.layout import ARRAYS, ArraySpec, Layout, arrays, part_bytes
from ..schemas.manifest import seal_manifest
from ..schemas.records import EXEMPLARS, FORMAT_VERSION, Part, RunSpec
from .capture import Capture
from .counts import Statistics, tail_length
from .exemplar_maps import RunningMaps
from .feed import Batch, feed
from .ledger import Entry, Ledger
from .plan import Plan, Request, check_space, make_plan
from .tables import Finish, build_tables, remove_candidates
from .writer import PartBuffer, PartWriter, encode_file, file_facts, write_file


class Progress(Protocol):
    """What a run tells while it goes."""

    def planned(self, plan: Plan, done: int) -> None: ...
    def advance(self, images: int, written: int) -> None: ...
    def finishing(self) -> None: ...


def build(request: Request, progress: Progress) -> Path:
    """Make, or finish, the index that `request` describes. Returns its folder."""
    layout = Layout(request.out)
    _check_place(request, layout)
    plan = make_plan(request)
    layout.parts.mkdir(parents=True, exist_ok=True)
    with _only_writer(layout):
        if request.overwrite:
            _clear(layout)
        ledger = Ledger(layout)
        done = ledger.begin(plan.spec)
        check_space(plan, request.out, done * part_bytes(plan.spec))
        progress.planned(plan, sum(part.images for part in plan.spec.parts[:done]))
        statistics = _fill(plan, ledger, done, request.workers, progress)
        progress.finishing()
        _finish(plan, layout, ledger, statistics)
    layout.lock.unlink(missing_ok=True)
    return request.out


def _check_place(request: Request, layout: Layout) -> None:
    if request.out.exists() and not request.out.is_dir():
        raise BadIndex(f"{request.out} is a file", "Choose another name for the index.")
    if layout.manifest.exists() and not request.overwrite:
        raise BadIndex(f"{request.out} is a finished index", "Choose another name, or give --overwrite.")
    ours = layout.manifest.exists() or layout.parts.exists()
    if request.out.exists() and not ours and any(request.out.iterdir()):
        raise BadIndex(f"{request.out} holds other files", "Choose a new folder for the index.")


@contextlib.contextmanager
def _only_writer(layout: Layout) -> Iterator[None]:
    lock = FileLock(layout.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BadIndex(f"another run is filling {layout.root}", "Wait for it, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def _clear(layout: Layout) -> None:
    layout.manifest.unlink(missing_ok=True)
    shutil.rmtree(layout.arrays, ignore_errors=True)
    layout.database.unlink(missing_ok=True)
    for file in layout.parts.iterdir():
        if file != layout.lock:
            file.unlink()


def _fill(plan: Plan, ledger: Ledger, done: int, workers: int, progress: Progress) -> Statistics:
    """Run the images of all unfinished parts through the model."""
    spec = plan.spec
    statistics = Statistics(spec.layers, tail_length(spec.images, spec.patches), spec.device)
    if done:
        statistics.load(ledger.load_counts(done - 1))
    todo = spec.parts[done:]
    if not todo:
        return statistics
    by_part = [a for a in arrays(spec).values() if a.by_part]
    running = _running_maps(spec)
    batches = feed(plan.source, spec.preprocessing, todo, spec.batch_size, workers)
    writer = PartWriter(by_part, lambda part, buffer, extra: _write_part(ledger, part, buffer, extra))
    try:
        with Capture(plan.anatomy, spec, plan.head, statistics) as capture:
            for part in todo:
                started, buffer = time.monotonic(), writer.buffer()
                facts: list[dict[str, Any]] = []
                while len(facts) < part.images:
                    batch = next(batches)
                    if batch.ids:
                        _one_batch(capture, batch, part, buffer, running)
                    facts += batch.facts
                    progress.advance(len(batch.facts), part_bytes(spec) * len(batch.facts) // part.images)
                kept = {name: maps.of_images(part.start) for name, maps in running.items()}
                writer.submit(part, buffer, (facts, time.monotonic() - started, statistics.state(), kept))
    finally:
        writer.close()
    return statistics


def _running_maps(spec: RunSpec) -> dict[str, RunningMaps]:
    if spec.maps != "exemplars":
        return {}
    kept, device = min(EXEMPLARS, spec.images), torch.device(spec.device)
    return {layer.name: RunningMaps(layer.units, kept, spec.patches, device) for layer in spec.layers}


def _one_batch(capture: Capture, batch: Batch, part: Part, buffer: PartBuffer, running: dict[str, RunningMaps]) -> None:
    """Capture a batch and put its rows into the part."""
    found = capture(batch.pixels, batch.ids)
    for name, maps in running.items():
        maps.add(found[f"{name}/max"], batch.ids, found.pop(f"{name}/map"))
    rows = np.array(batch.ids) - part.start
    for path, values in found.items():
        buffer.put(path, rows, values.cpu().numpy())
    buffer.put("valid", rows, np.ones(len(rows), bool))
    if "inputs" in buffer.specs:
        buffer.put("inputs", rows, batch.pixels.numpy())


def _write_part(ledger: Ledger, part: Part, buffer: PartBuffer, extra: Any) -> None:
    """Files first, then the statistics, last the entry that vouches for them."""
    facts, seconds, state, kept = extra
    layout = ledger.layout
    files = {path: write_file(layout.root / path, content) for path, content in buffer.files(part.index).items()}
    for layer, content in kept.items():
        write_file(layout.candidates(part.index, layer), content)
    ledger.save_counts(part.index, state)
    ledger.finish_part(Entry(part.index, files, facts, round(seconds, 3)))


def _finish(plan: Plan, layout: Layout, ledger: Ledger, statistics: Statistics) -> None:
    """Weights, metadata, tables; last the manifest, without which there is no index."""
    spec = plan.spec
    entries = ledger.entries(len(spec.parts))
    images = [facts for entry in entries for facts in entry.images]
    files = {path: found for entry in entries for path, found in entry.files.items()}
    plan.anatomy.model.cpu()
    files |= _write_weights(plan, layout)
    files |= write_metadata(spec, layout)
    finish = Finish(layout, spec, plan.anatomy, plan.head, plan.names, statistics, images)
    files |= build_tables(finish)
    remove_candidates(layout)
    layout.counts(len(spec.parts) - 1).unlink(missing_ok=True)
    for path in (layout.run, *(layout.entry(part.index) for part in spec.parts)):
        files[str(path.relative_to(layout.root))] = file_facts(path)
    failed = sum("reason" in facts for facts in images)
    manifest = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": spec.to_json(),
        "images": {
            "found": len(plan.source.entries) + len(plan.source.skipped),
            "indexed": len(images) - failed,
            "failed": failed,
            "skipped": [[s.path, s.reason] for s in plan.source.skipped],
            "beyond_limit": len(plan.source.entries) - spec.images,
        },
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "cpu_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if spec.device.startswith("cuda") else None,
        },
        "seconds": round(sum(entry.seconds for entry in entries), 1),
        "notes": list(plan.notes),
        "files": dict(sorted(files.items())),
    }
    write_file(layout.manifest, seal_manifest(manifest))


def _write_weights(plan: Plan, layout: Layout) -> dict[str, list[Any]]:
    """head, value_vectors, folded_vectors, folded_biases: one file a layer."""
    specs, anatomy = arrays(plan.spec), plan.anatomy
    hidden = [layer for layer in anatomy.layers if layer.name in {a.name for a in plan.spec.layers}]
    values: dict[str, Any] = {}
    if plan.head.weight is not None:
        values["head"] = plan.head.weight
    if hidden:
        values["value_vectors"] = torch.stack([layer.value_vectors for layer in hidden])
    if "folded_vectors" in specs:
        values["folded_vectors"] = torch.stack([anatomy.fold(layer, layer.value_vectors) for layer in hidden])
        width = hidden[0].fc2.out_features
        biases = [layer.fc2.bias.float() if layer.fc2.bias is not None else torch.zeros(width) for layer in hidden]
        values["folded_biases"] = torch.stack([anatomy.fold(a, b) for a, b in zip(hidden, biases, strict=True)])
    written = {}
    for path, tensor in values.items():
        spec, array = specs[path], tensor.numpy()
        for i in range(spec.files):
            file = spec.file(i, *[0] * (array.ndim - 1))
            content = encode_file(array[i : i + 1] if spec.files > 1 else array, spec)
            written[file] = write_file(layout.root / file, content)
    return written


def write_metadata(spec: RunSpec, layout: Layout) -> dict[str, list[Any]]:
    """Every zarr.json, by zarr-python itself, with consolidated metadata at the root."""
    for leftover in layout.arrays.rglob("zarr.json"):
        leftover.unlink()
    root = zarr.open_group(layout.arrays, mode="a", zarr_format=3, attributes={"vitdex_format": FORMAT_VERSION})
    for array in arrays(spec).values():
        declare(root, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is widely read, though not yet in the specification
        zarr.consolidate_metadata(layout.arrays, zarr_format=3)
    found = sorted(path for path in layout.arrays.rglob("zarr.json"))
    return {f"{ARRAYS}/{path.relative_to(layout.arrays).as_posix()}": file_facts(path) for path in found}


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


class Quiet:
    """No progress at all."""

    def planned(self, plan: Plan, done: int) -> None: ...
    def advance(self, images: int, written: int) -> None: ...
    def finishing(self) -> None: ...
