"""Activations for CLIP-Dissect (Oikarinen & Weng 2023, arXiv 2204.10965): tensors [image, unit].

It looks for `{probe}_{model}_{layer}.pt`, with `_max` before `.pt` in its max mode. Of a ViT both its modes take the
CLS token; cls, mean and max lie in folders of their own, each layer in its own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...schemas.errors import QueryError
from ...schemas.file_names import file_name
from ...schemas.storage.plain_files import replacing
from ...schemas.storage.room import check_room
from ..stored.stored_index import StoredIndex

Reading = Literal["cls", "mean", "max"]
READINGS: dict[Reading, str] = {"cls": "", "mean": "", "max": "_max"}  # and the suffix of CLIP-Dissect's file


def export_clip_dissect(
    index: StoredIndex,
    out: str | Path,
    layers: Sequence[str],
    readings: Sequence[Reading] | None = None,
    probe: str | None = None,
    model: str | None = None,
) -> list[Path]:
    """Write activations for CLIP-Dissect: tensors float32 [image, unit], and OUT/images.txt, the rows' paths.

    Args:
        out: a folder, made where there is none.
        layers: such as ['blocks.7.mlp.fc1'].
        readings: 'cls' (the CLS token's value), 'mean' and 'max' (over the patches); by default all that the index has.
        probe, model: the names that CLIP-Dissect is called with; by default the index's.

    Returns:
        The tensors' files. Rows are in image order; unreadable images have none.

    Raises:
        QueryError: an unknown layer, or a reading that the index does not have.

    Example:
        >>> export_clip_dissect(index, "clip", ["blocks.5.mlp.fc1"], ["mean"])
    """
    import torch

    held = [r for r in READINGS if r != "cls" or index.spec.cls]
    for reading in readings or held:
        if reading not in held:
            raise QueryError(f"this index has no '{reading}'", f"One of {', '.join(held)}.")
    width = sum(index.neuron_layer(layer, 0).units for layer in layers)
    check_room(Path(out), 4 * index.spec.images * width * len(readings or held), "write fewer layers")
    probe, model = (name.replace("/", "_") for name in (probe or index.spec.source, model or index.spec.model))
    valid = index.reader.whole("valid")
    paths = index.sql("SELECT path FROM images ORDER BY image_id").path[valid]
    Path(out).mkdir(parents=True, exist_ok=True)
    with replacing(Path(out) / "images.txt") as part:
        part.write_text("".join(f"{path}\n" for path in paths), "utf-8", "surrogateescape")
    written = []
    for reading in readings or held:
        folder = Path(out) / reading
        folder.mkdir(exist_ok=True)
        for layer in layers:
            target = folder / file_name(f"{probe}_{model}_{layer}{READINGS[reading]}.pt")
            values = torch.from_numpy(index.reader.whole(f"{layer}/{reading}")[valid])
            with replacing(target) as part, part.open("wb") as file:  # given a path, torch hides why it failed
                torch.save(values, file)
            written.append(target)
    return written
