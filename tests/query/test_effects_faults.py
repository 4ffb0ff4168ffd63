"""The extension effects, damaged or written by a stranger: one line with its own remedy, whatever asks for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from small_effects import INSIDE, LAYER, UNITS, add_effects, flip, linked, refusal, replace, small_index
from vitdex.indexer.build import Quiet
from vitdex.indexer.plan import Request
from vitdex.indexer.repair import repair
from vitdex.query.commands import main as main_module
from vitdex.query.commands.main import cli
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.schemas.effects import PLACES
from vitdex.schemas.errors import STRANGE, BadIndex, DamagedIndex, QueryError, VitdexError
from vitdex.schemas.extension import seal_extension
from vitdex.schemas.facts import file_facts
from vitdex.schemas.integrity import verify

SECRET = "the-secret-of-the-house"
REMEDY = r"Move .*/extensions/effects away, or repeat 'vitdex effects' with --overwrite: the index itself is whole\."
LEAVES = ("effect", "through_norm", *PLACES)
EFFECT = f"{INSIDE}/arrays.zarr/{LAYER}/effect/c/0/0"
TABLES = f"{INSIDE}/tables.duckdb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its images, and their index with effects: never changed."""
    folder = tmp_path_factory.mktemp("effects")
    add_effects(small_index(folder), folder)
    return folder


@pytest.fixture
def evil(folder: Path, tmp_path: Path) -> Path:
    """A copy whose files can be replaced, never written into."""
    (tmp_path / "secret").write_text(SECRET)
    return linked(folder / "out.vitdex", tmp_path / "evil.vitdex")


def asked_of(act: Callable[[Index], object]) -> Callable[[Path], object]:
    def ask(path: Path) -> object:
        with Index(path) as index:
            return act(index)

    return ask


def stored(index: Index) -> Any:
    assert index.effects is not None
    return index.effects


def command(*words: str) -> Callable[[Path], object]:
    """A command in this process; its error is raised, its output returned."""

    def ask(path: Path) -> object:
        result = CliRunner().invoke(cli, [word.replace("INDEX", str(path)) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return ask


OF_ARRAYS = {
    "of_image": asked_of(lambda index: stored(index).of_image(LAYER, 2)),
    "of_neuron": asked_of(lambda index: stored(index).of_neuron(LAYER, 5)),
}
OF_TABLES = {
    "key_neurons": asked_of(lambda index: index.key_neurons(0, 3, "effect")),
    "key_neurons by score": asked_of(lambda index: index.key_neurons(0, 3, "score")),
    "the card of a neuron": asked_of(lambda index: index.neuron(LAYER, 5).effects),
    "class_effects in SQL": asked_of(lambda index: index.sql("FROM class_effects ORDER BY ALL")),
    "key_neurons in SQL": asked_of(lambda index: index.sql("FROM key_neurons ORDER BY effect DESC")),
    "export": asked_of(lambda index: export_tables(index, index.layout.root.parent / "out")),
    "top": command("top", "INDEX", "--class", "0", "--by", "effect", "--json"),
    "info": command("info", "INDEX", "--tables"),
    "sql": command("sql", "INDEX", "SELECT sum(effect) FROM class_effects"),
}
DOORS = OF_ARRAYS | OF_TABLES


def files_of(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in (path / INSIDE).rglob("*") if p.is_file())


@pytest.mark.parametrize("door", DOORS)
def test_every_door_answers_where_all_is_well(door: str, folder: Path) -> None:
    assert DOORS[door](folder / "out.vitdex") is not None
    shutil.rmtree(folder / "out", ignore_errors=True)


def test_every_file_that_is_changed_is_named(evil: Path, folder: Path) -> None:
    """Flipped, cut, gone, or a link: by verify, and by the command."""
    paths = files_of(evil)
    assert len(paths) > 50
    whole = {path: (evil / path).read_bytes() for path in paths}
    for number, path in enumerate(paths):
        file, size = evil / path, len(whole[path])
        for change in (
            lambda file=file, size=size, number=number: flip(file, number * 7919 % size),
            lambda file=file, path=path: replace(file, whole[path][:-1]),
            lambda file=file: file.unlink(),
            lambda file=file, path=path: (file.unlink(), file.symlink_to(folder / "out.vitdex" / path)),
        ):
            change()
            assert [finding.path for finding in verify(evil)] == [path]
            replace(file, whole[path])
    assert verify(evil) == []
    replace(evil / INSIDE / "notes", b"x")
    (evil / INSIDE / "extensions").mkdir()
    replace(evil / INSIDE / "extensions" / "x", b"x")
    found = [(finding.path, finding.fault) for finding in verify(evil)]
    assert found == [(f"{INSIDE}/extensions/x", "foreign"), (f"{INSIDE}/notes", "foreign")]


def test_verify_says_the_remedy_of_each_folder(
    evil: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("verify", "INDEX")(evil)
    assert "whole" in str(said)
    assert "with effects" in str(said)
    flip(evil / EFFECT, 3)
    monkeypatch.setattr(sys, "argv", ["vitdex", "verify", str(evil)])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert lines[0] == f"damaged  {EFFECT}: its checksum differs"
    assert lines[1].startswith("1 damaged or missing in extensions/effects: Move ")
    assert not any("--repair" in line for line in lines)
    flip(evil / "index.duckdb", 20_000)
    with pytest.raises(SystemExit):
        main_module.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("1 damaged or missing: repeat the 'vitdex index' command") for line in lines)


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("change", ["flip", "cut", "gone", "link", "folder"])
def test_a_damaged_array_is_said_with_its_remedy(leaf: str, change: str, evil: Path, folder: Path) -> None:
    for place in ("0/0", "1/0", "2/0"):
        file = evil / INSIDE / "arrays.zarr" / LAYER / leaf / "c" / place
        if change == "flip":
            for at in range(0, file.stat().st_size, 97):
                flip(file, at)
        elif change == "cut":
            replace(file, file.read_bytes()[:-1])
        else:
            file.unlink()
        if change == "link":
            file.symlink_to(folder / "out.vitdex" / file.relative_to(evil))
        if change == "folder":
            file.mkdir()
    said = rf"{LAYER}/{leaf}/c/\d/0 .*\. {REMEDY}$"
    with Index(evil) as index:
        with pytest.raises(DamagedIndex, match=said):
            stored(index).of_image(LAYER, 4, leaf)
        with pytest.raises(DamagedIndex, match=said):
            stored(index).of_neuron(LAYER, 5, leaf)
        assert len(index.key_neurons(0, 3, "effect")) == 3


@pytest.mark.parametrize("change", ["every block", "the head", "a header", "cut", "gone", "empty", "link", "folder"])
@pytest.mark.parametrize("door", OF_TABLES)
def test_damaged_tables_are_said_with_their_remedy(door: str, change: str, evil: Path, folder: Path) -> None:
    file = evil / TABLES
    content = bytearray(file.read_bytes())
    if change == "every block":
        for at in range(4096 * 3, len(content), 1024):
            content[at] ^= 0x55
    elif change == "the head":
        content[9] ^= 0x55
    elif change == "a header":
        for at in range(4096, 4096 * 3, 8):
            content[at] ^= 0x55
    elif change == "cut":
        content = content[: len(content) // 2]
    elif change == "empty":
        content = bytearray()
    replace(file, bytes(content))
    if change in ("gone", "link", "folder"):
        file.unlink()
    if change == "link":
        file.symlink_to(folder / "out.vitdex" / TABLES)
    if change == "folder":
        file.mkdir()
    if (door, change) == ("info", "cut"):  # the names of its columns are in the first half
        assert "class_effects" in str(OF_TABLES[door](evil))
        return
    with pytest.raises(DamagedIndex, match=rf"tables\.duckdb is .*\. {REMEDY}$"):
        OF_TABLES[door](evil)
    for ask in OF_ARRAYS.values():
        ask(evil)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("change", ["flip", "cut", "empty", "link", "folder", "a link for all"])
def test_a_damaged_manifest_is_said_with_its_remedy(door: str, change: str, evil: Path, folder: Path) -> None:
    file = evil / INSIDE / "manifest.json"
    if change == "flip":
        flip(file, 300)
    elif change == "a link for all":
        shutil.rmtree(evil / "extensions")
        (evil / "extensions").symlink_to(folder / "out.vitdex" / "extensions")
    else:
        replace(file, {"cut": file.read_bytes()[:-1], "empty": b""}.get(change, b""))
    if change in ("link", "folder"):
        file.unlink()
        file.mkdir() if change == "folder" else file.symlink_to(folder / "out.vitdex" / INSIDE / "manifest.json")
    with pytest.raises(DamagedIndex, match=rf"manifest\.json (is damaged|cannot be read: .*)\. {REMEDY}$"):
        DOORS[door](evil)


def test_the_remedy_works(evil: Path, folder: Path) -> None:
    flip(evil / INSIDE / "manifest.json", 300)
    shutil.move(evil / "extensions" / "effects", evil.parent / "away")
    with Index(evil) as index:
        assert index.effects is None
        assert len(index.key_neurons(0, 3)) == 3
        with pytest.raises(QueryError, match=rf"holds no effects\. Add them: vitdex effects {evil}$"):
            index.key_neurons(0, 3, "effect")
        with pytest.raises(QueryError):
            index.sql("FROM class_effects")
    shutil.move(evil.parent / "away", evil / "extensions" / "effects")
    add_effects(evil, folder, overwrite=True)
    assert verify(evil) == []
    assert OF_TABLES["key_neurons"](evil) is not None


def request_of(folder: Path, out: Path, **more: Any) -> Request:
    return Request(out, f"local-dir:{folder}", str(folder / "images"), device="cpu", workers=0, **more)


def test_a_repaired_index_keeps_its_extension(evil: Path, folder: Path) -> None:
    before = {path: (evil / path).read_bytes() for path in files_of(evil)}
    flip(evil / "index.duckdb", 20_000)
    flip(evil / "activations.zarr" / LAYER / "max" / "c" / "0" / "0", 7)
    assert sorted(repair(request_of(folder, evil), Quiet())) == [
        f"activations.zarr/{LAYER}/max/c/0/0",
        "index.duckdb",
    ]
    assert {path: (evil / path).read_bytes() for path in files_of(evil)} == before
    assert verify(evil) == []
    assert OF_TABLES["key_neurons"](evil) is not None
    flip(evil / EFFECT, 7)
    assert repair(request_of(folder, evil), Quiet()) == []
    assert [finding.path for finding in verify(evil)] == [EFFECT]


@pytest.mark.parametrize("linked_away", [False, True])
def test_an_index_made_anew_has_none(linked_away: bool, evil: Path, folder: Path) -> None:
    from vitdex.indexer.build import build

    if linked_away:
        shutil.move(evil / "extensions", evil.parent / "elsewhere")
        (evil / "extensions").symlink_to(evil.parent / "elsewhere")
    build(request_of(folder, evil, overwrite=True), Quiet())
    assert not os.path.lexists(evil / "extensions")
    assert verify(evil) == []
    assert not linked_away or (evil.parent / "elsewhere" / "effects" / "manifest.json").exists()


def test_another_head_has_none(evil: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with Index(evil) as index:
        width = index.spec.features
    save_file({"weight": np.ones((2, width), np.float32)}, tmp_path / "head.safetensors")
    for words in ([], ["--overwrite"]):
        made = ["head", "INDEX", str(tmp_path / "head.safetensors"), str(tmp_path / "new.vitdex"), *words]
        assert command(*made)(evil)
        assert not (tmp_path / "new.vitdex" / "extensions").exists()
        shutil.copytree(evil / "extensions", tmp_path / "new.vitdex" / "extensions")
        with pytest.raises(BadIndex, match=rf"was made from another index\. {REMEDY}$"):
            Index(tmp_path / "new.vitdex")
        assert [finding.path for finding in verify(tmp_path / "new.vitdex")] == [f"{INSIDE}/manifest.json"]


# Strangers


def reseal(path: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """What anybody can do who edits an extension: list its files as they are, and seal the manifest again."""
    file = path / INSIDE / "manifest.json"
    manifest = json.loads(file.read_bytes())
    for key in ("format", "format_version", "sha256"):
        manifest.pop(key)
    for name in manifest["files"]:
        if (path / INSIDE / name).is_file():
            manifest["files"][name] = list(file_facts(path / INSIDE / name))
    change(manifest)
    replace(file, seal_extension(manifest))


def at(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a manifest: 'run.layers.0' to a value."""

    def change(manifest: dict[str, Any]) -> None:
        *way, last = place.split(".")
        target: Any = manifest
        for name in way:
            target = target[name]
        target[int(last) if isinstance(target, list) else last] = value

    return change


MANIFESTS = {
    "no images": at("run.images", 0),
    "more images than the index": at("run.images", 10),
    "images 10^12": at("run.images", 10**12),
    "images true": at("run.images", True),
    "parts of 0": at("run.part_images", 0),
    "parts of 10^400": at("run.part_images", 10**400),
    "one image a part": at("run.part_images", 1),
    "no layers": at("run.layers", []),
    "a layer that there is not": at("run.layers.0", "blocks.7.mlp.fc1"),
    "a layer outside": at("run.layers.0", "../../../etc"),
    "a layer twice": at("run.layers", [LAYER, LAYER]),
    "layers in another order": at("run.layers", [LAYER, "blocks.0.mlp.fc1"]),
    "layers a text": at("run.layers", "blocks"),
    "100,000 layers": at("run.layers", [f"blocks.{i}.mlp.fc1" for i in range(100_000)]),
    "another replacement": at("run.replace", "noise"),
    "stored as int8": at("run.stored", "int8"),
    "stored as float16": at("run.stored", "float16"),
    "read a text": at("run.read", "yes"),
    "masks a number": at("run.masks_sha256", 7),
    "a batch of texts": at("run.batch_size", "x"),
    "a run of 1": at("run", 1),
    "a name outside": at("name", "../effects"),
    "another name": at("name", "causes"),
    "files none": at("files", {}),
    "files 1": at("files", 1),
    "a file outside": at("files", {"../../index.duckdb": [1, "0" * 32]}),
    "an absolute file": at("files", {"/etc/passwd": [1, "0" * 32]}),
    "seconds NaN": at("seconds", float("nan")),
    "half a letter": at("run.chosen", "a\ud800b"),
    "made from another index": at("index_sha256", "0" * 64),
    "of index 7": at("index_sha256", 7),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_an_absurd_manifest_is_refused_at_once(kind: str, evil: Path) -> None:
    reseal(evil, MANIFESTS[kind])
    with pytest.raises(BadIndex, match=rf"{REMEDY}$") as refused:
        Index(evil)
    assert not isinstance(refused.value, DamagedIndex)
    assert len(str(refused.value)) < 600
    assert str(refused.value).isprintable()
    assert f"{INSIDE}/manifest.json" in [finding.path for finding in verify(evil)]
    with Index(evil, extensions=False) as index:
        assert index.effects is None


NONE = [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff\xfe", b"", b"null", b"[]"]
NONE += [
    b'{"format": "vitdex extension", "x": ' + b"[" * deep + b"]" * deep + b"}" for deep in (900, 990, 5000, 90_000)
]


@pytest.mark.parametrize("raw", NONE, ids=lambda raw: repr(raw[:40]))
def test_a_manifest_that_is_none_is_refused(raw: bytes, evil: Path) -> None:
    replace(evil / INSIDE / "manifest.json", raw)
    with pytest.raises(DamagedIndex, match=rf"manifest\.json is damaged\. {REMEDY}$"):
        Index(evil)
    assert [finding.path for finding in verify(evil)] == [f"{INSIDE}/manifest.json"]


def test_a_manifest_has_a_largest_size(evil: Path) -> None:
    replace(evil / INSIDE / "manifest.json", b"{")
    os.truncate(evil / INSIDE / "manifest.json", 20_000_000_000)
    with pytest.raises(DamagedIndex, match="larger than 64,000,000 bytes"):
        Index(evil)


def test_a_text_of_a_stranger_is_shown_escaped(
    evil: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reseal(evil, at("run.chosen", "\x1b[31mred"))
    monkeypatch.setattr(sys, "argv", ["vitdex", "info", str(evil)])
    main_module.main()
    assert "\x1b" not in capsys.readouterr().out


def edit_tables(path: Path, *statements: str) -> None:
    """Run SQL in a copy of the extension's database."""
    file = path / TABLES
    replace(file, file.read_bytes())
    with duckdb.connect(str(file)) as db:
        for statement in statements:
            db.execute(statement.format(secret=path.parent / "secret", outside=path.parent / "outside.csv"))
    reseal(path)


OTHER_TABLES = {
    "a table too few": ["DROP TABLE effect_images"],
    "a view for a table": [
        "DROP TABLE effect_images",
        "CREATE VIEW effect_images AS SELECT content AS image_id FROM read_text('{secret}')",
    ],
    "a column that computes": [
        "DROP TABLE effect_images",
        "CREATE TABLE effect_images (image_id UINTEGER, class_id UINTEGER, logit FLOAT, "
        "mask_share FLOAT AS (length(current_setting('temp_directory'))))",
    ],
    "a column too many": ["ALTER TABLE class_effects ADD COLUMN x VARCHAR"],
    "a column of another type": ["ALTER TABLE class_effects ALTER unit TYPE VARCHAR"],
    "other column names": ["ALTER TABLE class_effects RENAME COLUMN effect TO cause"],
}
SHADOWS = {
    "tables of the index": ["CREATE TABLE images AS SELECT 7 AS image_id", "CREATE TABLE neurons (a INT)"],
    "a view over a file": ["CREATE VIEW key_neurons AS SELECT content AS class FROM read_text('{secret}')"],
    "a view that counts for ever": ["CREATE VIEW v AS SELECT count(*) FROM range(100000000000) a, range(100000) b"],
    "macros": ["CREATE MACRO sum(x) AS 5", 'CREATE MACRO "+"(a, b) AS 77', "CREATE MACRO activation_map(a, b, c) AS 1"],
    "a macro for a catalogue": [
        "CREATE MACRO duckdb_tables() AS TABLE SELECT 'x' AS table_name, 'x' AS sql, 'vitdex_effects' AS database_name"
    ],
    "a schema": ["CREATE SCHEMA s", "CREATE TABLE s.class_effects (a INT)"],
    "a table that is named like a statement": [
        """CREATE TABLE "x""; COPY (SELECT 1) TO '{outside}' (FORMAT csv); SELECT 1 --" (a INT)"""
    ],
}


def answers(path: Path) -> list[Any]:
    with Index(path) as index:
        return [
            index.key_neurons(0, 5, "effect").to_csv(),
            index.key_neurons(0, 5, "score").to_csv(),
            index.sql("SELECT sum(effect), count(*), 1 + 1 AS two FROM class_effects").to_csv(),
            index.sql("FROM key_neurons ORDER BY layer, unit, class_id LIMIT 9").to_csv(),
            index.sql("SELECT count(*) FROM images").to_csv(),
            export_tables(index, path.parent / "out", "csv", ["class_effects", "effect_images", "key_neurons"]),
            index.sql("SELECT view_name FROM duckdb_views() WHERE database_name = 'memory'").to_csv(),
        ]


@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_other_tables_are_refused(kind: str, evil: Path) -> None:
    edit_tables(evil, *OTHER_TABLES[kind])
    for name in ("key_neurons", "class_effects in SQL", "export", "sql"):
        with pytest.raises(BadIndex, match=rf"is of no extension: its table \w+ is not ours\. {REMEDY}$"):
            OF_TABLES[name](evil)


@pytest.mark.parametrize("kind", SHADOWS)
def test_what_a_stranger_adds_is_not_seen(kind: str, evil: Path, folder: Path) -> None:
    right = answers(folder / "out.vitdex")
    edit_tables(evil, *SHADOWS[kind])
    assert answers(evil) == right
    assert not (evil.parent / "outside.csv").exists()
    assert not [p for p in (evil.parent / "out").iterdir() if SECRET in p.read_text()]
    shutil.rmtree(folder / "out", ignore_errors=True)


ROWS = {
    "a layer that there is not": "layer = 'blocks.9.mlp.fc1'",
    "no layer": "layer = NULL",
    "a unit beyond": f"unit = {UNITS}",
    "a unit of 4,000,000,000": "unit = 4000000000",
    "no unit": "unit = NULL",
}


@pytest.mark.parametrize("kind", ROWS)
def test_neurons_that_the_index_does_not_have_are_said(kind: str, evil: Path) -> None:
    edit_tables(evil, f"UPDATE class_effects SET {ROWS[kind]}, effect = 1e30 WHERE unit = 7 AND class_id = 0")
    for name in ("key_neurons", "top"):
        with pytest.raises(DamagedIndex, match=rf"^the table class_effects names neuron .*, which .*\. {REMEDY}$"):
            OF_TABLES[name](evil)
    assert OF_TABLES["key_neurons by score"](evil) is not None


def test_the_tables_of_an_index_name_its_neurons_too(evil: Path) -> None:
    content = (evil / "index.duckdb").read_bytes()
    replace(evil / "index.duckdb", content)
    with duckdb.connect(str(evil / "index.duckdb")) as db:
        db.execute("UPDATE class_scores SET layer = 'x', score = 1e30 WHERE unit = 7")
    with pytest.raises(DamagedIndex, match=rf"^the table class_scores names neuron x:7, .*\. {STRANGE}$"):
        OF_TABLES["key_neurons by score"](evil)


ODD = ["effect = NULL", "effect = 'NaN'", "effect = 'inf'", "class_id = 4000000000", "class_id = NULL", "n = NULL"]
ODD += ["rank_by_effect = NULL", "direct = NULL, indirect = 'NaN'", "effect_se = '-inf'"]


@pytest.mark.parametrize("change", ODD)
def test_odd_numbers_in_the_tables_are_answered_or_refused(change: str, evil: Path) -> None:
    edit_tables(evil, f"UPDATE class_effects SET {change} WHERE unit % 2 = 0")
    for name, ask in DOORS.items():
        if name != "sql":  # a process of its own, which asks what the others ask
            said = refusal(partial(ask, evil))
            assert said is None or "\n" not in said


def test_no_rows_are_no_neurons(evil: Path) -> None:
    edit_tables(evil, "DELETE FROM class_effects")
    with pytest.raises(QueryError, match=r"ranks no such neuron by effect for class '\w+'\. Effects are of other"):
        OF_TABLES["key_neurons"](evil)
    with pytest.raises(QueryError, match="nothing|no neuron|ranks no"):
        command("dissect", "blocks", "INDEX", "--by", "effect")(evil)


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4, 5, 6, 7, 9], [3, 2, 1, 0, 4, 5, 6, 7, 8], [0] * 9])
def test_images_that_the_index_does_not_have_are_said(numbers: list[int], evil: Path) -> None:
    from vitdex.schemas.effects import effects_arrays
    from vitdex.schemas.storage.chunk_files import encode_file

    with Index(evil) as index:
        spec = effects_arrays(stored(index).spec, index.spec)["image"]
    for part in range(3):
        values = np.array(numbers[3 * part : 3 * part + 3], np.uint32)
        replace(evil / INSIDE / spec.file(part), bytes(encode_file(values, spec)))
    reseal(evil)
    with pytest.raises(BadIndex, match=rf"is of no images of this index\. {REMEDY}$"):
        OF_ARRAYS["of_image"](evil)


@pytest.mark.parametrize("end", [".wal", ".wal.checkpoint", ".wal.recovery"])
def test_what_lies_beside_the_tables_is_not_read(end: str, evil: Path) -> None:
    beside = evil / f"{TABLES}{end}"
    if end == ".wal":
        beside.write_bytes(b"x" * 50)
        with pytest.raises(BadIndex, match=r"tables\.duckdb\.wal is not of this extension\. Move it away"):
            OF_TABLES["class_effects in SQL"](evil)
        beside.unlink()
    beside.symlink_to(evil.parent / "secret")
    for name in ("class_effects in SQL", "export"):
        with pytest.raises(BadIndex, match=r"is a link, pipe or device, .*\. Move it away\."):
            OF_TABLES[name](evil)


def test_mistakes_of_whoever_asks_are_not_damage(folder: Path) -> None:
    with Index(folder / "out.vitdex") as index:
        effects = stored(index)
        mistakes: tuple[tuple[Callable[[], object], str], ...] = (
            (lambda: effects.of_neuron(LAYER, UNITS), rf"no unit {UNITS} in {LAYER}\. Its units count from 0 to 191"),
            (lambda: effects.of_neuron(LAYER, -1), "no unit -1"),
            (lambda: effects.of_neuron("blocks.1.mlp.fc2", 0), r"no effects of blocks\.1\.mlp\.fc2"),
            (lambda: effects.of_image(LAYER, 9), "image 9 is not among them"),
            (lambda: effects.of_image(LAYER, -1), "image -1 is not among them"),
            (lambda: effects.of_image(LAYER, 0, "replacement"), "no 'replacement' was measured"),
            (lambda: effects.of_image(LAYER, 0, "logit"), r"no 'logit' was measured\. There are effect, through_norm"),
        )
        for ask, line in mistakes:
            with pytest.raises(QueryError, match=line):
                ask()
    with pytest.raises(QueryError, match="is closed"):
        _ = index.effects


def test_info_tells_of_them(evil: Path) -> None:
    lines = str(command("info", "INDEX")(evil)).splitlines()
    line = next(line for line in lines if line.startswith("effects "))
    assert "9 images, with masks, each neuron replaced by its mean" in line
    assert "made 20" in line
    tables = str(command("info", "INDEX", "--tables")(evil)).splitlines()
    assert (
        next(t for t in tables if t.startswith("effect_images"))
        == "effect_images: image_id, class_id, logit, mask_share"
    )
    assert any(t.startswith("class_effects: layer, unit, class_id, n, effect") for t in tables)
    shutil.rmtree(evil / "extensions")
    assert not [line for line in str(command("info", "INDEX")(evil)).splitlines() if line.startswith("effects ")]
    assert "effect" not in str(command("info", "INDEX", "--tables")(evil))


def test_tables_of_effects_are_exported(evil: Path, tmp_path: Path) -> None:
    with Index(evil) as index:
        rows = export_tables(index, tmp_path / "out")
        assert rows["effect_images"] == 9
        assert rows["class_effects"] == 3 * 2 * UNITS
        there = duckdb.connect().execute(f"FROM '{tmp_path}/out/class_effects.parquet' ORDER BY ALL").df()
        assert there.equals(index.sql("FROM class_effects ORDER BY ALL"))
        assert "rank_by_effect" in (tmp_path / "out" / "schema.sql").read_text()
        export_tables(index, tmp_path / "view", tables=["key_neurons"])
        assert "rank_by_effect" in (tmp_path / "view" / "schema.sql").read_text()
    shutil.rmtree(evil / "extensions")
    with Index(evil) as index, pytest.raises(QueryError, match="no table 'class_effects'"):
        export_tables(index, tmp_path / "none", tables=["class_effects"])


def test_any_reader_of_zarr_reads_them(folder: Path) -> None:
    group = zarr.open_group(folder / "out.vitdex" / INSIDE / "arrays.zarr", mode="r")
    with Index(folder / "out.vitdex") as index:
        effects = stored(index)
        for path, spec in effects.reader.specs.items():
            array: Any = group[path]
            assert array.shape == spec.shape
            assert array.dtype == spec.dtype
            assert array.metadata.dimension_names == spec.axes
        assert np.array_equal(np.asarray(group[f"{LAYER}/effect"])[:, 5], effects.of_neuron(LAYER, 5))
        assert np.array_equal(np.asarray(group[f"{LAYER}/effect"])[4], effects.of_image(LAYER, 4))


def on_the_page(heading: str) -> list[list[str]]:
    """Rows of the table of FORMAT.md whose first column has this heading."""
    page = (Path(__file__).parents[2] / "schemas" / "FORMAT.md").read_text()
    rows = page.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_format_md_says_what_is(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "schemas" / "FORMAT.md").read_text().split("## Extensions")[1]
    with Index(folder / "out.vitdex") as index:
        effects = stored(index)
        said = {
            name.replace("LAYER", layer): (kind.replace("stored", effects.spec.stored), tuple(axes.split(", ")))
            for name, kind, axes, _ in on_the_page("array of effects")
            for layer in (effects.spec.layers if "LAYER" in name else [""])
        }
        assert said == {path: (spec.dtype, spec.axes) for path, spec in effects.reader.specs.items()}
        for table, columns in on_the_page("table of effects"):
            assert columns.split(", ") == index.sql(f"DESCRIBE {table}").column_name.tolist()
        assert all(f"`{name}`" in page for name in (*effects.spec.to_json(), *effects.manifest))
        assert len(on_the_page("table of effects")) == 2


def test_reading_effects_loads_no_torch(folder: Path) -> None:
    script = (
        "import sys, vitdex.query\n"
        f"with vitdex.query.Index({str(folder / 'out.vitdex')!r}) as index:\n"
        f"    assert len(index.effects.of_neuron({LAYER!r}, 5)) == 9\n"
        f"    assert len(index.effects.of_image({LAYER!r}, 5)) == {UNITS}\n"
        "    assert len(index.key_neurons(0, 3, 'effect')) == 3\n"
        "    assert len(index.sql('FROM class_effects JOIN key_neurons USING (layer, unit, class_id)'))\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules, 'loaded'\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_damaged_extension_is_one_line_of_every_command(
    evil: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(evil / INSIDE / "manifest.json", 300)
    for words in (["info"], ["top", "--class", "0"], ["sql", "FROM classes"], ["export", "tables", "x"]):
        verb = words[: 2 if words[0] == "export" else 1]
        monkeypatch.setattr(sys, "argv", ["vitdex", *verb, str(evil), *words[len(verb) :]])
        with pytest.raises(SystemExit) as end:
            main_module.main()
        said = capsys.readouterr().err
        assert end.value.code == 2
        assert len(said.splitlines()) == 1
        assert "with --overwrite: the index itself is whole." in said
    assert issubclass(DamagedIndex, VitdexError)
