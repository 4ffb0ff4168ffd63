"""A full or read-only disk is one line and exit status 2, before long work, and leaves nothing half written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from safetensors.numpy import save_file
from vitdex.query.commands import main as main_module
from vitdex.query.generate import run as generate_module
from vitdex.query.index import Index
from vitdex.query.notes.database import SCHEMA

LAYER = "blocks.0.mlp.fc1"
COMMANDS: dict[str, list[str]] = {
    "tables": ["export", "tables", "INDEX", "DISK/out"],
    "tables as CSV": ["export", "tables", "INDEX", "DISK/out", "images", "exemplars", "--format", "csv"],
    "clip-dissect": ["export", "clip-dissect", "INDEX", "DISK/out", "--layer", LAYER],
    "milan": ["export", "milan", "INDEX", "DISK/out", "--layer", LAYER, "--units", "0-20"],
    "a CSV": ["sql", "INDEX", "FROM exemplars LIMIT 30000", "--csv", "-o", "DISK/out.csv"],
    "a Parquet file": ["sql", "INDEX", "FROM exemplars LIMIT 99999", "--csv", "-o", "DISK/out.parquet"],
    "a JSON file": ["sql", "INDEX", "FROM exemplars LIMIT 9999", "--csv", "-o", "DISK/out.json"],
    "a picture": ["top", "INDEX", "--class", "bird", "-k", "5", "-o", "DISK/out.png"],
    "import": ["import", "descriptions", "DISK/index", "DISK/index/names.csv", "--source", "me"],
    "head": ["head", "INDEX", "DISK/index/head.safetensors", "DISK/other"],
    "generate": ["generate", "DISK/index", "--class", "bird"],
    "remove": ["generate", "DISK/index", "--remove", "1"],
}


@pytest.fixture
def disk(tmp_path: Path, sample_path: Path) -> Iterator[Path]:
    """A disk of 40 MB with the tables of an index, notes, and descriptions to import."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        sys.platform != "linux"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("no disk may be mounted here")
    try:
        (place / "index").mkdir()
        for name in ("manifest.json", "index.duckdb"):
            shutil.copy(sample_path / name, place / "index" / name)
        rows = "".join(f"{LAYER},{unit},{'round ' * 2000}{unit}\n" for unit in range(700))
        save_file({"weight": np.ones((2, 192), np.float32)}, place / "index" / "head.safetensors")
        (place / "index" / "names.csv").write_text("layer,unit,description\n" + rows)
        with duckdb.connect(str(place / "index" / "notes.duckdb")) as db:
            db.execute(f"{SCHEMA} INSERT INTO generated (id) VALUES (1)")
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leaving: int) -> None:
    free = shutil.disk_usage(place).free
    with (place / "filling").open("wb") as file:
        file.write(bytes(max(0, free - leaving)))


def files_on(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def said_by(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["vitdex", *words])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code == 2
    *notes, said = capsys.readouterr().err.splitlines()
    assert said.startswith("Error: ")
    about = re.compile(r"exciting |The first \d+ of |Definitions: |\d+ of \d+ columns; ")
    assert all(about.match(note) for note in notes), notes
    return said


WHOLE = re.compile(r"out/\w+\.(csv|parquet)")  # tables before the one that did not fit
TROUBLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "read-only": (
        lambda disk: subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True),
        "cannot be written",
    ),
    "full": (lambda disk: fill(disk, 0), "free|No space left"),
    "nearly full": (lambda disk: fill(disk, 60_000), "free|No space left"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_one_line_before_long_work(
    trouble: str, disk: Path, sample_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "open_model", lambda *_: pytest.fail("the work had begun"))
    cause, line = TROUBLE[trouble]
    cause(disk)
    before = files_on(disk)
    for name, words in COMMANDS.items():
        if trouble == "nearly full" and name == "a picture":  # which fits
            continue
        start = time.monotonic()
        said = said_by(
            [w.replace("INDEX", str(sample_path)).replace("DISK", str(disk)) for w in words], capsys, monkeypatch
        )
        assert any(part in said for part in line.split("|")), said
        assert time.monotonic() - start < 20
        assert {f for f in files_on(disk) if not WHOLE.fullmatch(f)} == before, name


def test_notes_are_whole_when_a_disk_fills_up_meanwhile(
    disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk, 4_600_000)  # more than is asked for, less than it takes
    for again in (True, False):
        if not again:
            (disk / "index" / "notes.duckdb").unlink()
        before = files_on(disk) - {"index/notes.duckdb.wal"}
        said = said_by([w.replace("DISK", str(disk)) for w in COMMANDS["import"]], capsys, monkeypatch)
        assert "Make space" in said
        assert files_on(disk) - {"index/notes.duckdb.wal"} == before  # DuckDB goes on from it, or leaves it alone
        with Index(disk / "index") as index:
            assert index.sql("FROM descriptions").empty


@pytest.mark.parametrize("name", ["milan", "clip-dissect", "import", "generate"])
def test_room_is_asked_for_before_the_work(
    name: str, sample_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sample_path, tmp_path / "index", copy_function=os.link)
    (tmp_path / "index" / "names.csv").write_text(f"layer,unit,description\n{LAYER},1,x\n")
    before = files_on(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    words = [w.replace("INDEX", str(sample_path)).replace("DISK", str(tmp_path)) for w in COMMANDS[name]]
    assert "are needed in" in said_by(words, capsys, monkeypatch)
    assert files_on(tmp_path) == before
