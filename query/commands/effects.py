"""`vitdex effects`: what every answer loses without every neuron, estimated for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, get_args

import click

from ...schemas.addressed import address_of
from ...schemas.effects import REPLACED, Replace, Stored
from ...schemas.errors import QueryError
from ...schemas.numbers_shown import number_of
from ...schemas.run_spec import Precision
from ...schemas.sizes import bytes_text
from ..causal.effects_place import done_before
from ..causal.effects_plan import EffectsPlan, plan_effects
from ..causal.effects_run import run_effects
from ..dissect.masks import open_masks
from ..index import Index
from .analysis_options import ANALYSIS_OPTIONS
from .options import INDEX, model_options
from .terminal import progress_bar, tell

if TYPE_CHECKING:
    from ..dissect.masks import Masks


@click.command("effects")
@INDEX
@click.option("--replace", default="mean", show_default=True, type=click.Choice(get_args(Replace)), help="By what.")
@ANALYSIS_OPTIONS["masks"](None)
@ANALYSIS_OPTIONS["names"](None)
@click.option("--class", "classes", multiple=True, metavar="CLASS", help="Only images of this class; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help="Only so many images.")
@click.option("--stored", default="float32", show_default=True, type=click.Choice(get_args(Stored)), help="On disk.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Of the passes; by default the index's.")
@click.option("--batch-size", type=click.IntRange(1), help="Images at once.")
@click.option("--overwrite", is_flag=True, help="Replace effects that are there.")
@click.option("--join", is_flag=True, help="Help other workers that make them by the same command, on any machine.")
@model_options
def effects_command(
    index_path: Path,
    replace: Replace,
    masks: Path | None,
    names: Path | None,
    classes: tuple[str, ...],
    limit: int | None,
    stored: Stored,
    precision: Precision | None,
    batch_size: int | None,
    overwrite: bool,
    join: bool,
    weights: Path | None,
    device: str | None,
) -> None:
    """Estimate what each image's answer loses without each neuron, and add it to the index.

    \b
    vitdex effects INDEX
    vitdex effects INDEX --replace zero --class coin --class bird --overwrite
    vitdex top INDEX --class coin --by effect

    One forward and one backward pass an image (attribution patching). The index itself stays as it is: effects lie in
    its folder extensions/effects and go with it. Stopped at any point, the same command goes on. Exact, for some
    neurons: vitdex ablate. Several machines: the same command with --join on each.
    """
    with Index(index_path, extensions=False) as index:
        of_objects = _masks(index, masks, names)
        plan = plan_effects(
            index, replace, of_objects, classes, limit, stored, precision, batch_size, overwrite,
            weights=weights, device=device,
        )  # fmt: skip
        for line in _planned(plan):
            tell(line)
        try:
            with progress_bar("effects", "img") as progress:
                place = run_effects(plan, progress, join, tell)
        except KeyboardInterrupt:
            same = "The same command without --overwrite" if overwrite else "The same command"
            raise click.Abort(f"{same} goes on where it was.") from None
        where = str(index_path) if address_of(index.layout.root) is None else index.name
        name = index.class_name(int(plan.classes[plan.classes >= 0][0]))
    tell(f"{place} is ready. Next:")
    tell(f"  vitdex top {quote(where)} --class {quote(name)} --by effect")


def _masks(index: Index, folder: Path | None, names: Path | None) -> Masks | None:
    """Those that are named; the packaged images have some of their own, others none."""
    if folder is None and names is None:
        with suppress(QueryError):
            return open_masks(index)
        return None
    return open_masks(index, folder, names)


def _planned(plan: EffectsPlan) -> Iterator[str]:
    """What a run is going to do, before it does."""
    spec = plan.spec
    neurons = f"{number_of(plan.units, 'neuron')} of {number_of(len(spec.layers), 'layer')}"
    yield f"{neurons}, each replaced by {REPLACED[spec.replace]}"
    parts = "no masks" if plan.masks is None else f"masks of {number_of(len(plan.masks.images), 'image')} of the index"
    yield f"{number_of(spec.images, 'image')} ({spec.chosen}) on {spec.device} in {spec.precision}; {parts}"
    yield f"effects {bytes_text(plan.size)}, memory about {bytes_text(plan.memory)}"
    if done := done_before(plan):
        yield f"going on after {number_of(done, 'image')}"
