"""Files reach the disk whole, past the page cache or through it; and a batch holds no more memory than it must."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from vitdex.indexer.plan import make_plan, sample_request
from vitdex.indexer.run.capture import Capture
from vitdex.schemas.storage.atomic_files import (
    DIRECT_BYTES,
    STEP,
    DirectFile,
    page_aligned,
    write_file,
    write_voucher,
)


@pytest.mark.parametrize("refused", [None, "open", "write"])
def test_large_files_are_whole_with_and_without_direct_writing(
    refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = page_aligned(3 * DIRECT_BYTES + 5)
    content[:] = np.random.default_rng(0).integers(0, 256, len(content), np.uint8)
    if refused:

        def refuse(*arguments: Any) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, refused, refuse)
    facts = write_file(tmp_path / "a/b", content.data)
    assert (tmp_path / "a/b").read_bytes() == content.tobytes()
    assert facts == (len(content), xxhash.xxh3_128_hexdigest(content.tobytes()))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("refused", [None, "open", "pwrite"])
def test_a_stream_is_whole_with_and_without_direct_writing(
    refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.random.default_rng(0).integers(0, 256, 2 * STEP + 777, np.uint8)
    if refused:
        accepting = getattr(os, refused)
        flags = iter([True])

        def refuse(*arguments: Any) -> int:
            if next(flags, False):  # the first time: the file system knows no direct writing
                raise OSError(errno.EINVAL, "Invalid argument")
            return int(accepting(*arguments))

        monkeypatch.setattr(os, refused, refuse)
    with DirectFile(tmp_path / "a") as file:
        for piece in np.split(content, [1, 100, STEP - 3, STEP + 5]):
            file.write(piece.data)
    assert (tmp_path / "a").read_bytes() == content.tobytes()


def test_a_batch_keeps_no_layer_alive(tmp_path: Path) -> None:
    """A view of one token would hold all tokens of all layers until the batch ends."""
    plan = make_plan(sample_request(tmp_path / "a", limit=4, device="cpu", maps="none"))
    size = plan.spec.preprocessing["input_size"][1]
    with Capture(plan.anatomy, plan.spec, plan.head, None) as capture:
        found = capture(torch.zeros(4, size, size, 3, dtype=torch.uint8), range(4)).arrays
        held = {**found, **{f"activated {name}": kept for name, kept in capture.kept.activated.items()}}
    for name, tensor in held.items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_the_name_of_a_voucher_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of what the system is asked for: its bytes flushed, renamed, then its folder flushed."""
    asked: list[str] = []
    flush, rename = os.fsync, Path.replace

    def noted_flush(descriptor: int) -> None:
        asked.append("flush folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        flush(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        asked.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(Path, "replace", noted_rename)
    write_voucher(tmp_path / "p" / "v", b"2")
    assert asked == ["flush file", "rename", "flush folder"]


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_voucher(tmp_path / "v", b"2")
    assert (tmp_path / "v").read_bytes() == b"2"
