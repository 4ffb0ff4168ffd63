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
from ..schemas.facts import Files, ImageFacts, content_facts
from ..schemas.layout import Layout
from ..schemas.manifest import Manifest, seal_manifest, this_machine
from ..schemas.run_spec import Part
from ..schemas.storage.only_writer import AnotherWrites, only_writer
from ..schemas.storage.store import Store
from ..schemas.storage.zarr_group import write_metadata
from ..schemas.workers.joint import check_alone
from ..schemas.workers.site import remove_leftovers
from .ledger import Ledger, PartEntry
from .place import check_place, clear
from .plan import Announced, Plan, Request, check_space, make_plan
from .run.part_runner import Filled, Recorder, fresh_statistics, run_parts
from .run.part_writer import PartBuffer
from .statistics.threshold_counts import Statistics
from .tables.build_tables import build_tables
from .tables.class_order import Accuracy
from .tables.class_space import ModelSpace
from .tables.filled_index import Finish
from .tables.whole_arrays import write_by_neuron, write_exemplar_maps, write_weights
from .workers.leases import CountedLeases


class Listener(Protocol):
    """What a run or a repair tells while it goes."""

    def planned(self, run: Announced, done: int) -> None:
        """A run begins; so many images were done before."""

    def advance(self, images: int, written: int) -> None:
        """So many more images are done, so many more bytes are on their way to the disk."""

    def finishing(self) -> None:
        """All images are read."""

    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None:
        """The index is ready; what has shown of its classes, and how often the model is right."""

    def told(self, line: str) -> None:
        """Something that a user wants to know."""

    def checking(self, total: int) -> Callable[[int], object]:
        """A repair reads so many bytes. Returns what is to be told the bytes of each step."""
        ...

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None:
        """A repair makes these files again, for which so many images are read."""


class Quiet:
    """Listens to nothing."""

    def planned(self, run: Announced, done: int) -> None: ...
    def advance(self, images: int, written: int) -> None: ...
    def finishing(self) -> None: ...
    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None: ...
    def told(self, line: str) -> None: ...

    def checking(self, total: int) -> Callable[[int], object]:
        return lambda count: None

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None: ...


def build(request: Request, listener: Listener) -> Path:
    """Make, or finish, the index that `request` describes, alone in its folder, which is returned."""
    out = Path(request.out)
    layout = Layout(out)
    check_place(layout, request.overwrite)
    plan = make_plan(request)
    layout.parts.mkdir(parents=True, exist_ok=True)
    with only_writer(layout):
        check_place(layout, request.overwrite)  # again: another run may have ended since
        ledger = Ledger(layout)
        check_alone(ledger, request.overwrite)
        if request.overwrite:
            clear(layout)
        ledger.begin(plan.spec)
        statistics, parts = taken_up(plan, ledger)
        done = plan.spec.images - sum(part.images for part in parts)
        check_space(plan, out, (len(plan.spec.parts) - len(parts)) * part_bytes(plan.spec))
        listener.planned(plan.announced(), done)
        run_parts(plan, parts, statistics, listener.advance, recorder(ledger))
        listener.finishing()
        notes, accuracy = finish(plan, layout, ledger, statistics)
        remove_leftovers(layout)
        listener.finished(notes, accuracy)
    if (place := own_weights(request)) is not None:
        remember_weights(plan.spec.weights_sha256, place)
    return out


def own_weights(request: Request) -> str | Path | None:
    """The file or folder of the user's that the weights come from; None where they are a hub's."""
    if request.weights is not None:
        return request.weights
    return request.model.removeprefix(LOCAL) if request.model.startswith(LOCAL) else None


def taken_up(plan: Plan, ledger: Ledger) -> tuple[Statistics, list[Part]]:
    """What this worker has counted of an unfinished run, and the parts that it has not."""
    statistics, done = fresh_statistics(plan.spec), frozenset[int]()
    bins = ledger.bins()
    if bins is not None:
        statistics.lay_bins(bins)
        done = ledger.take_up(statistics)
    return statistics, [part for part in plan.spec.parts if part.index not in done]


def recorder(ledger: Ledger, leases: CountedLeases | None = None) -> Recorder:
    """Keeps every part in the ledger; `leases` where several workers do (it raises Superseded then)."""
    counted = set(ledger.tally.parts)

    def write(part: Part, buffer: PartBuffer, filled: Filled) -> None:
        """Files first, then what the part leaves for the end, the entry that vouches for them, the tally of counts."""
        files = buffer.store(part.index, ledger.files.write, ledger.files.at_once)
        ledger.save_statistics(part.index, filled)
        entry = PartEntry(part.index, files, filled.images, filled.seconds)
        ledger.finish_part(entry) if leases is None else leases.enter(entry)
        counted.add(part.index)
        if filled.state is not None:
            if leases is not None:
                leases.check_own(counted)
            ledger.save_counts(counted, filled.state)
            if leases is not None:
                leases.settled(counted)

    return Recorder(write, ledger.settle_bins)


def finish(
    plan: Plan,
    layout: Layout,
    ledger: Ledger,
    statistics: Statistics,
    store_of: Callable[[Files], Store | None] = lambda files: None,
) -> tuple[list[str], Accuracy | None]:
    """Weights, metadata, tables; last the manifest, without which there is no index.

    layout: where they are made. store_of: where the parts' files are read, if not there. Returns notes and accuracy.
    """
    spec, folder = plan.spec, ledger.files
    contents = ledger.entry_contents(len(spec.parts))
    entries = [PartEntry.parsed(content) for content in contents]
    ledger.merge_all(statistics, ledger.tallies(), len(spec.parts))
    images = [image for entry in entries for image in entry.images]
    _check_images(images)
    of_parts = {path: facts for entry in entries for path, facts in entry.files.items()}
    plan.anatomy.model.cpu()
    files = write_weights(plan, layout)
    files |= write_metadata(layout.root, ARRAYS, arrays(spec))
    space = ModelSpace(plan.anatomy)
    made = Finish(
        layout, spec, space, plan.head, plan.names, plan.label_rows, statistics, images, store=store_of(of_parts)
    )
    for layer in spec.layers:
        files |= write_by_neuron(made, layer)
        if spec.maps == "exemplars":
            files |= write_exemplar_maps(made, layer, ledger.candidates(layer.name, len(spec.parts)))
    files |= build_tables(made)
    if ledger.is_finished():  # by a worker that took this one for dead, where no lock tells (workers/site.py)
        raise AnotherWrites(f"another worker has finished {folder.shown('')}")
    for path in files:
        folder.adopt(path, layout.root / path)
    files |= of_parts
    files[layout.key(layout.run)] = content_facts(folder.content(layout.key(layout.run)) or b"")
    files |= {layout.key(layout.entry(e.part)): content_facts(c) for e, c in zip(entries, contents, strict=True)}
    notes = [note for note in (made.settled.note,) if note is not None]
    content = {"tables": tables_record(), **describe(plan, entries, files, notes)}
    accuracy = made.accuracy()
    if accuracy is not None:
        content["accuracy"] = accuracy.to_json()
    folder.vouch(layout.manifest.name, seal_manifest(content))
    return [*notes, *unreadable(images)], accuracy


def unreadable(images: Sequence[ImageFacts]) -> list[str]:
    """A line where images could not be read."""
    failed = [image for image in images if not image.readable]
    if not failed:
        return []
    first = f"the first {failed[0].path!r}: {failed[0].reason}"
    return [f"{len(failed):,} of {len(images):,} images could not be read, {first}; the table 'failures' names them"]


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
