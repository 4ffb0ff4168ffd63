"""An atlas as a folder of files that any static host carries: the data of the served one, and the same front end.

A stopped export goes on where it was: files are whole or not there, and index.html comes last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...schemas.errors import QueryError
from ...schemas.manifest import manifest_sha256
from ...schemas.progress import Progress, silent
from ...schemas.storage.room import check_room
from ..lookups.key_neurons import ranked_values
from ..notes.database import notes_stamp
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .atlas import Atlas
from .files import START, data_file, front_end, neuron_addresses
from .other_pages import start_page
from .placing import placing
from .plain import Page, json_bytes
from .writers import write_file, write_files

STAMP = "atlas.json"  # what an export is of
MEASURED = 12  # neurons, classes and images each whose files tell how large all are
FIRST = (START, "data/search.json", "data/about.json", "data/map.json")  # by this process: it has arranged the map


@dataclass(frozen=True)
class ExportPlan:
    """What is to be written, and about how much that is."""

    atlas: Atlas
    out: Path
    held: dict[int, list[int]]  # units by the layer's place
    whole: bool  # whether these are all neurons
    addresses: list[str]
    bytes: int
    stamp: Page

    @property
    def neurons(self) -> int:
        return sum(map(len, self.held.values()))


def plan_export(
    index: StoredIndex,
    out: str | Path,
    layers: Sequence[str] = (),
    top: int | None = None,
    *,
    progress: Progress | None = None,
) -> ExportPlan:
    """What an export of an index would write. The map is arranged for it, where that has not been done.

    Args:
        out: a folder, new, empty, or an export of the same that was stopped.
        layers: only neurons of these; of all by default.
        top: only the first `top` neurons of every class, by each ranking that the index has.
        progress: told how far arranging is.

    Returns:
        A plan, for write_export; with the number of files and about how many bytes they are.

    Raises:
        QueryError: an unknown layer, another `out`, no room for it.
    """
    atlas, out = Atlas(index), Path(out)
    places = [place for place, spec in enumerate(index.spec.layers) if not layers or spec.name in layers]
    for layer in layers:
        index.neuron_layer(layer, 0)
    held = _held(atlas, places, top)
    whole = sum(map(len, held.values())) == index.spec.neurons
    stamp = {
        "index": manifest_sha256(index.manifest),
        "effects": None if index.effects is None else index.effects.spec.to_json(),
        "notes": notes_stamp(index.layout),
        "neurons": None if whole else {str(place): units for place, units in held.items()},
    }
    stamp = json.loads(json_bytes(stamp))
    _check_place(index.layout.root, out, stamp)
    placing(atlas).make(progress)
    groups = _addresses(index, held)
    addresses = [address for group in groups for address in group]
    size = sum(len(file.content) for file in front_end().values()) + sum(_measured(atlas, group) for group in groups)
    check_room(out, size)
    return ExportPlan(atlas, out, held, whole, addresses, size, stamp)


def write_export(plan: ExportPlan, *, workers: int = 1, progress: Progress | None = None) -> None:
    """Write what is not there yet.

    Args:
        workers: processes that write; see workers_for. More than one begin a new interpreter each, as multiprocessing's
            'spawn' does.
        progress: told (done, total) in files.

    Raises:
        QueryError, DamagedIndex: as the pages do, or a worker was ended.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    write_file(plan.out / STAMP, json_bytes(plan.stamp))
    for address in FIRST:
        if not (plan.out / address).exists():
            write_file(plan.out / address, _content(plan, address))
    write_files(plan.atlas, plan.out, plan.addresses, workers, progress or silent)
    for address, shown in sorted(front_end().items(), reverse=True):  # index.html after static/
        write_file(plan.out / address, shown.content)


def _held(atlas: Atlas, places: list[int], top: int | None) -> dict[int, list[int]]:
    """The units to be written, by the layer's place."""
    layers = atlas.index.spec.layers
    if top is None:
        return {place: list(range(layers[place].units)) for place in places}
    at_least(1, top=top)
    numbers = {layers[place].name: place for place in places}
    found: dict[int, set[int]] = {place: set() for place in places}
    for class_id in range(len(atlas.index.classes)):
        for by in atlas.rankings:
            for neuron, _ in ranked_values(atlas.index, class_id, top, by):
                if neuron.layer in numbers:
                    found[numbers[neuron.layer]].add(neuron.unit)
    return {place: sorted(units) for place, units in found.items()}


def _addresses(index: StoredIndex, held: dict[int, list[int]]) -> list[list[str]]:
    """All addresses, those together whose files are about as large."""
    pictures = index.spec.inputs
    classes, images = range(len(index.classes)), range(index.spec.images)
    readable = index.reader.whole("valid")
    return [
        list(FIRST),
        [f"data/layer/{place}.json" for place in range(len(index.spec.layers))],
        *([f"data/class/{row}.{kind}" for row in classes] for kind in ("json", *(["jpgs"] if pictures else []))),
        [f"data/image/{i}.json" for i in images],
        [f"data/image/{i}.jpg" for i in images if pictures and readable[i]],
        *(
            [address for unit in units for address in neuron_addresses(place, unit, pictures)][part::parts]
            for place, units in held.items()
            for parts in [1 + pictures]
            for part in range(parts)
        ),
    ]


def _measured(atlas: Atlas, addresses: list[str]) -> int:
    """About how many bytes the files at addresses are, from some of them."""
    if len(addresses) <= 4:
        return sum(len(data_file(atlas, address).content) for address in addresses)
    some = addresses[:: max(1, len(addresses) // MEASURED)]
    return sum(len(data_file(atlas, address).content) for address in some) * len(addresses) // len(some)


def _content(plan: ExportPlan, address: str) -> bytes:
    """What lies at an address; the start says which neurons there are, where it is not all."""
    if address == START and not plan.whole:
        return json_bytes({**start_page(plan.atlas), "held": plan.stamp["neurons"]})
    return data_file(plan.atlas, address).content


def _check_place(root: Path, out: Path, stamp: Page) -> None:
    """Raise QueryError where a folder lies in the index, or holds anything but a beginning of the same export."""
    if out.resolve().is_relative_to(root):
        raise QueryError(f"{out} lies in the index, which would no longer be whole", "Name a folder elsewhere.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise QueryError(f"{out} is a file", "Name a folder.")
    try:
        there = json.loads((out / STAMP).read_bytes())
    except (OSError, ValueError, RecursionError):
        raise QueryError(f"{out} is not empty and no atlas", "Name a new folder.") from None
    if there != stamp:
        raise QueryError(f"{out} is an atlas of something else, or of other neurons", "Name a new folder.")
