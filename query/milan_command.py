"""`vitdex milan export | import | sheet`."""

from __future__ import annotations

from pathlib import Path

import click

from ..schemas.layout import size as bytes_text
from .console import OUT
from .index import Index

FOLDER = click.Path(path_type=Path)


@click.group()
def milan() -> None:
    """Exemplar sets for MILAN, descriptions back, figure sheets."""


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


@milan.command("export")
@OUT
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--layer", "layers", multiple=True, required=True, help="Such as blocks.7.mlp.fc1; repeat for more.")
@click.option("--units", callback=unit_list, metavar="A-B,...", help="All by default.")
@click.option("-k", "k", default=15, show_default=True, help="Images a neuron.")
@click.option("--size", default=224, show_default=True, type=click.IntRange(1), help="Pixels of a side.")
@click.option("--exact", is_flag=True, help="Maps and thresholds anew in float32: the model runs over all images.")
@click.option("--weights", type=FOLDER, help="A safetensors file instead of timm's hub, where the model runs.")
@click.option("--device", default="cpu", show_default=True)
def export_command(
    out: Path,
    folder: Path,
    layers: tuple[str, ...],
    units: list[int] | None,
    k: int,
    size: int,
    exact: bool,
    weights: Path | None,
    device: str,
) -> None:
    """Write exemplar sets DIR/LAYER for MILAN (DIR = DATA_DIR/MODEL/DATASET)."""
    from .milan import plan_milan, write_milan

    with Index(out) as index:
        plan = plan_milan(index, folder, layers, units, k, size, exact)
        neurons = sum(map(len, plan.units.values()))
        click.echo(
            f"{len(plan.units)} layers, {neurons:,} neurons x {k} images of {size} x {size}: "
            f"{bytes_text(plan.bytes)} on disk, {bytes_text(4 * plan.bytes)} in MILAN's memory"
        )
        write_milan(plan, weights, device)
    click.echo(f"{folder} is ready.")


@milan.command("import")
@OUT
@click.argument("file", type=FOLDER, metavar="CSV")
@click.option("--source", required=True, help="Whose descriptions they are; they replace the earlier ones of it.")
@click.option("--note", help="What made them, such as version, base model and temperature.")
def import_command(out: Path, file: Path, source: str, note: str | None) -> None:
    """Put descriptions (layer,unit,description) into the table `descriptions`."""
    from .descriptions import import_descriptions

    with Index(out) as index:
        count = import_descriptions(index, file, source, note)
    click.echo(f"{count:,} descriptions by '{source}'")


@milan.command("sheet")
@OUT
@click.argument("layer")
@click.argument("unit", type=int)
@click.option("-o", "picture", type=FOLDER, default="sheet.png", show_default=True)
@click.option("-k", "k", default=15, show_default=True, help="Images.")
def sheet_command(out: Path, layer: str, unit: int, picture: Path, k: int) -> None:
    """Draw a neuron's exemplars with their masked regions, and its descriptions."""
    from .milan_sheet import save_sheet

    with Index(out) as index:
        save_sheet(index, layer, unit, picture, k)
    click.echo(str(picture))
