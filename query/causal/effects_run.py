"""Make the extension effects: part by part, sealed at the end. Stopped at any point, the same call goes on.

measure_effects(Index("imagenet.vitdex"))      # then open the index again: Index(...).effects, key_neurons(by="effect")
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.database import tables_record
from ...schemas.effects import PLACES, Replace, Stored, effects_arrays
from ...schemas.extension import EXTENSION_ARRAYS, seal_extension
from ...schemas.facts import Files, file_facts
from ...schemas.manifest import content_sha256, this_machine
from ...schemas.progress import Progress, silent
from ...schemas.run_spec import Part, Precision
from ...schemas.storage.atomic_files import write_file, write_voucher
from ...schemas.storage.chunk_files import encode_file
from ...schemas.storage.only_writer import only_writer
from ..stored.stored_index import StoredIndex
from .effects_place import (
    begin,
    check_place,
    entries_of,
    entry_of,
    files_of,
    remove_leftovers,
    whole_arrays_are_there,
)
from .effects_plan import EffectsPlan, plan_effects
from .effects_tables import write_tables
from .object_masks import ObjectMasks

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.attribution import AttributionPatching


def measure_effects(
    index: StoredIndex,
    replace: Replace = "mean",
    masks: ObjectMasks | None = None,
    classes: Sequence[str | int] | None = None,
    limit: int | None = None,
    stored: Stored = "float32",
    precision: Precision | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Estimate what each image's answer loses without each neuron, and add it to the index: extensions/effects.

    One forward and one backward pass an image (attribution patching). The class asked about is the image's own, or the
    predicted one where it has none. The index itself is not touched; open it again to see the effects.

    Args:
        index: with stored inputs and a head.
        replace: what stands in place of the activation: 'mean' over all images (of the patches for patches, of each
            prefix token for itself), or 'zero'.
        masks: open_masks(index), for the shares of the object, of the background and of the tokens before the patches.
        classes: only images that are asked about these.
        limit: only so many images.
        stored: type of the arrays on disk, 'float32' or 'float16'.
        precision: of the passes; by default the index's own.
        batch_size: images at once.
        overwrite: replace effects that are there.
        weights, device: see open_model.
        progress: told images done, and all images.

    Returns:
        The extension's folder.

    Raises:
        QueryError: an index without what is needed, unknown classes, or no room.
        BadIndex: effects are there already, or an unfinished run with other settings.
        ModelError: other weights than those of the index.

    Example:
        >>> measure_effects(index, masks=open_masks(index))
    """
    plan = plan_effects(
        index, replace, masks, classes, limit, stored, precision, batch_size, overwrite, weights=weights, device=device
    )
    return run_effects(plan, progress)


def run_effects(plan: EffectsPlan, progress: Progress | None = None) -> Path:
    """Fill the extension that is planned, or go on with it. Returns its folder."""
    layout = plan.layout
    check_place(plan)
    layout.parts.mkdir(parents=True, exist_ok=True)
    with only_writer(layout):
        check_place(plan)  # again: another run may have ended since
        begin(plan)
        _fill(plan, progress or silent)
        _finish(plan)
    return layout.root


def _replacements(plan: EffectsPlan) -> dict[str, Tensor]:
    """What stands in the neurons' place, by layer: [prefix token and then patch, unit]."""
    import torch

    from ..model.mean_activations import mean_activations

    if plan.spec.replace == "mean":
        return mean_activations(plan.live, list(plan.spec.layers))
    rows = plan.index.spec.prefix + 1
    return {name: torch.zeros(rows, plan.live.layer(name).units) for name in plan.spec.layers}


def _fill(plan: EffectsPlan, progress: Progress) -> None:
    """Run and write every part that is not done. A part's files come first, then the entry that vouches for them."""
    parts = [part for part in plan.spec.parts if entry_of(plan, part) is None]
    done = plan.spec.images - sum(part.images for part in parts)
    if not parts and whole_arrays_are_there(plan):
        return
    from ..model.attribution import AttributionPatching

    replacements = _replacements(plan)
    _write_whole(plan, {f"{name}/replacement": values.numpy() for name, values in replacements.items()})
    attribution = AttributionPatching(plan.live, plan.spec.layers, replacements, plan.spec.precision)
    for part in parts:
        started, values = time.monotonic(), _blank(plan, part)
        for start in range(part.start, part.stop, plan.spec.batch_size):
            rows = np.arange(start, min(start + plan.spec.batch_size, part.stop))
            _one_batch(plan, attribution, rows, rows - part.start, values)
            done += len(rows)
            progress(done, plan.spec.images)
        files = _write_part(plan, part, values)
        entry = {"part": part.index, "files": files, "seconds": round(time.monotonic() - started, 3)}
        write_voucher(plan.layout.entry(part.index), json.dumps(entry, indent=1).encode())


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


def _write_part(plan: EffectsPlan, part: Part, values: dict[str, NDArray[Any]]) -> Files:
    specs = effects_arrays(plan.spec, plan.index.spec)
    files = Files()
    for path, of_part in values.items():
        name = specs[path].part_file(part.index)
        files[name] = write_file(plan.layout.root / name, encode_file(of_part, specs[path]))
    return files


def _write_whole(plan: EffectsPlan, arrays: dict[str, NDArray[Any]]) -> None:
    specs = effects_arrays(plan.spec, plan.index.spec)
    for path, values in arrays.items():
        name = specs[path].part_file(0)
        write_file(plan.layout.root / name, encode_file(values, specs[path]))


def _finish(plan: EffectsPlan) -> None:
    """Metadata, tables; last the manifest, without which there is no extension."""
    from ...schemas.storage.zarr_group import write_metadata

    layout, specs = plan.layout, effects_arrays(plan.spec, plan.index.spec)
    entries = entries_of(plan)
    files = files_of(entries)
    for array in (one for one in specs.values() if not one.by_part):
        files[array.file_names[0]] = file_facts(layout.root / array.file_names[0])
    files |= write_metadata(layout.root, EXTENSION_ARRAYS, specs)
    files |= write_tables(plan)
    for path in (layout.run, *(layout.entry(part.index) for part in plan.spec.parts)):
        files[path.relative_to(layout.root).as_posix()] = file_facts(path)
    import torch

    device = plan.live.device
    manifest = seal_extension(
        {
            "name": layout.name,
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
    remove_leftovers(layout)  # before it is finished: a run that is stopped here goes on
    write_voucher(layout.manifest, manifest)
