"""`vitdex export` (tables) and `vitdex clip-dissect export`."""

from __future__ import annotations

from pathlib import Path

import click

from .console import OUT
from .index import Index

FOLDER = click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")


@click.command()
@OUT
@FOLDER
@click.argument("tables", nargs=-1)
@click.option("--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True)
def export(out: Path, folder: Path, tables: tuple[str, ...], form: str) -> None:
    """Write tables to DIR/TABLE.parquet or .csv, sorted, with their types in DIR/schema.sql."""
    from .tables_out import export_tables

    with Index(out) as index:
        for table, rows in export_tables(index, folder, form, tables).items():
            click.echo(f"{table}.{form}  {rows:,} rows")


@click.group("clip-dissect")
def clip_dissect() -> None:
    """Activations for CLIP-Dissect."""


@clip_dissect.command("export")
@OUT
@FOLDER
@click.option("--layer", "layers", multiple=True, required=True, help="Such as blocks.7.mlp.fc1; repeat for more.")
@click.option("--reading", "readings", type=click.Choice(["cls", "mean", "max"]), multiple=True, help="All by default.")
@click.option("--probe", help="CLIP-Dissect's name of the images (--d_probe). The index's source by default.")
@click.option("--model", help="CLIP-Dissect's name of the model (--target_model). The index's by default.")
def clip_dissect_export(
    out: Path,
    folder: Path,
    layers: tuple[str, ...],
    readings: tuple[str, ...],
    probe: str | None,
    model: str | None,
) -> None:
    """Write DIR/{cls,mean,max}/PROBE_MODEL_LAYER.pt: float32 [image, unit], rows in image order."""
    from .clip_dissect import export_clip_dissect

    with Index(out) as index:
        for file in export_clip_dissect(index, folder, layers, readings, probe, model):
            click.echo(str(file))
        for path, _ in index.sql("FROM failures").itertuples(index=False):
            click.echo(f"no row for {path}, which could not be read")
