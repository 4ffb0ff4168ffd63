"""`vitdex info` and `vitdex verify`: what an index is, whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from ...schemas.addressed import address_of, shown_address
from ...schemas.array_specs import part_files
from ...schemas.database import TABLES_SQL, declared, written_by
from ...schemas.effects import EFFECTS_SQL, REPLACED
from ...schemas.errors import REPAIR, DamagedIndex
from ...schemas.extension import EXTENSIONS, extensions_in, read_extension
from ...schemas.integrity import Finding, listed_files, verify
from ...schemas.layout import Layout
from ...schemas.manifest import Manifest, read_manifest
from ...schemas.numbers_shown import number_of
from ...schemas.run_spec import RunSpec
from ...schemas.sizes import bytes_text
from ...schemas.storage.elsewhere import BUCKETS
from ..stored.stored_index import StoredIndex
from .options import INDEX
from .terminal import progress_bar, tell


@click.command("info")
@INDEX
@click.option("--tables", is_flag=True, help="The tables and their columns.")
def info_command(index_path: Path, tables: bool) -> None:
    """What an index holds, how it was made, what failed."""
    with StoredIndex(index_path) as index:
        for line in _tables(index) if tables else _facts(index):
            tell(line)


def _tables(index: StoredIndex) -> Iterator[str]:
    added = declared(EFFECTS_SQL) if index.effects else ()
    for table in sorted((*declared(TABLES_SQL), *added, "key_neurons")):
        yield f"{table}: {', '.join(row[0] for row in index.tables.rows(f'DESCRIBE {table}', []))}"


def _facts(index: StoredIndex) -> Iterator[str]:
    spec, made = index.spec, index.manifest
    images, seconds = made["images"], made["seconds"]
    size = sum(count for count, _ in made["files"].values())
    ((classes,),) = index.tables.rows("SELECT count(*) FROM classes", [])
    rate = f", {images['indexed'] / seconds:.1f} images/s" if seconds and "source_index" not in made else ""
    lines = {
        "model": f"{spec.model}, weights {spec.weights_sha256[:12]}",
        "layers": f"{_layers(spec)}; {number_of(spec.neurons, 'neuron')}",
        "patches": f"{spec.grid[0]} x {spec.grid[1]}, {number_of(spec.prefix, 'token')} before them",
        "images": f"{images['indexed']:,} indexed, {images['failed']} failed, {len(images['skipped'])} skipped, "
        f"{images['found']:,} found in {spec.source}",
        "classes": f"{classes} ({spec.class_names})",
        "head": f"{spec.head}; reads {spec.readout}",
        **_source(made),
        "accuracy": _accuracy(made),
        "maps": spec.maps,
        **_effects(index),
        "made": f"{made['created']} on {spec.device} in {spec.precision}, {seconds:.0f} s{rate}",
        "tables": f"written by {written_by(made)}",
        "size": f"{bytes_text(size)} in {number_of(len(made['files']), 'file')}",
        "versions": ", ".join(f"{name} {number}" for name, number in spec.versions.items()),
    }
    for name, value in lines.items():
        yield f"{name:9} {value}"
    for path, reason in index.tables.rows("FROM failures LIMIT 20", []):
        yield f"failed    {path!r}: {reason}"
    for one in images["skipped"][:20]:
        yield f"skipped   {': '.join(one)}"


def _layers(spec: RunSpec) -> str:
    """How many, the first and the last."""
    first, last = spec.layers[0].name, spec.layers[-1].name
    return f"{len(spec.layers)}, {first}{f' ... {last}' if len(spec.layers) > 1 else ''}"


def _source(manifest: Manifest) -> dict[str, str]:
    """Of an index with another head, the one whose arrays it shares."""
    source = manifest.get("source_index")
    return {} if source is None else {"arrays": f"those of {source['name']}, manifest {source['sha256'][:12]}"}


def _effects(index: StoredIndex) -> dict[str, str]:
    """What `vitdex effects` has added, where it has."""
    if index.effects is None:
        return {}
    spec, made = index.effects.spec, index.effects.manifest
    size = sum(count for count, _ in made["files"].values())
    which = "" if spec.chosen == "all images" else f" ({spec.chosen})"
    masks = ", with masks" if spec.masks_sha256 else ""
    images = f"of {number_of(spec.images, 'image')}{which}{masks}, each neuron replaced by {REPLACED[spec.replace]}"
    return {"effects": f"{images}; {bytes_text(size)}, made {made['created']} in {made['seconds']:.0f} s"}


def _accuracy(manifest: Manifest) -> str:
    """How often the model is right, as measured when the index was made."""
    measured = manifest.get("accuracy")
    if measured is None:
        return "not measured: no image has a class, or the model has no head"
    top5 = "" if measured["top5"] is None else f", top-5 {measured['top5']:.1%}"
    images = number_of(measured["images"], "image")
    return f"top-1 {measured['top1']:.1%}{top5} of {images}; by chance {measured['chance']:.1%}"


@click.command("verify")
@INDEX
@click.option("--quick", is_flag=True, help="Compare sizes alone.")
def verify_command(index_path: Path, quick: bool) -> None:
    """Compare every file of an index with its checksum.

    Exit status: 0 all is well, 1 something is damaged, missing or foreign, 2 not a finished index.
    """
    with nullcontext() if quick else progress_bar("checking", "B") as progress:
        findings = verify(index_path, quick, progress=progress)
    if findings:
        for line in report(Layout(index_path), findings):
            tell(line)
        sys.exit(1)
    layout = Layout(index_path)
    manifest = read_manifest(layout)
    extensions = extensions_in(layout.root)
    every = [listed_files(manifest), *(listed_files(read_extension(one, manifest)) for one in extensions)]
    size = bytes_text(sum(count for files in every for count, _ in files.values()))
    added = "".join(f", with {one.name}" for one in extensions)
    how = " (sizes alone)" if quick else ""
    address = address_of(index_path)
    where = index_path if address is None else shown_address(address)
    tell(f"{where} is whole: {number_of(sum(map(len, every)), 'file')}, {size}{added}{how}")


def report(layout: Layout, findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, with its part, then what to do."""
    parts = _parts(layout)
    lines = []
    for finding in findings:
        path = finding.path if finding.path.isprintable() else repr(finding.path)
        part = f" (part {parts[finding.path]})" if finding.path in parts else ""
        lines.append(f"{finding.fault:8} {path}{part}: {finding.detail}")
    foreign = [finding for finding in findings if finding.fault == "foreign"]
    if foreign:
        lines.append(
            f"{len(foreign)} foreign: move what is yours elsewhere; a stopped run's leftovers go with --repair."
        )
    faulty = [finding for finding in findings if finding.fault != "foreign"]
    own = [finding for finding in faulty if not finding.path.startswith(f"{EXTENSIONS}/")]
    if own:
        redone = sorted({parts[f.path] for f in own if f.path in parts})
        some = f" It redoes part{'s' * (len(redone) > 1)} {', '.join(map(str, redone))}." if redone else ""
        address = address_of(layout.root)
        if address is None or address.startswith(BUCKETS):
            remedy = f"{REPAIR[0].lower()}{REPAIR[1:]}{some}"
        else:
            remedy = "publish it again from a copy that is whole, or make it again with --overwrite."
        lines.append(f"{len(own)} damaged or missing: {remedy}")
    for extension in extensions_in(layout.root):
        if of_it := [finding for finding in faulty if finding.path.startswith(f"{extension.inside}/")]:
            lines += [f"{len(of_it)} damaged or missing in {extension.inside}: {extension.remedy}"]
    return lines


def _parts(layout: Layout) -> dict[str, int]:
    """The part of every file that belongs to one; nothing where the manifest cannot tell."""
    try:
        spec = RunSpec.from_json(read_manifest(layout)["run"])
    except DamagedIndex:
        return {}
    parts = {path: part.index for part in spec.parts for path in part_files(spec, part.index)}
    return parts | {str(layout.entry(p.index).relative_to(layout.root)): p.index for p in spec.parts}
