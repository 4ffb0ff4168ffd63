"""FORMAT.md says what is: read from the page, compared with a real index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import xxhash
from vitdex.query.index import Index

ROOT = Path(__file__).parents[2]
FORMAT = (ROOT / "schemas" / "FORMAT.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Rows of the markdown table whose first column has this heading."""
    rows = FORMAT.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_arrays_are_those_of_the_page(sample: Index) -> None:
    said = {}
    for name, kind, axes, meaning in table("array"):
        if meaning.endswith("units alone)"):  # the sample has none; test_gated.py and test_attention.py look
            continue
        for layer in [a.name for a in sample.spec.layers] if name.startswith("LAYER") else [""]:
            said[name.replace("LAYER", layer)] = (kind, tuple(axes.split(", ")))
    found = {
        name: (str(array.dtype), tuple(array.metadata.dimension_names))
        for name, array in sample.arrays.members(max_depth=None)
        if hasattr(array, "dtype")
    }
    assert found == said
    assert all(a.attrs["vitdex_format"] == 1 for _, a in sample.arrays.members(max_depth=None) if hasattr(a, "dtype"))


def test_tables_are_those_of_the_page(sample: Index) -> None:
    said = {name: columns.split(", ") for name, columns in table("table")}
    rows = sample.sql(
        "SELECT t.table_name, list(column_name ORDER BY column_index) AS columns FROM duckdb_columns() c "
        "JOIN duckdb_tables() t USING (database_name, table_name) WHERE database_name = 'vitdex_index' GROUP BY ALL"
    )
    assert {row.table_name: list(cast(Any, row.columns)) for row in rows.itertuples()} == said


def test_the_manifest_lists_every_other_file_with_its_checksum(sample: Index, sample_path: Path) -> None:
    found = {p.relative_to(sample_path).as_posix(): p for p in sample_path.rglob("*") if p.is_file()}
    del found["manifest.json"]
    assert set(found) == set(sample.manifest["files"])
    for path, (size, checksum) in sample.manifest["files"].items():
        content = found[path].read_bytes()
        assert [size, checksum] == [len(content), xxhash.xxh3_128_hexdigest(content)]
    text = (sample_path / "manifest.json").read_text()
    assert "/tmp" not in text
    assert str(sample_path.parent) not in text
    assert list(json.loads(text))[-1] == "sha256"
