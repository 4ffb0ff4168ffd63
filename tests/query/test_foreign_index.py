"""An index is a stranger's file: whatever stands in it, sealed anew, opening and asking it does no harm and ends.

Every input is refused in one line, or answered as the sound index is; nothing outside is read, written or waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from vitdex.query import import_descriptions
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.files import data_file
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.query.notes.database import SCHEMA, writing
from vitdex.schemas.errors import STRANGE, BadIndex, DamagedIndex, QueryError, VitdexError
from vitdex.schemas.facts import file_facts
from vitdex.schemas.integrity import verify
from vitdex.schemas.manifest import seal_manifest

SECRET = "the-secret-of-the-house"
LAYER = "blocks.4.mlp.fc1"


@pytest.fixture
def evil(sample_path: Path, tmp_path: Path) -> Path:
    """An index whose files can be replaced, never written into: they are the sample's own."""
    (tmp_path / "secret").write_text(SECRET)
    return Path(shutil.copytree(sample_path, tmp_path / "evil", copy_function=os.link))


def replace(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """What anybody can do who edits an index: list its files as they are, and seal the manifest again."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for key in ("format", "format_version", "sha256"):
        manifest.pop(key, None)
    for path in ("index.duckdb",):
        if (folder / path).is_file():
            manifest["files"][path] = list(file_facts(folder / path))
    change(manifest)
    replace(folder / "manifest.json", seal_manifest(manifest))


def edit_tables(folder: Path, *statements: str, file: str = "index.duckdb") -> None:
    """Run SQL in a copy of an index's database."""
    path = folder / file
    if path.exists():
        content = path.read_bytes()
        replace(path, content)
    with duckdb.connect(str(path)) as db:
        for statement in statements:
            db.execute(statement)
    reseal(folder)


def answers(folder: Path) -> list[pd.DataFrame]:
    """What questions of every kind say."""
    with Index(folder) as index:
        return [
            index.key_neurons("coin", 5, "score"),
            index.exemplars(LAYER, 473, 5),
            index.sql("SELECT count(*), sum(length(path)) FROM images WHERE ends_with(path, '.jpg')"),
            index.sql("SELECT class, 1 + 1 AS two FROM classes ORDER BY class_id"),
            index.sql("FROM descriptions"),
            index.sql("SELECT view_name FROM duckdb_views() WHERE database_name = 'memory'"),
            pd.DataFrame(index.map(LAYER, 473, 17)),
            pd.DataFrame(index.arrays[f"{LAYER}/max"][:3]),
        ]


def all_equal(one: list[pd.DataFrame], other: list[pd.DataFrame]) -> bool:
    return all(a.equals(b) for a, b in zip(one, other, strict=True))


def refusal(act: Callable[[], None]) -> str | None:
    """What is said where something is refused; None where it is done."""
    try:
        act()
    except VitdexError as error:
        return str(error)
    return None


def secrets_in(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def at(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a manifest: 'run.layers.0.units' to a value."""

    def change(manifest: dict[str, Any]) -> None:
        *path, last = place.split(".")
        target: Any = manifest
        for name in path:
            target = target[int(name) if isinstance(target, list) else name]
        target[int(last) if isinstance(target, list) else last] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(name)


def renamed_layer(name: str) -> Callable[[dict[str, Any]], None]:
    return at("run.layers.0.name", name)


def many_layers(manifest: dict[str, Any]) -> None:
    layer = manifest["run"]["layers"][0]
    manifest["run"]["layers"] = [{**layer, "name": f"blocks.{i}.mlp.fc1"} for i in range(100_000)]


MANIFESTS = {
    "units 10^12": at("run.layers.0.units", 10**12),
    "units 10^400": at("run.layers.0.units", 10**400),
    "units of another layer": at("run.layers.1.units", 767),
    "units -1": at("run.layers.0.units", -1),
    "units true": at("run.layers.0.units", True),
    "block 'x'": at("run.layers.0.block", "x"),
    "images 10^12": at("run.images", 10**12),
    "images 1000": at("run.images", 1000),
    "images 0": at("run.images", 0),
    "images 480.0": at("run.images", 480.0),
    "one image a part": at("run.part_images", 1),
    "parts of 0": at("run.part_images", 0),
    "grid 10^9": at("run.grid", [10**9, 10**9]),
    "grid of one": at("run.grid", [6]),
    "grid other": at("run.grid", [7, 6]),
    "100,000 layers": many_layers,
    "no layers": at("run.layers", []),
    "layers a number": at("run.layers", 5),
    "layer outside": renamed_layer("../../../etc"),
    "layer absolute": renamed_layer("/etc"),
    "layer with a quote": renamed_layer('a"; DROP TABLE images; --'),
    "layer with a NUL": renamed_layer("a\0b"),
    "layer twice": renamed_layer("blocks.1.mlp.fc1"),
    "layer of 10^6 letters": renamed_layer("a" * 10**6),
    "kind": at("run.layers.0.kind", "evil"),
    "seconds 'x'": at("seconds", "x"),
    "seconds NaN": at("seconds", float("nan")),
    "seconds infinite": at("seconds", float("inf")),
    "files [1, 2]": at("files", [1, 2]),
    "files none": at("files", {}),
    "files 1": at("files", {"a": 1}),
    "file outside": at("files", {"../a": [1, "0" * 32]}),
    "file absolute": at("files", {"/etc/passwd": [1, "0" * 32]}),
    "file '.'": at("files", {".": [1, "0" * 32]}),
    "size -1": at("files", {"a": [-1, "0" * 32]}),
    "checksum of no form": at("files", {"a": [1, "x"]}),
    "notes a text": at("notes", "x"),
    "images a list": at("images", []),
    "skipped deep": at("images.skipped", [[[[]]]]),
    "accuracy of texts": at("accuracy", {"images": "1", "top1": 1, "top5": None, "chance": 0}),
    "tables of numbers": at("tables", {"duckdb": 1, "storage_version": 2}),
    "tables a path": at("tables", "/x"),
    "no run": without("run"),
    "no images": without("images"),
    "run a list": at("run", []),
    "run deep": at("run", {"model": [[[[[[1]]]]]]}),
    "model a path": at("run.model", "local-dir:/etc"),
    "model outside": at("run.model", "hf-hub:a/../../b"),
    "model an address": at("run.model", "https://example.com/x"),
    "model from a pickle": at("run.model_args", {"checkpoint_path": "/tmp/x.pth"}),
    "model from elsewhere": at("run.model_args", {"pretrained_cfg": {"url": "https://example.com"}}),
    "model of 10^9": at("run.model_args", {"embed_dim": 10**9}),
    "architecture a path": at("run.model_args", {"architecture": "local-dir:/etc"}),
    "std 0": at("run.preprocessing.std", [0, 0, 0]),
    "mean of two": at("run.preprocessing.mean", [0, 0]),
    "size of two": at("run.preprocessing.input_size", [3, 96]),
    "size 10^9": at("run.preprocessing.input_size", [3, 10**9, 10**9]),
    "crop 0": at("run.preprocessing.crop_pct", 0),
    "maps": at("run.maps", "evil"),
    "precision": at("run.precision", ["float32"]),
    "versions": at("run.versions", {"torch": {}}),
    "classes 10^12": at("run.classes", 10**12),
    "classes 13": at("run.classes", 13),
    "features 0": at("run.features", 0),
    "readout": at("run.readout", 7),
    "half a letter": at("run.source", "a\ud800b"),
    "half a letter in a note": at("notes", ["a\udfffb"]),
    "half a letter in a skipped file": at("images.skipped", [["a\ud800b", "x"]]),
}


def test_a_manifest_may_leave_out_what_has_a_default(evil: Path) -> None:
    """The records' annotations are the schema, their defaults too."""
    reseal(evil, lambda manifest: manifest["run"].pop("versions"))
    with Index(evil) as index:
        assert index.spec.versions == {}
        assert len(index.key_neurons("coin", 3))


@pytest.mark.parametrize("kind", MANIFESTS)
def test_an_absurd_manifest_is_refused_at_once(kind: str, evil: Path, tmp_path: Path) -> None:
    reseal(evil, MANIFESTS[kind])
    for door in (Index, verify):
        with pytest.raises(BadIndex, match=r"describes no index: .*Do not use an index from there\.$") as refused:
            door(evil)
        assert len(str(refused.value)) < 400
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff\xfe", b"", b"null", b'{"format": "vitdex"}', b"[]" * 9]
    + [b'{"format": "vitdex", "x": ' + b"[" * deep + b"]" * deep + b"}" for deep in (900, 990, 5000, 90_000)],
    ids=lambda content: repr(content[:30]),
)
def test_a_manifest_that_is_none_is_refused(content: bytes, evil: Path) -> None:
    replace(evil / "manifest.json", content)
    with pytest.raises(BadIndex):
        Index(evil)
    if b"vitdex" in content:
        assert [finding.path for finding in verify(evil)] == ["manifest.json"]


def test_a_manifest_has_a_largest_size(evil: Path) -> None:
    with (evil / "manifest.json").open("r+b") as file:  # a hole, which costs its maker nothing
        inode = os.fstat(file.fileno())
    assert inode.st_nlink > 1
    replace(evil / "manifest.json", b"{")
    os.truncate(evil / "manifest.json", 20_000_000_000)
    with pytest.raises(BadIndex, match="larger than 64,000,000 bytes"):
        Index(evil)


SHADOWS = {
    "a view over a file": [
        "DROP VIEW key_neurons",
        "CREATE VIEW key_neurons AS SELECT content AS class FROM read_text('{secret}')",
    ],
    "a table that is a view": [
        "ALTER TABLE classes RENAME TO old",
        "CREATE VIEW classes AS SELECT class_id, wnid, (SELECT content FROM read_text('{secret}')) AS class, "
        "logit_offset FROM old",
    ],
    "a macro for a function": ["CREATE MACRO length(x) AS 999", "CREATE MACRO ends_with(a, b) AS true"],
    "a macro for an operator": ["""CREATE MACRO "+"(a, b) AS 77"""],
    "a macro for an aggregate": ["CREATE MACRO count(x) AS 5", "CREATE MACRO sum(x) AS 5"],
    "a macro for a catalogue": [
        "CREATE MACRO duckdb_views() AS TABLE SELECT 'x' AS view_name, 'memory' AS database_name",
        "CREATE MACRO duckdb_tables() AS TABLE SELECT 'x' AS table_name, 'x' AS sql, 'vitdex_index' AS database_name",
    ],
    "a macro over a file": ["CREATE MACRO activation_map(a, b, c) AS (SELECT content FROM read_text('{secret}'))"],
    "a schema of the same names": ["CREATE SCHEMA s", "CREATE TABLE s.images AS SELECT 1 AS image_id"],
    "a type": ["CREATE TYPE ubigint2 AS ENUM ('a')", "CREATE SEQUENCE images_seq"],
    "a table that is named like a statement": [
        """CREATE TABLE "neurons""; COPY (SELECT 1) TO '{outside}' (FORMAT csv); SELECT 1 --" (a INT)"""
    ],
    "a table that is named like a path": ['CREATE TABLE "../ESCAPED" (a INT)', 'CREATE TABLE "/abs" (a INT)'],
    "a view that counts for ever": ["CREATE VIEW v AS SELECT count(*) FROM range(100000000000) a, range(100000) b"],
    "a column that computes": [
        "ALTER TABLE failures RENAME TO old",
        "CREATE TABLE failures (path VARCHAR, reason VARCHAR AS (current_setting('temp_directory')))",
    ],
    "a column with a default": [
        "ALTER TABLE failures RENAME TO old",
        "CREATE TABLE failures (path VARCHAR, reason VARCHAR DEFAULT (current_setting('temp_directory')))",
    ],
    "a column of another type": ["ALTER TABLE images ALTER image_id TYPE VARCHAR"],
    "a column too many": ["ALTER TABLE neurons ADD COLUMN x VARCHAR"],
    "no neurons": ["DELETE FROM neurons WHERE layer = 'blocks.4.mlp.fc1'"],
    "a neuron twice": ["UPDATE neurons SET unit = 5 WHERE unit = 6"],
    "an image too many": ["INSERT INTO images FROM images LIMIT 1"],
    "an image without a path": ["UPDATE images SET path = NULL WHERE image_id = 9"],
    "a class without a name": ["UPDATE classes SET class = NULL WHERE class_id = 3"],
    "no classes": ["DELETE FROM classes"],
    "a class of row 4,000,000,000": ["UPDATE classes SET class_id = 4000000000 WHERE class_id = 3"],
    "a table too few": ["DROP TABLE failures"],
    "other column names": ["ALTER TABLE exemplars RENAME COLUMN pre TO post2"],
}


@pytest.mark.parametrize("kind", SHADOWS)
def test_tables_that_are_not_ours_are_refused_or_not_seen(
    kind: str, evil: Path, sample_path: Path, tmp_path: Path
) -> None:
    places = {"secret": tmp_path / "secret", "outside": tmp_path / "outside.csv"}
    edit_tables(evil, *(statement.format(**places) for statement in SHADOWS[kind]))
    before = set(tmp_path.rglob("*"))
    exported = tmp_path / "exported"

    def look() -> None:
        assert all_equal(answers(evil), answers(sample_path))
        with Index(evil) as index, Index(sample_path) as sound:
            some = None if "named" in kind else ["images", "classes", "failures"]  # the others are large
            written = export_tables(index, exported, "csv", some)
            assert written == export_tables(sound, tmp_path / "sound", "csv", some)

    said = refusal(look)
    assert said is None or said.endswith("Do not use an index from there.")
    assert secrets_in(exported) == []
    assert {p.parent for p in set(tmp_path.rglob("*")) - before} <= {exported, tmp_path / "sound", tmp_path}
    assert not places["outside"].exists()


def test_numbers_in_tables_that_no_array_has_are_said(evil: Path) -> None:
    edit_tables(evil, "UPDATE exemplars SET image_id = 400, patch = 60000 WHERE rank = 1", "DROP TABLE IF EXISTS x")
    with Index(evil) as index:
        for rows in ([480], [-1], [0, 4_000_000_000]):
            with pytest.raises(DamagedIndex, match=r"the tables name image -?\d+, and inputs counts from 0 to 479"):
                index.reader.rows("inputs", rows)
        with pytest.raises(DamagedIndex, match="the tables name neuron 768"):
            index.reader.cell(f"{LAYER}/map", 3, 768)
        with pytest.raises(DamagedIndex, match="the tables name neuron 70000"):
            index.reader.cells(f"{LAYER}/map", np.array([3]), np.array([70_000]))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE exemplars SET image_id = 480 WHERE unit = 473 AND rank = 1",
        "UPDATE exemplars SET patch = 64 WHERE unit = 473 AND rank = 1",
        "UPDATE exemplars SET rank = 0 WHERE unit = 473 AND rank = 1",
        "UPDATE exemplars SET unit = 768 WHERE unit = 0",
        "UPDATE class_scores SET class_id = 12 WHERE unit = 473",
        "UPDATE class_scores SET unit = 768 WHERE unit = 473",
        "UPDATE class_scores SET layer = 'x' WHERE unit = 473",
        "UPDATE class_scores SET rank_in_unit = 1",
        "UPDATE class_activations SET class_id = 99 WHERE unit = 473",
        "UPDATE class_activations SET unit = 70000 WHERE unit = 473",
        "UPDATE images SET class_id = 12 WHERE image_id = 17",
        "UPDATE images SET predicted = 99 WHERE image_id = 17",
        "DELETE FROM exemplars WHERE unit = 473",
        "DELETE FROM class_scores",
    ],
)
def test_pages_of_the_atlas_say_what_no_index_holds(edit: str, evil: Path) -> None:
    """Numbers that the index does not have end in one line; what is merely missing or wrong is shown as it is."""
    edit_tables(evil, edit)
    refused = []
    with Index(evil) as index:
        atlas = Atlas(index)
        for page in ("start", "neuron/4/473", "class/2", "image/17", "layer/4", "map", "search", "about"):
            try:
                data_file(atlas, f"data/{page}.json")
            except DamagedIndex as error:
                refused.append(str(error))
    assert all(said.endswith(STRANGE) for said in refused)
    shown_as_it_is = "rank_in_unit" in edit or "FROM class_scores" in edit
    assert bool(refused) != shown_as_it_is


NOTES = {
    "a view in another schema": [
        "CREATE SCHEMA x",
        "CREATE TABLE x.descriptions (a INT)",
        "CREATE VIEW descriptions AS SELECT 'blocks.1.mlp.fc1' AS layer, 1 AS unit, 'x' AS source, "
        "(SELECT content FROM read_text('{secret}')) AS description, now() AS imported, '' AS note",
    ],
    "a column that computes": [
        "CREATE TABLE descriptions (layer VARCHAR, unit UINTEGER, source VARCHAR, "
        "description VARCHAR AS (current_setting('temp_directory')), imported TIMESTAMP, note VARCHAR)"
    ],
    "a default that reads": [
        "CREATE TABLE descriptions (layer VARCHAR, unit UINTEGER, source VARCHAR, "
        "description VARCHAR DEFAULT (current_setting('temp_directory')), imported TIMESTAMP, note VARCHAR)"
    ],
    "a rule": [
        SCHEMA,
        "DROP TABLE generated",
        "CREATE TABLE generated (id UINTEGER CHECK (id < length(current_setting('temp_directory'))))",
    ],
    "macros": [SCHEMA, "CREATE MACRO coalesce2(a) AS 1", "CREATE MACRO max(a) AS 77", "CREATE MACRO count(a) AS 0"],
    "nothing of ours": ["CREATE TABLE mine (a INT)"],
    "other columns": ["CREATE TABLE generated (file VARCHAR)"],
}


@pytest.mark.parametrize("kind", NOTES)
def test_notes_that_are_not_ours_are_refused_or_not_seen(kind: str, evil: Path, sample_path: Path) -> None:
    edit_tables(evil, *(s.format(secret=evil.parent / "secret") for s in NOTES[kind]), file="notes.duckdb")
    csv = evil.parent / "names.csv"
    csv.write_text(f"layer,unit,description\n{LAYER},473,round\n")

    def look() -> None:
        assert all_equal(answers(evil), answers(sample_path))
        with Index(evil) as index:
            import_descriptions(index, csv, source="me")
            assert index.sql("SELECT description FROM descriptions").description.tolist() == ["round"]

    said = refusal(look)
    assert said is None or said.endswith("Move it away: the index itself is whole.")


def test_more_notes_than_memory_holds_are_refused(evil: Path) -> None:
    many = "INSERT INTO descriptions SELECT 'blocks.1.mlp.fc1', 1, 'x', 'y', NULL, NULL FROM range(6000000)"
    edit_tables(evil, SCHEMA, many, file="notes.duckdb")
    with Index(evil) as index, pytest.raises(BadIndex, match="6,000,000 rows of descriptions"):
        index.sql("FROM classes")


SPECIAL: dict[str, Callable[[Path, Path], object]] = {
    "pipe": lambda place, elsewhere: os.mkfifo(place),
    "link": lambda place, elsewhere: place.symlink_to(elsewhere),
    "link to /dev/zero": lambda place, elsewhere: place.symlink_to("/dev/zero"),
    "folder": lambda place, elsewhere: place.mkdir(),
    "socket": lambda place, elsewhere: _bind(place),
    "sqlite": lambda place, elsewhere: _sqlite(place),
    "empty": lambda place, elsewhere: place.write_bytes(b""),
    "text": lambda place, elsewhere: place.write_bytes(b"x" * 100),
}
PLACES = ["manifest.json", "index.duckdb", "notes.duckdb", f"activations.zarr/{LAYER}/max/c/0/0", "activations.zarr"]


def _bind(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # a socket's name must be short
    socket.socket(socket.AF_UNIX).bind(place.name)
    os.chdir(here)


def _sqlite(place: Path) -> None:
    with sqlite3.connect(place) as db:
        db.execute("CREATE TABLE images (image_id INT)")
    db.close()


@pytest.fixture
def at_most_five_seconds() -> Iterator[None]:
    import signal

    def late(number: int, frame: object) -> None:
        raise TimeoutError("it waits")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def ask(folder: Path) -> None:
    with Index(folder) as index:
        index.sql("FROM classes")
        index.reader.whole(f"{LAYER}/max")


def export(folder: Path) -> None:
    with Index(folder) as index:
        export_tables(index, folder.parent / "out")


@pytest.mark.usefixtures("at_most_five_seconds")
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_file_is_refused(kind: str, place: str, evil: Path, sample_path: Path) -> None:
    file = evil / place
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    SPECIAL[kind](file, sample_path / place)
    if place == "notes.duckdb":
        with (
            Index(evil) as index,
            pytest.raises(QueryError, match=r"notes\.duckdb .*Move it away"),
            writing(index.layout),
        ):
            pass
    else:
        assert "manifest.json" in place or [finding for finding in verify(evil) if finding.path.startswith(place)]
    if (place, kind) == ("activations.zarr", "folder"):
        return
    if (place, kind) != ("notes.duckdb", "link"):  # to nothing, which is no notes
        with pytest.raises(VitdexError, match=r"^[^\n]+$"):
            ask(evil)
    if not place.startswith("activations") and (place, kind) != ("notes.duckdb", "link"):
        with pytest.raises(VitdexError, match=r"^[^\n]+$"):
            export(evil)
    if place.startswith("activations") and kind not in ("sqlite", "empty", "text", "folder"):
        with Index(evil) as index, pytest.raises(DamagedIndex, match="is a link, pipe or device"):
            index.arrays[f"{LAYER}/max"][:]


def test_a_log_beside_the_tables_is_not_read(evil: Path) -> None:
    (evil / "index.duckdb.wal").write_bytes(b"x" * 50)
    with Index(evil) as index, pytest.raises(BadIndex, match=r"index.duckdb.wal is not of this index. Move it away"):
        index.sql("FROM classes")


@pytest.mark.parametrize("base", ["index.duckdb", "notes.duckdb"])
@pytest.mark.parametrize("end", [".wal", ".wal.checkpoint", ".wal.recovery"])
def test_a_link_beside_a_database_leads_nowhere(base: str, end: str, evil: Path) -> None:
    planted = evil / f"{base}{end}"
    planted.symlink_to(evil.parent / "secret")
    with Index(evil) as index, pytest.raises(BadIndex, match=r"is a link, pipe or device, .*\. Move it away\."):
        index.sql("FROM read_text(?)", [str(planted)])


def _another_shape(metadata: dict[str, Any]) -> None:
    metadata["shape"] = [10**12, 768]


def _bomb(metadata: dict[str, Any]) -> None:
    metadata["codecs"] = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 9}}]


def _pickle(metadata: dict[str, Any]) -> None:
    metadata["codecs"] = [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]


def _elsewhere(metadata: dict[str, Any]) -> None:
    metadata["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/../../../../../"}}


@pytest.mark.parametrize("change", [_another_shape, _bomb, _pickle, _elsewhere, None])
def test_foreign_zarr_metadata_is_not_read(
    change: Callable[[dict[str, Any]], None] | None, evil: Path, sample_path: Path
) -> None:
    for file in (evil / "activations.zarr").rglob("zarr.json"):
        content = json.loads(file.read_bytes())
        if change is None:  # Zarr 2 with objects, which its reader unpickles
            v2 = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "order": "C", "fill_value": None}
            compressed = {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]}
            replace(file.with_name(".zarray"), json.dumps({**v2, **compressed}).encode())
            file.unlink()
            continue
        inner = (content.get("consolidated_metadata") or {}).get("metadata", {})
        for metadata in [content, *inner.values()]:
            if metadata["node_type"] == "array":
                change(metadata)
        replace(file, json.dumps(content).encode())
    with Index(evil) as index, Index(sample_path) as sound:
        assert (index.arrays[f"{LAYER}/max"][:] == sound.arrays[f"{LAYER}/max"][:]).all()
        assert sorted(path for path, _ in index.arrays.members(max_depth=None)) == sorted(
            path for path, _ in sound.arrays.members(max_depth=None)
        )
    assert verify(evil) != []
