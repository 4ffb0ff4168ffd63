"""Exemplar sets for MILAN (Hernandez et al. 2022, arXiv 2201.11114), written straight from an index.

plan = plan_milan(index, "exports/vit/imagenet", ["blocks.7.mlp.fc1"], units=range(64))    # checked and sized
write_milan(plan)                                                                          # images.npy, masks.npy, ...

A set is ROOT/LAYER/{images,masks,units}.npy with ids.csv and activations.csv; MILAN takes every folder in ROOT for a
layer. It grows in ROOT.unfinished and gets its name when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ...schemas.storage.room import check_room
from ..lookups.neuron import quantiles
from ..stored.maps import needs_inputs
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .milan_files import top_exemplars, write_images, write_masks, write_small

if TYPE_CHECKING:
    from ..model.live_model import LiveModel

K, SIZE = 15, 224  # MILAN's defaults


@dataclass(frozen=True)
class MilanPlan:
    """What an export will write."""

    index: StoredIndex
    root: Path
    units: dict[str, NDArray[np.int64]]  # of each layer, ascending
    k: int
    size: int
    exact: bool

    @property
    def growing(self) -> Path:
        """Where the set lies until it is whole."""
        return self.root.with_name(f"{self.root.name}.unfinished")

    @property
    def exemplars(self) -> int:
        return self.k * sum(len(units) for units in self.units.values())

    @property
    def bytes(self) -> int:
        """Of images and masks; the other files are small."""
        return self.exemplars * 4 * self.size**2

    @property
    def live(self) -> bool:
        """Whether the model runs: for exact masks, and where the index stores no maps."""
        return self.exact or self.index.spec.maps == "none"


def export_milan(
    index: StoredIndex,
    root: str | Path,
    layers: Sequence[str],
    units: Sequence[int] | None = None,
    k: int = K,
    size: int = SIZE,
    exact: bool = False,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> MilanPlan:
    """Write the k top exemplars of neurons as a data set for MILAN, to ROOT/LAYER.

    Exemplars are the index's own (largest patch, distinct images, best first). A mask is where the map, upsampled with
    zeros around it, exceeds the unit's 0.99 quantile.

    Args:
        root: a folder; what stands in it must be other layers of the same k and size.
        layers: such as ['blocks.7.mlp.fc1'].
        units: of each layer; None for all.
        k: images a neuron.
        size: pixels of a side.
        exact: maps and quantiles computed anew in float32, which runs the model over all images.
        weights, device: see open_model.
        progress: told bytes written, and all bytes.

    Returns:
        The plan that was carried out.

    Raises:
        QueryError: something cannot be done; nothing was written.

    Example:
        >>> export_milan(index, "exports/vit/sample", ["blocks.5.mlp.fc1"], units=range(64))
    """
    plan = plan_milan(index, root, layers, units, k, size, exact)
    write_milan(plan, weights=weights, device=device, progress=progress)
    return plan


def plan_milan(
    index: StoredIndex,
    root: str | Path,
    layers: Sequence[str],
    units: Sequence[int] | None = None,
    k: int = K,
    size: int = SIZE,
    exact: bool = False,
) -> MilanPlan:
    """Check an export, as export_milan describes it, without writing anything."""
    at_least(1, size=size)
    if not layers:
        raise QueryError("no layer is named", "Give --layer, once or more.")
    needs_inputs(index.spec)
    chosen = {layer: _units(index, layer, units) for layer in layers}
    check_k(index, layers[0], k)
    plan = MilanPlan(index, Path(root), chosen, k, size, exact)
    _check_root(plan)
    check_room(plan.root.absolute().parent, plan.bytes, "choose fewer units (--units)")
    return plan


def check_k(index: StoredIndex, layer: str, k: int) -> None:
    """Raise QueryError where a neuron has fewer than k exemplars, as MILAN would fail on them."""
    found = index.sql(
        "SELECT count(*) AS n FROM exemplars WHERE layer = ? AND unit = 0 AND side = 'top' AND token = 'patch'", [layer]
    ).n[0]
    if not 1 <= k <= found:
        raise QueryError(f"{k} images a neuron are asked for and the index keeps {found}", f"Choose -k 1 to {found}.")


def _units(index: StoredIndex, layer: str, units: Sequence[int] | None) -> NDArray[np.int64]:
    count = index.neuron_layer(layer, 0).units
    chosen = np.unique(np.asarray(range(count) if units is None else units, np.int64))
    if not len(chosen):
        raise QueryError("no unit is named", "Give --units, such as 0-63, or leave it out for all.")
    for unit in (chosen[0], chosen[-1]):
        index.neuron_layer(layer, int(unit))
    return chosen


def _check_root(plan: MilanPlan) -> None:
    """What stands in ROOT must be other layers of the same shape: MILAN loads them all together."""
    if plan.growing.is_symlink() or plan.growing.is_file():
        raise QueryError(f"{plan.growing} is in the way: a link or a file", "Move it away.")
    if not plan.root.exists():
        return
    if not plan.root.is_dir():
        raise QueryError(f"{plan.root} is a file", "Name a folder.")
    for folder in sorted(p for p in plan.root.iterdir() if p.is_dir()):
        if folder.name in plan.units:
            raise QueryError(f"{folder} is already there", "Remove it or name another folder.")
        try:
            shape = np.load(folder / "images.npy", mmap_mode="r").shape
        except (OSError, ValueError):
            raise QueryError(
                f"{folder} is no exemplar set, and MILAN would take it for one", "Name another folder."
            ) from None
        if shape[1:] != (plan.k, 3, plan.size, plan.size):
            raise QueryError(
                f"{folder} holds {shape[1]} images of {shape[-2]} x {shape[-1]} a neuron, and all layers of a folder "
                f"must agree",
                f"Name another folder, or choose -k {shape[1]} --size {shape[-1]}.",
            )


def write_milan(
    plan: MilanPlan,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the set. What a killed run has left is removed first. `progress` counts bytes."""
    live = None
    if plan.live:
        from ..model.live_model import open_model

        live = open_model(plan.index, weights, device)
    growing = plan.growing
    if growing.exists():
        shutil.rmtree(growing)
    try:
        for layer in plan.units:
            (growing / layer).mkdir(parents=True)
        _fill(plan, live, progress or silent)
    except OSError:  # such as a full disk, of which this is the most
        shutil.rmtree(growing, ignore_errors=True)
        raise
    _publish(plan)


def _fill(plan: MilanPlan, live: LiveModel | None, progress: Progress) -> None:
    """Write all files of a set."""
    growing, thresholds = plan.growing, _thresholds(plan, live)
    written = 0

    def wrote(count: int) -> None:
        nonlocal written
        written += count
        progress(written, plan.bytes)

    for layer, units in plan.units.items():
        top = top_exemplars(plan.index, layer, units, plan.k)
        write_small(growing / layer, top)
        write_masks(growing / layer / "masks.npy", plan.index, top, thresholds[layer], plan.size, live, wrote)
        write_images(growing / layer / "images.npy", plan.index, top, plan.size, wrote)


def _thresholds(plan: MilanPlan, live: LiveModel | None) -> dict[str, NDArray[np.float32]]:
    """Each layer's thresholds [unit]: MILAN's quantile, as counted by the index or computed anew."""
    if plan.exact:
        from ..model.exact_thresholds import exact_thresholds

        assert live is not None
        return exact_thresholds(live, plan.units)
    return {name: quantiles(plan.index, name, units.tolist(), "q99") for name, units in plan.units.items()}


def _publish(plan: MilanPlan) -> None:
    """Give the finished set its name: at once where ROOT is new, else layer by layer."""
    if not plan.root.exists():
        plan.growing.rename(plan.root)
        return
    for layer in plan.units:
        (plan.growing / layer).rename(plan.root / layer)
    plan.growing.rmdir()
