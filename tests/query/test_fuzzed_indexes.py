"""Indexes broken at random and sealed again: opened, asked, verified, exported, they answer or are refused in one line.

Never a traceback, a wait, a file outside, a network. The base is the archive of format 1: twelve images, small files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import storage_directory
from vitdex.data.models.head import read_head
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.schemas.errors import VitdexError
from vitdex.schemas.facts import file_facts
from vitdex.schemas.manifest import seal_manifest

BASE = Path(__file__).parents[1] / "archives" / "v1" / "tiny"
SECRET = "the-secret-of-the-house"
SECONDS = 2.0  # above the sound index's own, which is a fraction of one
ODD: list[Any] = [
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**12, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "../x", "/etc/passwd", "a\0b", "a" * 10_000, "\x1b[31m", "'; DROP TABLE images; --", "\ud800", "犬", "hf-hub:a/b",
    [], {}, [[]], [1, 2], ["x"], {"x": 1}, {"": {}},
]  # fmt: skip
SQL = [
    "UPDATE {table} SET {column} = NULL",
    "UPDATE {table} SET {column} = '{odd}'",
    "UPDATE {table} SET {column} = 4000000000",
    "UPDATE {table} SET {column} = 0",
    "DELETE FROM {table}",
    "DELETE FROM {table} WHERE random() < 0.5",
    "INSERT INTO {table} FROM {table}",
    "DROP TABLE {table} CASCADE",
    "ALTER TABLE {table} RENAME TO {other}x",
    "ALTER TABLE {table} RENAME COLUMN {column} TO y",
    "ALTER TABLE {table} ADD COLUMN y INT",
    "CREATE MACRO {function}(a) AS {number}",
    "CREATE VIEW {other}v AS SELECT content FROM read_text('{secret}')",
    "CREATE OR REPLACE TABLE {table} AS SELECT 1 AS {column}",
    "CREATE OR REPLACE VIEW key_neurons AS SELECT content AS class FROM read_text('{secret}')",
    'CREATE TABLE "{odd}" (a INT)',
    "CREATE SCHEMA {function}",
]
COLUMNS = {
    "index.duckdb": {
        "images": ["image_id", "path", "label", "class_id", "predicted", "p_class", "crop", "width"],
        "classes": ["class_id", "wnid", "class", "logit_offset"],
        "layers": ["layer", "block", "kind", "units"],
        "neurons": ["layer", "unit", "q99", "dead", "pre_std"],
        "exemplars": ["layer", "unit", "side", "token", "rank", "image_id", "patch", "pre"],
        "class_scores": ["layer", "unit", "class_id", "score", "rank_in_class"],
        "class_activations": ["n", "contribution", "auroc", "class_id"],
        "failures": ["path", "reason"],
    },
    "notes.duckdb": {
        "descriptions": ["layer", "unit", "source", "description"],
        "generated": ["id", "layer", "unit", "file", "class_id"],
    },
}
QUESTIONS = [
    ["info", "{index}"],
    ["info", "{index}", "--tables"],
    ["top", "{index}", "--class", "0"],
    ["top", "{index}", "--neuron", "blocks.1.mlp.fc1:7", "-o", "{out}/top.png"],
    ["neighbours", "{index}", "3", "--neuron", "blocks.1.mlp.fc1"],
    ["heatmap", "{index}", "--neuron", "blocks.1.mlp.fc1:7", "-o", "{out}/map.png"],
    ["dissect", "blocks", "{index}"],
    ["dissect", "shared", "{index}"],
    ["verify", "{index}"],
    ["verify", "{index}", "--quick"],
    ["export", "tables", "{index}", "{out}/tables", "--format", "csv"],
]


def replace(file: Path, content: bytes) -> None:
    """A new file in place of a hard link."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a value out of JSON."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found += [(value, key), *nodes(inner)]
    return found


def odd(chance: random.Random) -> Any:
    """A value of its own: what is put into a content may be broken there in its turn."""
    return deepcopy(chance.choice(ODD))


def break_json(content: Any, chance: random.Random) -> None:
    """Change one place of a value out of JSON: another value, one from elsewhere in it, none, or one more."""
    places = nodes(content)
    if not places:  # nothing is left to break
        return
    container, key = chance.choice(places)
    how = chance.randrange(5)
    if how == 0:
        del container[key]
    elif how == 1:
        other, at = chance.choice(places)
        container[key] = json.loads(json.dumps(other[at])) if at in other or isinstance(other, list) else None
    elif how == 2 and isinstance(container, list):
        container.extend(json.loads(json.dumps(container)))
    elif how == 3 and isinstance(container, dict):
        container[chance.choice(["x", "../x", "/x", "", "a\0", "é"])] = odd(chance)
    else:
        container[key] = odd(chance)


def unsealed(folder: Path) -> dict[str, Any]:
    """A manifest as seal_manifest takes it."""
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return {name: value for name, value in content.items() if name not in ("format", "format_version", "sha256")}


def break_manifest(folder: Path, chance: random.Random) -> None:
    manifest = unsealed(folder)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        break_json(chance.choice([manifest, manifest["run"]]) if "run" in manifest else manifest, chance)
    replace(folder / "manifest.json", seal_manifest(manifest))


def break_zarr(folder: Path, chance: random.Random) -> None:
    file = chance.choice(sorted((folder / "activations.zarr").rglob("zarr.json")))
    content = json.loads(file.read_bytes())
    for _ in range(3):
        break_json(content, chance)
    replace(file, json.dumps(content).encode())


def break_bytes(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 3, 50])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.2:
        del content[chance.randrange(len(content)) :]
    replace(file, bytes(content))


def break_chunk(folder: Path, chance: random.Random) -> None:
    break_bytes(
        chance.choice(sorted(p for p in (folder / "activations.zarr").rglob("*") if "/c/" in str(p) and p.is_file())),
        chance,
    )


def break_database(folder: Path, chance: random.Random, file: str) -> None:
    path = folder / file
    if chance.random() < 0.15:
        break_bytes(path, chance)
    else:
        replace(path, path.read_bytes())
        with duckdb.connect(str(path)) as db:
            for _ in range(chance.choice([1, 1, 3])):
                _run_odd_sql(db, folder, chance, COLUMNS[file])
    if file == "index.duckdb":
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["files"][file] = list(file_facts(path))
        replace(
            folder / "manifest.json",
            seal_manifest({k: v for k, v in manifest.items() if k not in ("format", "format_version", "sha256")}),
        )


def _run_odd_sql(
    db: duckdb.DuckDBPyConnection, folder: Path, chance: random.Random, tables: dict[str, list[str]]
) -> None:
    table = chance.choice(sorted(tables))
    words = {
        "table": table, "column": chance.choice(tables[table]), "other": chance.choice(sorted(tables)),
        "odd": chance.choice(["x", "", "../x", "/etc/passwd", "a\x1b[31mb", "$x^2$", "=1+1", "犬", "x" * 5000]),
        "function": chance.choice(["length", "ends_with", "count", "duckdb_tables", "coalesce", "max", "s"]),
        "number": chance.randrange(10), "secret": folder.parent / "outside" / "secret",
    }  # fmt: skip
    with suppress(duckdb.Error):  # of another type, or two of one name
        db.execute(chance.choice(SQL).format(**words))


def break_special(folder: Path, chance: random.Random) -> None:
    file = chance.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    file.unlink()
    outside = folder.parent / "outside" / "secret"
    kinds: list[Callable[[Path], object]] = [os.mkfifo, Path.mkdir]
    kinds += [lambda place: place.symlink_to(outside), lambda place: place.symlink_to("/dev/zero")]
    chance.choice(kinds)(file)


BREAK: dict[str, Callable[[Path, random.Random], None]] = {
    "manifest": break_manifest,
    "zarr": break_zarr,
    "chunk": break_chunk,
    "tables": lambda folder, chance: break_database(folder, chance, "index.duckdb"),
    "notes": lambda folder, chance: break_database(folder, chance, "notes.duckdb"),
    "special": break_special,
}
WRITTEN: list[str] = []  # files that Python opened for writing or removed while a broken index was looked at
WATCHING = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not WATCHING[0]:
        return
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        WRITTEN.append(arguments[0])
    if event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link"):
        WRITTEN.append(str(arguments[0]))
    if event.startswith(("socket.connect", "subprocess.", "os.exec", "os.system", "urllib.")):
        WRITTEN.append(event)


sys.addaudithook(_watch)


def look(folder: Path, chance: random.Random, questions: int) -> list[str]:
    """Ask some questions; what is wrong about how they end."""
    faults = []
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    for words in chance.sample(QUESTIONS, questions):
        filled = [word.format(index=folder, out=out) for word in words]
        begin = time.monotonic()
        result = CliRunner().invoke(cli, filled)
        took = time.monotonic() - begin
        error = result.exception
        if error is not None and not isinstance(error, VitdexError | SystemExit):
            faults.append(f"{words[:2]}: {type(error).__name__}: {error}")
        if isinstance(error, VitdexError) and ("\n" in str(error) or len(str(error)) > 2000):
            faults.append(f"{words[:2]}: not one line: {str(error)[:200]!r}")
        if took > SECONDS:
            faults.append(f"{words[:2]}: {took:.1f} s")
        if SECRET in result.output:
            faults.append(f"{words[:2]}: said the secret")
    with suppress(Exception), Index(folder) as index:  # zarr's own errors are its user's
        begin = time.monotonic()
        faults += ["other values"] * (index.arrays["blocks.1.mlp.fc1/max"].shape != (12, 96))
        faults += ["zarr takes its time"] * (time.monotonic() - begin > SECONDS)
    faults += [f"secret in {p}" for p in out.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    return faults


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """The archive where files cost little; in memory if that can be. It answers everything, and has imported all."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        copy = Path(shutil.copytree(BASE, Path(place) / "base"))
        for words in QUESTIONS:
            result = CliRunner().invoke(cli, [word.format(index=copy, out=place) for word in words])
            assert result.exit_code == 0, result.output
        yield copy


def broken_indexes_do_no_harm(base: Path, kind: str, chance: random.Random, questions: int = 3) -> None:
    with tempfile.TemporaryDirectory(dir=base.parent) as place:
        folder = Path(shutil.copytree(base, Path(place) / "evil.vitdex", copy_function=os.link))
        outside = Path(place) / "outside"
        outside.mkdir()
        (outside / "secret").write_text(SECRET)
        BREAK[kind](folder, chance)
        WRITTEN.clear()
        WATCHING[0] = True
        try:
            faults = look(folder, chance, questions)
        finally:
            WATCHING[0] = False
        own = (tempfile.gettempdir(), str(base.parent), "/dev/null", str(storage_directory()))  # Hypothesis writes too
        faults += [f"wrote {p}" for p in WRITTEN if not p.startswith(own) and "__pycache__" not in p]
        assert faults == [], faults
        assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("secret", SECRET)]


def broken_heads_are_refused(folder: Path, chance: random.Random) -> None:
    names: list[Any] = [f"c{i}" for i in range(3)]
    described: Any = {
        "__metadata__": {"classes": json.dumps(names)},
        "weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "bias": {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]},
    }
    for _ in range(chance.choice([0, 1, 1, 3])):
        break_json(described, chance)
    if chance.random() < 0.6 and isinstance(described, dict):
        odd = chance.choice([*ODD, [1, 2, 3], ["a", "a", "a"], ["a", "b", None], {"0": "a"}, ["a"] * 4])
        described["__metadata__"] = {"classes": chance.choice([json.dumps(odd), "[" * 100_000, "", "{", "null"])}
    header = json.dumps(described).encode()
    size = chance.choice([len(header)] * 8 + [0, 2**63, len(header) + 1])
    file = folder / "head.safetensors"
    file.write_bytes(struct.pack("<Q", size) + header + np.arange(15, dtype="<f4").tobytes())
    if chance.random() < 0.3:
        break_bytes(file, chance)
    with suppress(VitdexError):
        weight, _, classes = read_head(file)
        assert weight.ndim == 2
        assert classes is None or len(classes.names) == len(weight)


@pytest.mark.parametrize("kind", BREAK)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_a_broken_index_does_no_harm(base: Path, kind: str, chance: random.Random) -> None:
    broken_indexes_do_no_harm(base, kind, chance)


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_a_broken_head_is_refused(base: Path, chance: random.Random) -> None:
    broken_heads_are_refused(base.parent, chance)


@pytest.mark.soak
@pytest.mark.parametrize("kind", BREAK)
def test_thousands_of_broken_indexes_do_no_harm(base: Path, kind: str) -> None:
    for seed in range(10_000 if kind == "manifest" else 2_000):
        broken_indexes_do_no_harm(base, kind, random.Random(f"{kind} {seed}"))


@pytest.mark.soak
def test_thousands_of_broken_heads_are_refused(base: Path) -> None:
    for seed in range(5_000):
        broken_heads_are_refused(base.parent, random.Random(seed))
