"""Make the parts of the extension effects, and what is made once at the end; who may make which, others say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.database import tables_record
from ...schemas.effects import PLACES, effects_arrays
from ...schemas.extension import EXTENSION_ARRAYS, seal_extension
from ...schemas.facts import FileFacts, Files, content_facts
from ...schemas.manifest import content_sha256, this_machine
from ...schemas.run_spec import Part
from ...schemas.storage.chunk_files import encode_file
from ...schemas.storage.only_writer import AnotherWrites
from ...schemas.workers.filling import Filling
from .effects_place import (
    EffectsSite,
    PartEntry,
    entries_of,
    entry_of,
    files_of,
    holds,
    reader_at,
    remove_partial,
    whole_arrays_are_there,
)
from .effects_plan import EffectsPlan
from .effects_tables import write_tables

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.attribution import AttributionPatching


def fill(plan: EffectsPlan, site: EffectsSite, parts: Iterable[Part], advance: Callable[[int], object]) -> None:
    """Run and write some parts. A part's files come first, then the entry that vouches for them.

    advance: told images as they are done.
    """
    parts = iter(parts)
    first = next(parts, None)
    if first is None and whole_arrays_are_there(plan, site):
        return
    from ..model.attribution import AttributionPatching

    replacements = _settled(plan, site)
    attribution = AttributionPatching(plan.live, plan.spec.layers, replacements, plan.spec.precision)
    for part in chain([] if first is None else [first], parts):
        started, values = time.monotonic(), _blank(plan, part)
        for start in range(part.start, part.stop, plan.spec.batch_size):
            rows = np.arange(start, min(start + plan.spec.batch_size, part.stop))
            _one_batch(plan, attribution, rows, rows - part.start, values)
            advance(len(rows))
        files = _write_part(plan, site, part, values)
        _enter(plan, site, part, {"part": part.index, "files": files, "seconds": round(time.monotonic() - started, 3)})


def _enter(plan: EffectsPlan, site: EffectsSite, part: Part, entry: dict[str, Any]) -> None:
    """Write a part's entry. One that holds stays: the manifest may list it by now, where several workers are at it."""
    key, content = site.layout.key(site.layout.entry(part.index)), json.dumps(entry, indent=1).encode()
    if not site.files.create(key, content) and entry_of(plan, site, part) is None:
        site.files.vouch(key, content)


def _settled(plan: EffectsPlan, site: EffectsSite) -> dict[str, Tensor]:
    """What stands in the neurons' place for all workers, as the first of them has found it: see _replacements."""
    import torch

    specs = effects_arrays(plan.spec, plan.index.spec)
    if not whole_arrays_are_there(plan, site):
        for name, values in _replacements(plan).items():
            spec = specs[f"{name}/replacement"]
            key, content = spec.part_file(0), bytes(encode_file(values.numpy(), spec))
            if not site.files.create(key, content) and not holds(site, {key: spec.file_bytes}):
                site.files.write(key, content)
    reader = reader_at(plan, site)
    return {name: torch.from_numpy(reader.whole(f"{name}/replacement")) for name in plan.spec.layers}


def _replacements(plan: EffectsPlan) -> dict[str, Tensor]:
    """What stands in the neurons' place, by layer: [prefix token and then patch, unit]."""
    import torch

    from ..model.mean_activations import mean_activations

    if plan.spec.replace == "mean":
        return mean_activations(plan.live, list(plan.spec.layers))
    rows = plan.index.spec.prefix + 1
    return {name: torch.zeros(rows, plan.live.layer(name).units) for name in plan.spec.layers}


def _blank(plan: EffectsPlan, part: Part) -> dict[str, NDArray[Any]]:
    """A part's arrays as if no image could be read, in the shape of their files."""
    specs = [a for a in effects_arrays(plan.spec, plan.index.spec).values() if a.by_part]
    values: dict[str, NDArray[Any]] = {
        a.path: np.full(a.file_shape, np.nan if a.dtype.startswith("float") else 0, a.dtype) for a in specs
    }
    values["image"][: part.images] = plan.images[part.start : part.stop]
    values["class"][: part.images] = plan.classes[part.start : part.stop]
    return values


def _one_batch(
    plan: EffectsPlan, attribution: AttributionPatching, rows: NDArray[np.int64], places: NDArray[np.int64],
    values: dict[str, NDArray[Any]],
) -> None:  # fmt: skip
    """Run the readable images of some rows, and put what is found at these places of a part."""
    import torch

    readable = plan.classes[rows] >= 0
    rows, places = rows[readable], places[readable]
    if not len(rows):
        return
    ids = plan.images[rows].tolist()
    device = plan.live.device
    cover, masked = _covers(plan, ids)
    found = attribution(
        plan.live.pixels(ids),
        torch.from_numpy(plan.classes[rows]).to(device),
        None if cover is None else torch.from_numpy(cover).to(device),
    )
    values["logit"][places] = found.logit.cpu().numpy()
    for path, effects in found.effects.items():
        values[path][places] = effects.cpu().numpy()
    if cover is not None:
        values["mask_share"][places[masked]] = cover[masked].mean(1)
        for path in found.effects:
            if path.rsplit("/", 1)[-1] in PLACES:
                values[path][places[~masked]] = np.nan


def _covers(plan: EffectsPlan, ids: list[int]) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
    """The object's share of every patch [image, patch], and whether an image has a mask [image]; None without masks."""
    if plan.masks is None:
        return None, np.zeros(len(ids), bool)
    masked = np.isin(ids, plan.masks.images.image_id)
    cover = np.zeros((len(ids), plan.index.spec.patches), np.float32)
    if masked.any():
        cover[masked] = plan.masks.covers([one for one, has in zip(ids, masked, strict=True) if has])
    return cover, masked


def _write_part(plan: EffectsPlan, site: EffectsSite, part: Part, values: dict[str, NDArray[Any]]) -> Files:
    specs = effects_arrays(plan.spec, plan.index.spec)

    def write(path: str) -> tuple[str, FileFacts]:
        name = specs[path].part_file(part.index)
        return name, site.files.write(name, encode_file(values[path], specs[path]))

    with ThreadPoolExecutor(site.files.at_once) as writers:
        return Files(writers.map(write, values))


def finish(plan: EffectsPlan, site: EffectsSite) -> None:
    """Metadata, tables; last the manifest, without which there is no extension."""
    from ...schemas.storage.zarr_group import write_metadata

    layout, specs = site.layout, effects_arrays(plan.spec, plan.index.spec)
    entries = entries_of(plan, site)
    made = write_metadata(layout.root, EXTENSION_ARRAYS, specs) | write_tables(plan, site)
    filling = Filling(layout, site.files)
    if filling.is_finished():  # by a worker that took this one for dead, where no lock tells
        raise AnotherWrites(f"another worker has finished {site.name}")
    for path in made:
        site.files.adopt(path, layout.root / path)
    files = files_of(entries) | made
    whole = [spec.part_file(0) for spec in specs.values() if not spec.by_part]
    files |= {name: content_facts(site.files.content(name) or b"") for name in (*whole, layout.key(layout.run))}
    contents = filling.entry_contents(len(plan.spec.parts))
    files |= {layout.key(layout.entry(i)): content_facts(content) for i, content in enumerate(contents)}
    remove_partial(layout)  # before it is finished: a run that is stopped here goes on
    site.files.vouch(layout.manifest.name, _manifest(plan, entries, files))


def _manifest(plan: EffectsPlan, entries: list[PartEntry], files: Files) -> bytes:
    import torch

    device = plan.live.device
    return seal_extension(
        {
            "name": plan.layout.name,
            "index_sha256": content_sha256(plan.index.manifest),
            "run": plan.spec.to_json(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": this_machine(
                torch.get_num_threads(), torch.cuda.get_device_name(device) if device.type == "cuda" else None
            ),
            "seconds": round(sum(entry["seconds"] for entry in entries), 1),
            "notes": [],
            "tables": tables_record(),
            "files": dict(sorted(files.items())),
        }
    )
