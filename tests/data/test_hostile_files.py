"""Heads, checkpoints, names and labels that are no such thing: one line each, at once, in little memory."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from vitdex.data.labels.image_labels import label_rows
from vitdex.data.labels.label_files import read_labels, read_names
from vitdex.data.models.checkpoints import open_checkpoint
from vitdex.data.models.configs import read_config
from vitdex.data.models.head import read_head
from vitdex.schemas.errors import ModelError, SourceError, VitdexError


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 10  # of a busy machine


def head(classes: str | None = None, weight: NDArray[np.float32] | None = None) -> bytes:
    values = np.ones((3, 4), np.float32) if weight is None else weight
    content: dict[str, object] = {
        "weight": {"dtype": "F32", "shape": values.shape, "data_offsets": [0, values.nbytes]},
        **({} if classes is None else {"__metadata__": {"classes": classes}}),
    }
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + values.tobytes()


NAMES = "class names in head.safetensors are not a JSON list of texts"
SHAPE = "is not a matrix of one row or more"
NONE = "is not a safetensors file"
HEADS: dict[str, tuple[bytes, str]] = {
    "a number": (head("5"), NAMES),
    "null": (head("null"), NAMES),
    "an object": (head('{"0": "a"}'), NAMES),
    "100,000 brackets": (head("[" * 100_000), NAMES),
    "numbers": (head("[1, 2, 3]"), NAMES),
    "a list in it": (head('[["a"], "b", "c"]'), NAMES),
    "null in it": (head('[null, "b", "c"]'), NAMES),
    "NaN in it": (head('[NaN, "b", "c"]'), NAMES),
    "10,000 digits": (head(f"[{'9' * 10_000}, 1, 2]"), NAMES),
    "half a letter": (head(r'["\ud800", "b", "c"]'), NAMES),
    "a long name": (head(json.dumps(["a", "b", "x" * 1001])), "has more than 1,000 letters"),
    "too few": (head('["a"]'), "names 1 classes for 3 rows"),
    "no rows": (head("[]", np.ones((0, 4), np.float32)), SHAPE),
    "no columns": (head(None, np.ones((3, 0), np.float32)), SHAPE),
    "a row": (head(None, np.ones(3, np.float32)), SHAPE),
    "NaN": (head(None, np.full((3, 4), np.nan, np.float32)), "are not finite"),
    "infinity": (head(None, np.full((3, 4), np.inf, np.float32)), "are not finite"),
    "a header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", NONE),
    "a header of 2^64 - 1 bytes": (struct.pack("<Q", 2**64 - 1) + b"{}", NONE),
    "a header of brackets": (struct.pack("<Q", 200_000) + b"[" * 200_000, NONE),
    "a header of objects": (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, NONE),
    "cut off": (head()[:-10], NONE),
    "short": (b"abc", NONE),
    "empty": (b"", NONE),
}


@pytest.mark.parametrize(("content", "line"), HEADS.values(), ids=HEADS)
def test_a_head_that_is_none(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=line):
        read_head(tmp_path / "head.safetensors")


def test_classes_may_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(head('["crane", "crane", "kite"]'))
    *_, names = read_head(tmp_path / "head.safetensors")
    assert names is not None
    assert names.names == ("crane", "crane", "kite")  # as of ImageNet's; who asks for it is given the numbers


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "/dev/zero", "/dev/random", "folder", "hole", "missing"])
def test_no_file_of_tensors(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    if kind == "hole":
        file.touch()
        os.truncate(file, 20 * 2**30)
    elif kind == "folder":
        file.mkdir()
    elif kind.startswith("/"):
        file.symlink_to(kind)
    elif "pipe" in kind:
        os.mkfifo(file if kind == "pipe" else tmp_path / "pipe")
        if kind != "pipe":
            file.symlink_to(tmp_path / "pipe")
    line = "no .* at" if kind == "missing" else "no weights in" if kind == "folder" else NONE
    with pytest.raises(ModelError, match=line):
        open_checkpoint(file)
    with pytest.raises(ModelError, match=line if kind != "folder" else NONE):
        read_head(file)


DEEP = "[" * 100_000
TEXTS: dict[str, bytes] = {
    "binary": bytes(range(256)) * 10,
    "a field of 100 MB": b"a.png," + b"x" * 100_000_000,
    "a line of 100 MB": b"x" * 100_000_000,
    "a number of 5,000 digits": b"file,class\na.png," + b"9" * 5000 + b"\n",
    "numbers of 5,000 digits": b"9" * 5000 + b"\n" + b"8" * 5000,
    "100,000 brackets": DEEP.encode(),
    "no end": b"",  # a link to /dev/zero
    "hole": b"",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_that_are_no_names(kind: str, tmp_path: Path) -> None:
    for name in ("labels.csv", "x.safetensors.index.json", "config.json"):
        if kind == "no end":
            (tmp_path / name).symlink_to("/dev/zero")
        else:
            (tmp_path / name).write_bytes(TEXTS[kind])
            if kind == "hole":
                os.truncate(tmp_path / name, 20 * 2**30)
    for error, read in (
        (SourceError, lambda: read_labels(tmp_path / "labels.csv")),
        (ModelError, lambda: read_names(tmp_path / "labels.csv")),
        (ModelError, lambda: open_checkpoint(tmp_path / "x.safetensors.index.json")),
        (ModelError, lambda: read_config(tmp_path, {})),
    ):
        with pytest.raises(error) as said:
            read()
        assert isinstance(said.value, VitdexError)
        assert len(str(said.value)) < 500


def test_a_pipe_of_the_users_own_shell_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a.png,x\n",))
    writer.start()
    assert read_labels(tmp_path / "pipe") == {"a.png": "x"}
    writer.join()


@pytest.mark.parametrize("label", ["9" * 1000, "٣", "²", "1e5", "-1", "\0", "٣" * 900])
def test_labels_like_numbers_are_no_rows(label: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"file,class\na.png,{label}\n", encoding="utf-8")
    labels = read_labels(tmp_path / "labels.csv")
    assert labels == {"a.png": label}
    assert label_rows([label], None) == {}
