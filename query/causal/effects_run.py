"""Make the extension effects: part by part, sealed at the end. Stopped at any point, the same call goes on.

measure_effects(Index("imagenet.vitdex"))      # then open the index again: Index(...).effects, key_neurons(by="effect")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...schemas.effects import Replace, Stored
from ...schemas.progress import Progress, counted
from ...schemas.run_spec import Precision
from ...schemas.storage.only_writer import only_writer
from ...schemas.workers.filling import Filling
from ...schemas.workers.joint import check_alone
from ..stored.stored_index import StoredIndex
from .effects_fill import fill, finish
from .effects_join import join_effects
from .effects_place import EffectsSite, begin, check_place, entry_of, site_of
from .effects_plan import EffectsPlan, plan_effects
from .object_masks import ObjectMasks


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
    join: bool = False,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Path | str:
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
        join: help other workers that make these effects by the same call, on any machine, until they are finished.
        weights, device: see open_model.
        progress: told images done, and all images.

    Returns:
        The extension's folder; of an index at an address its address.

    Raises:
        QueryError: an index without what is needed, unknown classes, or no room.
        BadIndex: effects are there already, or an unfinished run with other settings; an address that cannot be
            written to.
        BadRequest: `join` with `overwrite`.
        ModelError: other weights than those of the index.

    Example:
        >>> measure_effects(index, masks=open_masks(index))
    """
    plan = plan_effects(
        index, replace, masks, classes, limit, stored, precision, batch_size, overwrite, weights=weights, device=device
    )
    return run_effects(plan, progress, join)


def run_effects(
    plan: EffectsPlan,
    progress: Progress | None = None,
    join: bool = False,
    told: Callable[[str], object] = lambda line: None,
) -> Path | str:
    """Fill the extension that is planned, or go on with it. Returns where it lies."""
    with site_of(plan) as site:
        if join or site.address is not None:  # where leases alone keep runs apart
            join_effects(plan, site, progress, told)
        else:
            _alone(plan, site, progress)
        return site.layout.root if site.address is None else site.name


def _alone(plan: EffectsPlan, site: EffectsSite, progress: Progress | None) -> None:
    check_place(plan, site)
    site.layout.parts.mkdir(parents=True, exist_ok=True)
    with only_writer(site.layout):
        check_place(plan, site)  # again: another run may have ended since
        check_alone(Filling(site.layout), plan.overwrite)
        begin(plan, site)
        parts = [part for part in plan.spec.parts if entry_of(plan, site, part) is None]
        done = plan.spec.images - sum(part.images for part in parts)
        fill(plan, site, parts, counted(progress, plan.spec.images, done))
        finish(plan, site)
