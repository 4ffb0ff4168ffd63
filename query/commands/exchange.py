"""`vitdex export` and `vitdex import`: what other tools read, and what comes back from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ...schemas.numbers_shown import number_of
from ...schemas.sizes import bytes_text
from ..export.clip_dissect import READINGS, Reading, export_clip_dissect
from ..export.descriptions import import_descriptions
from ..export.tables import FORMATS, Format, export_tables
from ..index import Index
from ..stored.names import Neuron
from .files import FIGURES, check_output
from .options import FILE, INDEX, LAYERS, OUT, PICTURE, model_options
from .output import save_picture
from .terminal import progress_bar, say, tell


@click.group("export")
def export_group() -> None:
    """Write what other tools read: tables, exemplar sets for MILAN, activations for CLIP-Dissect, a map of neurons."""


@export_group.command("tables")
@INDEX
@OUT
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="parquet", show_default=True)
@click.option("--spreadsheet", is_flag=True, help="With --format csv: ' before texts that would be formulas.")
def tables_command(index_path: Path, out: Path, tables: tuple[str, ...], form: Format, spreadsheet: bool) -> None:
    """Write tables to OUT/TABLE.parquet or .csv, sorted, with their types in OUT/schema.sql."""
    with Index(index_path) as index:
        for table, rows in export_tables(index, out, form, tables, spreadsheet).items():
            tell(f"{table}.{form}  {number_of(rows, 'row')}")


@export_group.command("clip-dissect")
@INDEX
@OUT
@LAYERS
@click.option("--reading", "readings", type=click.Choice(list(READINGS)), multiple=True, help="All by default.")
@click.option("--probe", help="CLIP-Dissect's name of the images (--d_probe). The index's source by default.")
@click.option("--model", help="CLIP-Dissect's name of the model (--target_model). The index's by default.")
def clip_dissect_command(
    index_path: Path,
    out: Path,
    layers: tuple[str, ...],
    readings: tuple[Reading, ...],
    probe: str | None,
    model: str | None,
) -> None:
    """Write OUT/{cls,mean,max}/PROBE_MODEL_LAYER.pt: float32 [image, unit], rows in image order."""
    with Index(index_path) as index:
        for file in export_clip_dissect(index, out, layers, readings, probe, model):
            tell(str(file))
        for path, _ in index.sql("FROM failures").itertuples(index=False):
            say(f"no row for {path}, which could not be read")


def unit_list(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Unit numbers such as 0-63,100."""
    if value is None:
        return None
    units: list[int] = []
    for piece in value.split(","):
        first, _, last = piece.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise click.BadParameter(f"'{value}' is no list of units such as 0-63,100")
        units += range(int(first), int(last or first) + 1)
    return units


@export_group.command("milan")
@INDEX
@OUT
@LAYERS
@click.option("--units", callback=unit_list, metavar="A-B,...", help="All by default.")
@click.option("-k", default=15, show_default=True, type=click.IntRange(1), help="Images a neuron.")
@click.option("--size", default=224, show_default=True, type=click.IntRange(1), help="Pixels of a side.")
@click.option("--exact", is_flag=True, help="Maps and thresholds anew in float32: the model runs over all images.")
@model_options
def milan_command(
    index_path: Path,
    out: Path,
    layers: tuple[str, ...],
    units: list[int] | None,
    k: int,
    size: int,
    exact: bool,
    weights: Path | None,
    device: str | None,
) -> None:
    """Write exemplar sets OUT/LAYER for MILAN (OUT = DATA_DIR/MODEL/DATASET)."""
    from ..export.milan import plan_milan, write_milan

    with Index(index_path) as index:
        plan = plan_milan(index, out, layers, units, k, size, exact)
        neurons = sum(map(len, plan.units.values()))
        tell(
            f"{number_of(len(plan.units), 'layer')}, {number_of(neurons, 'neuron')} x {number_of(k, 'image')} of "
            f"{size} x {size}: "
            f"{bytes_text(plan.bytes)} on disk, {bytes_text(4 * plan.bytes)} in MILAN's memory"
        )
        with progress_bar(out.name, "B") as progress:
            write_milan(plan, weights=weights, device=device, progress=progress)
    tell(f"{out} is ready.")


@export_group.command("milan-sheet")
@INDEX
@click.argument("neuron", metavar="LAYER:UNIT")
@click.option("-k", default=15, show_default=True, type=click.IntRange(1), help="Images.")
@model_options
@PICTURE
def milan_sheet_command(
    index_path: Path, neuron: str, k: int, weights: Path | None, device: str | None, output: Path
) -> None:
    """Draw what MILAN is shown of a neuron: its exemplars with their masked regions, and its descriptions."""
    from ..export.milan_sheet import milan_sheet

    check_output(output, FIGURES)
    with Index(index_path) as index:
        save_picture(milan_sheet(index, Neuron.of(neuron), k, weights=weights, device=device), output)


@export_group.command("embedding-atlas")
@INDEX
@OUT
@click.option(
    "--space", type=click.Choice(["vectors", "scores"]), default="vectors", show_default=True,
    help="By what neurons lie together on the map: value vectors, or what these say of the classes.",
)  # fmt: skip
def embedding_atlas_command(index_path: Path, out: Path, space: Literal["vectors", "scores"]) -> None:
    """Write all neurons to OUT (.parquet), a row each, for Apple's Embedding Atlas: map, image, neighbours, numbers.

    Look at it with: embedding-atlas OUT --x x --y y --text text --image image --neighbors neighbors
    """
    from ..atlas.embedding import export_embedding_atlas

    check_output(out, (".parquet",))
    with Index(index_path) as index, progress_bar(out.name, "group") as progress:
        rows = export_embedding_atlas(index, out, space, progress=progress)
    tell(f"{out}: {number_of(rows, 'row')}, {bytes_text(out.stat().st_size)}")


@click.group("import")
def import_group() -> None:
    """Put into the notes beside an index what other tools have found."""


@import_group.command("descriptions")
@INDEX
@click.argument("file", type=FILE, metavar="CSV")
@click.option("--source", required=True, help="Whose descriptions they are; they replace the earlier ones of it.")
@click.option("--note", help="What made them, such as version, base model and temperature.")
def descriptions_command(index_path: Path, file: Path, source: str, note: str | None) -> None:
    """Put descriptions (layer,unit,description) into the table `descriptions`."""
    with Index(index_path) as index:
        count = import_descriptions(index, file, source, note)
    tell(f"{number_of(count, 'description')} by '{source}'")
