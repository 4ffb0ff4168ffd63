"""What a stranger has put in place of the notes is never written through, deleted elsewhere, or read as a picture."""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from vitdex.query.export.descriptions import import_descriptions
from vitdex.query.index import Index
from vitdex.query.notes.generated_images import keep, read_picture, remove
from vitdex.schemas.errors import QueryError
from vitdex.schemas.layout import Layout

LAYER, UNIT, SIZE = "blocks.1.mlp.fc1", 7, (96, 96)
GREY = np.full((1, *SIZE, 3), 128, np.uint8)
ROW = pd.DataFrame({"image": [0], "layer": [LAYER], "unit": [UNIT], "ratio": [1.0]})


@pytest.fixture
def copy(sample_path: Path, tmp_path: Path) -> Path:
    """The sample's index by hard links, in a folder that a test may plant notes in."""
    return Path(shutil.copytree(sample_path, tmp_path / "copy.vitdex", copy_function=os.link))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the victim's, with a file of every name that notes have."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("victim", "notes.duckdb", "generated-000001.png"):
        (folder / name).write_bytes(b"precious")
    return folder


def untouched(outside: Path) -> bool:
    files = sorted(outside.iterdir())
    return [f.name for f in files] == ["generated-000001.png", "notes.duckdb", "victim"] and all(
        f.read_bytes() == b"precious" for f in files
    )


def write_notes(copy: Path, tmp_path: Path) -> None:
    """All that writes beside an index."""
    csv = tmp_path / "names.csv"
    csv.write_text(f"layer,unit,description\n{LAYER},{UNIT},round\n")
    layout = Layout(copy)
    with Index(copy) as index:
        import_descriptions(index, csv, "me")
    keep(layout, GREY, ROW)
    remove(layout, [1])


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("notes", ""),
        ("notes", "nowhere"),
        ("notes", "victim"),
        ("notes.duckdb", "nowhere"),
        ("notes.duckdb.wal", "victim"),
        ("notes.duckdb.wal", "nowhere"),
    ],
)
def test_a_link_is_never_written_through(name: str, target: str, copy: Path, outside: Path, tmp_path: Path) -> None:
    (copy / name).symlink_to(outside / target)
    with pytest.raises(QueryError, match=rf"{name} is in the way.*Move it away"):
        write_notes(copy, tmp_path)
    assert untouched(outside)
    (copy / name).unlink()
    write_notes(copy, tmp_path)  # and nothing was left half done


@pytest.mark.parametrize("plant", ["link", "link to nowhere", "pipe", "folder", "file"])
def test_a_picture_is_a_new_file(plant: str, copy: Path, outside: Path) -> None:
    place = copy / "notes" / "generated-000001.png"
    place.parent.mkdir()
    plants: dict[str, Callable[[], object]] = {
        "link": lambda: place.symlink_to(outside / "victim"),
        "link to nowhere": lambda: place.symlink_to(outside / "nowhere"),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "file": lambda: place.hardlink_to(outside / "victim"),
    }
    plants[plant]()
    before = os.lstat(place).st_ino
    saved = keep(Layout(copy), GREY, ROW)
    assert saved.file.tolist() == ["generated-000002.png"]
    assert (read_picture(Layout(copy), 2, SIZE) == GREY[0]).all()
    remove(Layout(copy), [2])
    assert [f.name for f in place.parent.iterdir()] == [place.name]
    assert os.lstat(place).st_ino == before
    assert untouched(outside)


def plant_row(copy: Path, number: int, file: str) -> None:
    keep(Layout(copy), GREY, ROW)
    with duckdb.connect(str(copy / "notes.duckdb")) as db:
        db.execute("UPDATE generated SET id = ?, file = ?", [number, file])


@pytest.mark.parametrize(
    "file", ["OUTSIDE/victim", "../../outside/victim", "../copy.vitdex/index.duckdb", "/dev/zero", ""]
)
def test_a_row_names_no_file(file: str, copy: Path, outside: Path) -> None:
    plant_row(copy, 1, file.replace("OUTSIDE", str(outside)))
    with Index(copy) as index:
        shown = index.neuron(LAYER, UNIT).picture()
        (copy / "notes" / "generated-000001.png").unlink()
        assert index.neuron(LAYER, UNIT).picture().size != shown.size  # the picture was the id's own
    remove(Layout(copy), [1])
    assert untouched(outside)
    assert (copy / "index.duckdb").exists()


def test_no_id_after_the_last_is_a_line(copy: Path) -> None:
    plant_row(copy, 2**32 - 1, "")
    with pytest.raises(QueryError, match=r"no id is left after 4294967295.*--remove"):
        keep(Layout(copy), GREY, ROW)


def png(width: int, height: int, content: bytes = b"", twice: tuple[int, int] | None = None) -> bytes:
    """A PNG of a given header, and a second header where one is given."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    heads = b"".join(
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in [(width, height), twice] if size
    )
    return b"\x89PNG\r\n\x1a\n" + heads + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def saved_as(kind: str, path: Path) -> Path:
    Image.fromarray(GREY[0]).save(path, format=kind)
    return path


def with_hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 20 * 2**30)


PICTURES: dict[str, Callable[[Path, Path], object]] = {
    "link to a picture": lambda at, out: at.symlink_to(saved_as("PNG", out / "x.png")),
    "device": lambda at, out: at.symlink_to("/dev/zero"),
    "pipe": lambda at, out: os.mkfifo(at),
    "folder": lambda at, out: at.mkdir(),
    "missing": lambda at, out: None,
    "empty": lambda at, out: at.write_bytes(b""),
    "EPS": lambda at, out: saved_as("EPS", at),
    "JPEG": lambda at, out: saved_as("JPEG", at),
    "PPM": lambda at, out: saved_as("PPM", at),
    "other size": lambda at, out: at.write_bytes(png(95, 96, bytes(96 * 286))),
    "bomb": lambda at, out: at.write_bytes(png(60_000, 60_000)),
    "bomb in a second header": lambda at, out: at.write_bytes(png(96, 96, b"", (60_000, 60_000))),
    "cut off": lambda at, out: at.write_bytes(png(96, 96, bytes(1000))[:-30]),
    "20 GB of nothing": lambda at, out: with_hole(at),
}


@pytest.mark.parametrize("plant", PICTURES)
def test_a_card_does_without_what_is_no_picture_of_ours(plant: str, copy: Path, tmp_path: Path) -> None:
    saved = keep(Layout(copy), GREY, ROW)
    place = copy / "notes" / saved.file[0]
    place.unlink()
    PICTURES[plant](place, tmp_path)
    start = time.monotonic()
    with pytest.raises(QueryError, match="generated image 1 cannot be shown: [^\n]+$"):
        read_picture(Layout(copy), 1, SIZE)
    assert time.monotonic() - start < 1
    with Index(copy) as index:
        height = index.neuron(LAYER, UNIT).picture().height  # with a sentence in the picture's place
        assert height > index.neuron(LAYER, UNIT + 1).picture().height
