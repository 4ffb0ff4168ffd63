"""Another head on a finished index: a new index that shares its arrays. No model, no image, no forward pass.

A head has a part in few things: its weight, the logits, and the tables. Logits are made from the features that the
index keeps, in float16; value vectors, and what the head reads of every unit, are kept in float32, so that class scores
and contributions are those of an index made with this head.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.labels.class_names import DATA_SET_LIST, ClassNames, name_rows
from ..data.labels.image_labels import label_rows, matched_text, without_class
from ..data.labels.label_files import image_labels, read_labels
from ..data.models.head import Head, head_of_file
from ..schemas.array_specs import ARRAYS, arrays, part_files
from ..schemas.database import tables_record
from ..schemas.errors import STRANGE, BadIndex, BadRequest
from ..schemas.facts import Files, ImageFacts, file_facts
from ..schemas.integrity import listed_files
from ..schemas.layout import Layout
from ..schemas.manifest import manifest_sha256, seal_manifest
from ..schemas.progress import Progress
from ..schemas.run_bounds import beyond_bounds
from ..schemas.run_spec import RunSpec
from ..schemas.sizes import bytes_text
from ..schemas.storage.atomic_files import write_file, write_voucher
from ..schemas.storage.chunk_files import encode_file
from ..schemas.storage.only_writer import only_writer
from ..schemas.storage.room import check_room
from ..schemas.storage.zarr_group import write_metadata
from ..schemas.workers.site import remove_leftovers
from .ledger import Ledger, PartEntry
from .place import check_place, clear, tables_bytes
from .shared_files import share_files
from .stored_source import StoredSource
from .tables.build_tables import build_tables
from .tables.class_order import Accuracy
from .tables.filled_index import Finish

OWN = ("head", "logits")  # arrays that the head decides


@dataclass(frozen=True)
class HeadRequest:
    """What a user asks for."""

    index: Path
    head: Path
    out: Path
    class_names: str | Path | None = None
    labels: str | Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class HeadPlan:
    """An index to be made, of which everything is settled."""

    spec: RunSpec
    head: Head
    names: ClassNames | None
    label_rows: dict[str, int]
    images: list[ImageFacts]
    labelled: str  # how many images have a class
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class HeadListener(Protocol):
    """What the making of such an index tells."""

    def settled(self, plan: HeadPlan) -> None:
        """It begins."""

    def layers(self, done: int, total: int) -> None:
        """So many layers' tables are made."""

    def finished(self, shared: str, notes: list[str], accuracy: Accuracy | None) -> None:
        """The index is ready: how it shares files, what has shown of its classes and logits, how often it is right."""


def put_head(request: HeadRequest, listener: HeadListener) -> Path:
    """Make the index that `request` describes, or leave none that opens. Returns its folder."""
    start, out = time.monotonic(), Layout(request.out)
    source = StoredSource(request.index)
    _check_apart(source.layout, out)
    check_place(out, request.overwrite, head=True)
    plan = plan_head(request, source)
    _check_room(source, plan.spec, out)
    making = _Making(source, plan, out, start)
    out.parts.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        check_place(out, request.overwrite, head=True)  # again: another run may have ended since
        clear(out)
        listener.settled(plan)
        listener.finished(*making.run(listener.layers))
    return request.out


def plan_head(request: HeadRequest, source: StoredSource) -> HeadPlan:
    """Load the head and match names and labels, as `vitdex index` does."""
    head = head_of_file(request.head, source.spec.features, source.own_head())
    images = source.images()
    if request.labels is not None:
        file = Path(request.labels)
        given = image_labels(read_labels(file), [image.path for image in images], file)
        images = [replace(image, label=label) for image, label in zip(images, given, strict=True)]
    used = [image.label for image in images]
    labels = sorted({label for label in used if label is not None})
    data_set = source.class_names() if source.spec.class_names == DATA_SET_LIST else None
    names, notes = name_rows(head.rows, labels, head.names, request.class_names, data_set)
    rows = label_rows(labels, names)
    spec = replace(
        source.spec,
        head=head.origin,
        head_sha256=head.sha256,
        class_names=names.origin if names else "none",
        classes=head.rows,
    )
    if fault := beyond_bounds(spec):
        raise BadRequest(f"no index can hold this head: {fault}")
    warnings = tuple(without_class(used, rows)) if names else ()
    return HeadPlan(spec, head, names, rows, images, matched_text(used, rows), tuple(notes), warnings)


def _check_apart(source: Layout, out: Layout) -> None:
    here, there = source.root.resolve(), out.root.resolve()
    if here == there:
        raise BadIndex(f"{out.root} is the index itself", "Choose another name for the new index.")
    if here in there.parents or there in here.parents:
        raise BadIndex(f"one of {source.root} and {out.root} lies in the other", "Choose a place beside the index.")


def _check_room(source: StoredSource, spec: RunSpec, out: Layout) -> None:
    """Raise QueryError where what is new has no room on its disk: on another than the index's own, all arrays."""
    place = next(p for p in (out.root.absolute(), *out.root.absolute().parents) if p.exists())
    other_disk = place.stat().st_dev != source.layout.root.stat().st_dev
    needed = sum(array.total_bytes for path, array in arrays(spec).items() if other_disk or path in OWN)
    needed += tables_bytes(spec, spec.classes)
    check_room(out.root, needed, "choose the disk of the index" if other_disk else "")


class _Making:
    """One index in the making. `files` grows to all of its files; the manifest comes last."""

    def __init__(self, source: StoredSource, plan: HeadPlan, out: Layout, start: float) -> None:
        self.source, self.plan, self.out, self.start = source, plan, out, start
        self.name = source.layout.root.resolve().name
        self.kept, self.space = source.kept(), source.space()  # before anything is made: here a stranger's index fails
        self.ledger, self.files = Ledger(out), Files()

    def run(self, progress: Progress) -> tuple[str, list[str], Accuracy | None]:
        """Returns what HeadListener.finished is told."""
        plan, out = self.plan, self.out
        write_file(out.head_run, b"")
        self.ledger.write_run(plan.spec)
        shared = self._share()
        self.files |= write_metadata(out.root, ARRAYS, arrays(plan.spec))
        self._write("head", 0, np.asarray(plan.head.weight))
        exactness = self._write_logits()
        made = self.source.layout, self.source.spec
        finish = Finish(
            out, plan.spec, self.space, plan.head, plan.names, plan.label_rows, self.kept, plan.images, made
        )
        self.files |= build_tables(finish, progress)
        self._write_entries()
        notes = [note for note in (finish.settled.note, exactness) if note is not None]
        accuracy = finish.accuracy()
        write_voucher(out.manifest, seal_manifest(self._manifest(notes, accuracy)))
        remove_leftovers(out)
        return shared, notes, accuracy

    def _share(self) -> str:
        """Link what no head decides; returns how it was done."""
        listed = listed_files(self.source.manifest)
        names = [file for path, spec in arrays(self.source.spec).items() if path not in OWN for file in spec.file_names]
        if not all(name in listed for name in names):
            raise BadIndex(f"the manifest of {self.source.layout.root} does not list all of its arrays", STRANGE)
        self.files = {name: listed[name] for name in names}
        reason = share_files(self.source.layout, self.out, self.files)
        size = bytes_text(sum(size for size, _ in self.files.values()))
        if reason is not None:
            return f"{len(self.files):,} files ({size}) are copies of {self.name}'s: no links can be made ({reason})"
        return f"{len(self.files):,} files ({size}) are shared with {self.name} by hard links"

    def _write(self, path: str, file: int, values: NDArray[np.float32]) -> None:
        spec = arrays(self.plan.spec)[path]
        name = spec.file_names[file]
        self.files[name] = write_file(self.out.root / name, encode_file(values, spec))

    def _write_logits(self) -> str:
        """Write them part by part; returns how exact they are, as far as float16 tells."""
        spec = arrays(self.plan.spec)["logits"]
        valid, largest, near = self.source.reader.whole("valid"), 0.0, 0
        for part, (first, features) in enumerate(self.source.reader.parts("features")):
            logits, bounds = logits_of(self.plan.head, features)
            values = np.full(spec.chunks, np.nan, np.float32)
            values[: len(logits)] = logits
            self._write("logits", part, values)
            readable = valid[first : first + len(features)]
            largest = max(largest, float(bounds[readable].max(initial=0)))
            near += int(undecided(logits[readable], bounds[readable]).sum())
        return (
            f"logits are computed from features stored in float16: within {largest:.1g} of those from float32; "
            f"{near:,} images have two largest logits so near that either may be the larger"
        )

    def _write_entries(self) -> None:
        """The ledger's entries, as a run leaves them."""
        for part in self.plan.spec.parts:
            files = {path: self.files[path] for path in part_files(self.plan.spec, part.index)}
            self.ledger.finish_part(PartEntry(part.index, files, self.plan.images[part.start : part.stop], 0.0))
        for path in (self.out.run, *(self.out.entry(part.index) for part in self.plan.spec.parts)):
            self.files[self.out.key(path)] = file_facts(path)

    def _manifest(self, notes: Sequence[str], accuracy: Accuracy | None) -> dict[str, object]:
        made = self.source.manifest
        content: dict[str, object] = {
            "tables": tables_record(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": self.plan.spec.to_json(),
            "images": made["images"],
            "machine": made["machine"],
            "seconds": round(time.monotonic() - self.start, 1),
            "notes": [*(f"{self.name}: {note}" for note in made["notes"]), *self.plan.notes, *notes],
            "source_index": {"name": self.name, "sha256": manifest_sha256(made)},
            "files": dict(sorted(self.files.items())),
        }
        return content if accuracy is None else {**content, "accuracy": accuracy.to_json()}


def logits_of(head: Head, features: NDArray[np.float16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A head's logits of stored features [image, feature], and how far rounding to float16 may have moved each.

    Returns:
        Two float32 arrays [image, class].
    """
    assert head.weight is not None
    with torch.inference_mode():
        logits = head.logits(torch.from_numpy(features.astype(np.float32)))
        halves = torch.from_numpy(np.spacing(np.abs(features)).astype(np.float32) / 2)
        return logits.numpy(), (halves @ head.weight.abs().T).numpy()


def undecided(logits: NDArray[np.float32], bounds: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether another logit could be the largest if each moved as far as its bound: [image]."""
    rows = np.arange(len(logits))
    best = logits.argmax(1) if len(logits) else rows
    reach = logits + bounds
    least = (logits - bounds)[rows, best]
    reach[rows, best] = -np.inf
    out: NDArray[np.bool_] = reach.max(1, initial=-np.inf) >= least
    return out
