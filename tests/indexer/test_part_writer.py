"""The part in memory: what is being written does not change, and parts are alike."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from vitdex.indexer.plan import make_plan, sample_request
from vitdex.indexer.run.part_writer import PartBuffer
from vitdex.schemas import array_specs
from vitdex.schemas.array_specs import ArraySpec, fitting_part_images


def test_values_of_the_next_part_wait_until_the_file_is_written() -> None:
    specs = [ArraySpec(name, ("image",), (8,), "uint8", (4,), None, "") for name in ("a", "b")]
    buffer, rows = PartBuffer(specs), np.arange(4)
    for name in ("a", "b"):
        buffer.put(name, rows, np.full(4, 1, np.uint8))
    buffer.hold()
    next_part = threading.Thread(target=buffer.put, args=("a", rows, np.full(4, 2, np.uint8)))

    def keep(path: str, content: memoryview) -> bytes:
        if path == specs[0].file(0):
            next_part.start()
            next_part.join(0.2)
            assert next_part.is_alive()
        return bytes(content[:4])

    kept = buffer.store(0, keep)
    next_part.join(10)
    assert set(kept.values()) == {b"\1\1\1\1"}
    assert bytes(buffer.files(1)[specs[0].file(1)][:4]) == b"\2\2\2\2"


@pytest.mark.parametrize(("images", "batch_size", "wanted"), [(96, 16, 48), (70, 16, 48), (33, 16, 33), (101, 80, 51)])
def test_parts_are_alike(
    images: int, batch_size: int, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_specs, "PART_IMAGES", 64)
    spec = make_plan(sample_request(tmp_path / "x", limit=120, device="cpu")).spec
    assert fitting_part_images(replace(spec, images=images, batch_size=batch_size)) == wanted
