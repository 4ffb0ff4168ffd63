"""What every store must do. A store's own test class inherits this and says how one is made (`make`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vitdex.schemas.errors import DamagedIndex
from vitdex.schemas.storage.store import Store

SMALL, LARGE = "parts/run.json", "activations.zarr/blocks.0.mlp.fc1/map/c/0/0/0"


class StoreConformance:
    """Files are written into a folder; `make` gives the store that has them."""

    remedy = r"Repeat the .* with --repair\."

    def make(self, folder: Path) -> Store:
        raise AssertionError("a store's test class says how one is made")

    @pytest.fixture
    def content(self) -> dict[str, bytes]:
        random = np.random.default_rng(0)
        return {SMALL: b"{}", LARGE: random.bytes(300_001), "empty": b""}

    @pytest.fixture
    def store(self, content: dict[str, bytes], tmp_path: Path) -> Store:
        for key, blob in content.items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(blob)
        return self.make(tmp_path)

    @pytest.mark.parametrize(
        ("key", "start", "length"),
        [(SMALL, 0, 2), (SMALL, 1, 1), (LARGE, 0, 300_001), (LARGE, 299_999, 2), (LARGE, 5, 200_000), (LARGE, 7, 0)],
    )
    def test_any_range_of_any_file(
        self, store: Store, content: dict[str, bytes], key: str, start: int, length: int
    ) -> None:
        found = store.read(key, start, length)
        assert found.dtype == np.uint8
        assert found.tobytes() == content[key][start : start + length]

    def test_what_is_read_cannot_be_written_to(self, store: Store) -> None:
        for length in (10, 200_000):
            with pytest.raises(ValueError, match="read-only"):
                store.read(LARGE, 0, length)[0] = 1

    def test_what_was_read_stays_when_the_store_is_closed(self, store: Store, content: dict[str, bytes]) -> None:
        found = store.read(LARGE, 100, 250_000)
        store.close()
        assert found.tobytes() == content[LARGE][100:250_100]
        assert store.read(SMALL, 0, 2).tobytes() == b"{}"  # reading opens it again

    def test_sizes(self, store: Store, content: dict[str, bytes]) -> None:
        assert {key: store.size(key) for key in content} == {key: len(blob) for key, blob in content.items()}

    @pytest.mark.parametrize(("key", "start", "length"), [(SMALL, 0, 3), (LARGE, 300_000, 2), (LARGE, 100, 300_000)])
    def test_a_range_beyond_the_end_is_damage(self, store: Store, key: str, start: int, length: int) -> None:
        with pytest.raises(DamagedIndex, match=rf"{key} ends before byte [\d,]+\. {self.remedy}$"):
            store.read(key, start, length)

    def test_a_missing_file_is_damage(self, store: Store) -> None:
        asks = (lambda: store.read("no", 0, 1), lambda: store.read("no", 0, 10**6), lambda: store.size("no"))
        for ask in asks:
            with pytest.raises(DamagedIndex, match=rf"no is missing or cannot be read\. {self.remedy}"):
                ask()

    def test_many_files_are_more_than_may_be_open(self, tmp_path: Path) -> None:
        for i in range(600):
            (tmp_path / f"{i}").write_bytes(bytes([i % 256]) * 20_000)
        store = self.make(tmp_path)
        for i in range(600):
            assert store.read(str(i), 0, 3).tobytes() == bytes([i % 256]) * 3
            assert store.read(str(i), 0, 20_000)[-1] == i % 256
