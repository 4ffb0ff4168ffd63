"""Descriptions from a file that is no such CSV: one short line each, at once, and nothing is imported."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vitdex.query.notes.descriptions import read_descriptions
from vitdex.schemas.errors import QueryError


@dataclass
class Layer:
    name: str = "a"
    units: int = 10


LAYERS: Any = [Layer()]
HEAD = b"layer,unit,description\n"
ROW, CSV = "Give layer, unit number, description", "is no readable CSV"
FILES: dict[str, tuple[bytes, str]] = {
    "unit of 23 digits": (HEAD + b"a,99999999999999999999999,x\n", ROW),
    "unit of 5,000 digits": (HEAD + b"a," + b"9" * 5000 + b",x\n", ROW),
    "unit of 2^32": (HEAD + b"a,4294967296,x\n", ROW),
    "negative unit": (HEAD + b"a,-1,x\n", ROW),
    "unit that is no whole number": (HEAD + b"a,1.5,x\n", ROW),
    "superscript unit": (HEAD + "a,²,x\n".encode(), ROW),
    "unit beyond the layer": (HEAD + b"a,10,x\n", "1 neuron that the index does not have: a/10"),
    "NUL in a layer": (HEAD + b"a\0,1,x\n", "that the index does not have"),
    "a layer of 100 kB": (HEAD + b"a" * 100_000 + b",1,x\n", "that the index does not have"),
    "a field of 100 MB": (HEAD + b"a,1," + b"x" * 100_000_000, CSV),
    "a line of 100 MB": (b"x" * 100_000_000, CSV),
    "many fields": (HEAD + b"," * 10_000_000, ROW),
    "an open quote": (HEAD + b'a,1,"x', CSV),
    "binary": (bytes(range(256)), CSV),
    "UTF-16": (HEAD.decode().encode("utf-16"), CSV),
    "empty": (b"", "begins with ''"),
}


@pytest.mark.parametrize(("content", "line"), FILES.values(), ids=FILES)
def test_a_csv_that_is_none(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(QueryError, match=line) as said:
        read_descriptions(tmp_path / "x.csv", LAYERS)
    assert time.monotonic() - start < 5
    assert len(str(said.value)) < 500


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/random", "/dev/null", "folder", "hole", "missing"])
def test_no_file_at_all(kind: str, tmp_path: Path) -> None:
    file = Path(kind) if kind.startswith("/") else tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind == "hole":
        file.touch()
        os.truncate(file, 20 * 2**30)
    with pytest.raises(QueryError, match=r"begins with ''" if kind == "/dev/null" else CSV):
        read_descriptions(file, LAYERS)


def test_a_pipe_of_the_users_own_shell_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(HEAD + b"a,1,x\0y\r\n",))
    writer.start()
    assert read_descriptions(tmp_path / "pipe", LAYERS).values.tolist() == [["a", 1, "x\0y"]]
    writer.join()
