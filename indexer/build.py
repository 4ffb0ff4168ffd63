"""Make an index: plan, fill part by part, finish. Killed at any point, the same command goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import torch

from ..data.models.load import LOCAL
from ..data.models.remembered_weights import remember_weights
from ..schemas.array_specs import ARRAYS, arrays, part_bytes
from ..schemas.database import tables_record
from ..schemas.errors import SourceError
from ..schemas.facts import Files, ImageFacts, file_facts
from ..schemas.layout import Layout
from ..schemas.manifest import Manifest, seal_manifest, this_machine
from ..schemas.run_spec import Part
from ..schemas.storage.atomic_files import write_file, write_voucher
from ..schemas.storage.only_writer import only_writer
from ..schemas.storage.zarr_group import write_metadata
from .ledger import Ledger, PartEntry
from .place import check_place, clear, remove_leftovers
from .plan import Plan, Request, check_space, make_plan
from .run.part_runner import Filled, fresh_statistics, run_parts
from .run.part_writer import PartBuffer
from .statistics.threshold_counts import Statistics
from .tables.build_tables import build_tables
from .tables.class_order import Accuracy
from .tables.class_space import ModelSpace
from .tables.filled_index import Finish
from .tables.whole_arrays import write_by_neuron, write_exemplar_maps, write_weights


class Listener(Protocol):
    """What a run or a repair tells while it goes."""

    def planned(self, plan: Plan, done: int) -> None:
        """A run begins; so many images were done before."""

    def advance(self, images: int, written: int) -> None:
        """So many more images are done, so many more bytes are on their way to the disk."""

    def finishing(self) -> None:
        """All images are read."""

    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None:
        """The index is ready; what has shown of its classes, and how often the model is right."""

    def checking(self, total: int) -> Callable[[int], object]:
        """A repair reads so many bytes. Returns what is to be told the bytes of each step."""
        ...

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None:
        """A repair makes these files again, for which so many images are read."""


class Quiet:
    """Listens to nothing."""

    def planned(self, plan: Plan, done: int) -> None: ...
    def advance(self, images: int, written: int) -> None: ...
    def finishing(self) -> None: ...
    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None: ...

    def checking(self, total: int) -> Callable[[int], object]:
        return lambda count: None

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None: ...


def build(request: Request, listener: Listener) -> Path:
    """Make, or finish, the index that `request` describes. Returns its folder."""
    layout = Layout(request.out)
    check_place(layout, request.overwrite)
    plan = make_plan(request)
    layout.parts.mkdir(parents=True, exist_ok=True)
    with only_writer(layout):
        check_place(layout, request.overwrite)  # again: another run may have ended since
        if request.overwrite:
            clear(layout)
        ledger = Ledger(layout)
        done = ledger.begin(plan.spec)
        check_space(plan, request.out, done * part_bytes(plan.spec))
        listener.planned(plan, sum(part.images for part in plan.spec.parts[:done]))
        statistics = fresh_statistics(plan.spec)
        if done:
            statistics.load(ledger.load_counts(done - 1))

        fill(plan, ledger, done, statistics, listener.advance)
        listener.finishing()
        listener.finished(*_finish(plan, layout, ledger, statistics))
    if (place := own_weights(request)) is not None:
        remember_weights(plan.spec.weights_sha256, place)
    return request.out


def own_weights(request: Request) -> str | Path | None:
    """The file or folder of the user's that the weights come from; None where they are a hub's."""
    if request.weights is not None:
        return request.weights
    return request.model.removeprefix(LOCAL) if request.model.startswith(LOCAL) else None


def fill(plan: Plan, ledger: Ledger, done: int, statistics: Statistics, advance: Callable[[int, int], None]) -> None:
    """Run and write every part from `done` on."""

    def write(part: Part, buffer: PartBuffer, filled: Filled) -> None:
        """Files first, then the statistics, last the entry that vouches for them."""
        root = ledger.layout.root
        files = buffer.store(part.index, lambda path, content: write_file(root / path, content))
        ledger.save_state(part.index, filled)
        ledger.finish_part(PartEntry(part.index, files, filled.images, filled.seconds))

    run_parts(plan, plan.spec.parts[done:], statistics, advance, write)


def _finish(plan: Plan, layout: Layout, ledger: Ledger, statistics: Statistics) -> tuple[list[str], Accuracy | None]:
    """Weights, metadata, tables; last the manifest, without which there is no index."""
    spec = plan.spec
    entries = ledger.entries(len(spec.parts))
    images = [image for entry in entries for image in entry.images]
    _check_images(images)
    files = {path: facts for entry in entries for path, facts in entry.files.items()}
    plan.anatomy.model.cpu()
    files |= write_weights(plan, layout)
    files |= write_metadata(layout.root, ARRAYS, arrays(spec))
    space = ModelSpace(plan.anatomy)
    finish = Finish(layout, spec, space, plan.head, plan.names, plan.label_rows, statistics, images)
    for layer in spec.layers:
        files |= write_by_neuron(finish, layer)
        if spec.maps == "exemplars":
            files |= write_exemplar_maps(finish, layer)
    files |= build_tables(finish)
    for path in (layout.run, *(layout.entry(part.index) for part in spec.parts)):
        files[path.relative_to(layout.root).as_posix()] = file_facts(path)
    notes = [note for note in (finish.settled.note,) if note is not None]
    content = {"tables": tables_record(), **describe(plan, entries, files, notes)}
    accuracy = finish.accuracy()
    if accuracy is not None:
        content["accuracy"] = accuracy.to_json()
    write_voucher(layout.manifest, seal_manifest(content))
    remove_leftovers(layout)
    return notes, accuracy


def _check_images(images: list[ImageFacts]) -> None:
    if not any(image.readable for image in images):
        first = f"{images[0].path!r}: {images[0].reason}"
        raise SourceError(f"none of {len(images):,} images can be read ({first})", "Mend them and give --overwrite.")


def describe(plan: Plan, entries: list[PartEntry], files: Files, notes: Sequence[str] = ()) -> Manifest:
    """A manifest's content, but for who wrote the tables and how often the model is right."""
    images = [image for entry in entries for image in entry.images]
    failed = sum(not image.readable for image in images)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": plan.spec.to_json(),
        "images": {
            "found": len(plan.source.entries) + len(plan.source.skipped),
            "indexed": len(images) - failed,
            "failed": failed,
            "skipped": [[s.path, s.reason] for s in plan.source.skipped],
            "beyond_limit": len(plan.source.entries) - plan.spec.images,
        },
        "machine": this_machine(
            torch.get_num_threads(), torch.cuda.get_device_name() if plan.spec.device.startswith("cuda") else None
        ),
        "seconds": round(sum(entry.seconds for entry in entries), 1),
        "notes": [*plan.notes, *notes],
        "files": dict(sorted(files.items())),
    }
