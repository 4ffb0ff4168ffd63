"""Is an index still what it was when it was made?

findings = verify("imagenet.vitdex")      # [] where every file is as the manifest says
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..schemas.errors import DamagedIndex
from ..schemas.integrity import Finding, check_files, listed_files
from ..schemas.layout import Layout, part_files
from ..schemas.manifest import REPAIR, read_manifest, seal_manifest
from ..schemas.records import RunSpec
from .console import OUT

Started = Callable[[int], Callable[[int], object]]  # given all bytes, returns what is told the bytes read


def verify(path: str | Path, quick: bool = False, started: Started = lambda total: lambda count: None) -> list[Finding]:
    """Hold every file of an index against its checksum in the manifest; `quick`: against its size alone.

    Returns what is damaged, missing or foreign, by path; where the manifest is damaged, that alone. Raises BadIndex
    where there is no finished index of this format, or where the manifest names files outside it.
    """
    layout = Layout(Path(path))
    try:
        manifest = read_manifest(layout)
    except DamagedIndex:
        return [_bad_manifest(layout)]
    files = listed_files(manifest, layout.root)
    findings = check_files(layout, files, quick, started(sum(size for size, _ in files.values())))
    if layout.manifest.read_bytes() != seal_manifest(manifest):  # the same values in other bytes: 1E5 for 1e5
        findings.append(_bad_manifest(layout))
    return findings


def _bad_manifest(layout: Layout) -> Finding:
    return Finding(layout.manifest.name, "damaged", "it does not match its own checksum")


@click.command("verify")
@OUT
@click.option("--quick", is_flag=True, help="Compare sizes alone.")
def verify_command(out: Path, quick: bool) -> None:
    """Hold every file of an index against its checksum.

    Exit status: 0 all is well, 1 something is damaged, missing or foreign, 2 not a finished index.
    """
    from tqdm import tqdm

    bar: Any = None

    def started(total: int) -> Callable[[int], object]:
        nonlocal bar
        bar = tqdm(total=total, unit="B", unit_scale=True, disable=quick or not sys.stderr.isatty())
        update: Callable[[int], object] = bar.update
        return update

    findings = verify(out, quick, started)
    if bar is not None:
        bar.close()
    if not findings:
        files = listed_files(read_manifest(Layout(out)), out)
        size = sum(count for count, _ in files.values())
        click.echo(f"{out} is whole: {len(files):,} files, {size / 1e6:,.1f} MB{' (sizes alone)' if quick else ''}")
        return
    for line in report(Layout(out), findings):
        click.echo(line)
    sys.exit(1)


def report(layout: Layout, findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, with its part, then what to do."""
    parts = _parts(layout)
    lines = []
    for finding in findings:
        path = finding.path if finding.path.isprintable() else repr(finding.path)
        part = f" (part {parts[finding.path]})" if finding.path in parts else ""
        lines.append(f"{finding.fault:8} {path}{part}: {finding.detail}")
    foreign = sum(finding.fault == "foreign" for finding in findings)
    if foreign:
        lines.append(f"{foreign} foreign: move what is yours elsewhere; a stopped run's leftovers go with --repair.")
    if foreign < len(findings):
        redone = sorted({parts[f.path] for f in findings if f.path in parts})
        some = f" It redoes part{'s' * (len(redone) > 1)} {', '.join(map(str, redone))}." if redone else ""
        lines.append(f"{len(findings) - foreign} damaged or missing: {REPAIR[0].lower()}{REPAIR[1:]}{some}")
    return lines


def _parts(layout: Layout) -> dict[str, int]:
    """The part of every file that belongs to one; nothing where the manifest cannot tell."""
    try:
        spec = RunSpec.from_json(read_manifest(layout)["run"])
    except DamagedIndex:
        return {}
    parts = {path: part.index for part in spec.parts for path in part_files(spec, part.index)}
    return parts | {str(layout.entry(p.index).relative_to(layout.root)): p.index for p in spec.parts}
