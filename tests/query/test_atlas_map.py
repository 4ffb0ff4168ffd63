"""The map of the atlas: principal components and arrangements against direct computations."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from vitdex.query.atlas import apart, arrangement
from vitdex.query.atlas.apart import arranged_apart
from vitdex.query.atlas.arrangement import FEWEST, arranged, neighbours, recalled, share_kept
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.files import data_file
from vitdex.query.atlas.placing import nearest_of, placing, points_of
from vitdex.query.index import Index
from vitdex.query.stored.stored_index import StoredIndex

pytest.importorskip("openTSNE", reason="the extra vitdex[atlas] is not installed")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache in which nothing has been arranged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def atlas(sample_path: Path) -> Iterator[Atlas]:
    with Index(sample_path) as index:
        yield Atlas(index)


def map_of(atlas: Atlas) -> Any:
    return json.loads(data_file(atlas, "data/map.json").content)


def coordinates(space: Any) -> NDArray[np.float64]:
    codes = np.stack([np.frombuffer(base64.b64decode(space[axis]), "<u2") for axis in "xy"], 1)
    low, high = np.array(space["low"]), np.array(space["high"])
    values: NDArray[np.float64] = low + codes / 65535 * (high - low)
    return values


def of_length_one(rows: NDArray[Any]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return unit


def spaces_of(index: StoredIndex) -> dict[str, NDArray[np.float64]]:
    """The spaces as they are defined: value vectors, and all their centred scores."""
    vectors = np.concatenate(list(np.asarray(index.arrays["value_vectors"], np.float64)))
    head = np.asarray(index.arrays["head"], np.float64)
    return {"vectors": of_length_one(vectors), "scores": of_length_one(vectors @ (head - head.mean(0)).T)}


def grouped(seed: int = 0) -> NDArray[np.float32]:
    """Points of length 1 in twenty groups of twenty."""
    random = np.random.default_rng(seed)
    rows = np.repeat(random.standard_normal((20, 30)), 20, 0) + 0.3 * random.standard_normal((400, 30))
    return of_length_one(rows).astype(np.float32)


def test_axes_are_the_two_directions_of_most_variance(atlas: Atlas) -> None:
    found = map_of(atlas)["spaces"]
    for name, rows in spaces_of(atlas.index).items():
        space = found[f"{name}-axes"]
        sizes = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        assert space["share"] == pytest.approx(sizes[:2] / sizes.sum(), rel=1e-4)
        assert np.square(coordinates(space)).sum(0) == pytest.approx(sizes[:2], rel=1e-3)
        assert 0.1 < space["kept"]["share"] < 0.4


def test_the_map_is_there_at_once_and_arranged_when_that_is_made(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arranging itself is stood in for: what is shown is what was made, of the rows of each space."""
    asked: list[NDArray[np.float32]] = []

    def stand_in(rows: NDArray[np.float32], progress: Any) -> arrangement.Arranged:
        asked.append(rows)
        return arrangement.Arranged(rows[:, 3:5].copy(), 0.5, neighbours(rows, 10)[0])

    monkeypatch.setattr(arrangement, "_arrange", stand_in)
    before = map_of(atlas)
    assert (before["arranging"], list(before["spaces"])) == ("under way", ["vectors-axes", "scores-axes"])
    placing(atlas).make()
    after = map_of(atlas)
    assert (after["arranging"], list(after["spaces"])[:2]) == ("made", ["vectors", "scores"])
    assert after["spaces"]["vectors"]["kept"] == {"near": 10, "within": 100, "share": 0.5, "chance": 0.021706099}
    for rows, (name, own) in zip(asked, spaces_of(atlas.index).items(), strict=True):
        some = np.arange(0, len(own), 97)
        assert rows[some] @ rows[some].T == pytest.approx(own[some] @ own[some].T, abs=1e-5)
        assert coordinates(after["spaces"][name]) == pytest.approx(rows[:, 3:5], abs=1e-4)
        assert np.array_equal(points_of(atlas, name), rows[:, 3:5])  # type: ignore[arg-type]
    cosines = spaces_of(atlas.index)["vectors"] @ spaces_of(atlas.index)["vectors"].T
    np.fill_diagonal(cosines, -1)
    for row in (0, 77, 4607):
        best = np.argsort(-cosines[row])[:8]
        for found in (nearest_of(atlas, row, 8), atlas.nearness.by_vectors(row, 8)):  # found before, and anew
            assert [768 * place + unit for place, unit, _ in found] == best.tolist()
            assert [cosine for _, _, cosine in found] == pytest.approx(cosines[row, best], abs=1e-6)


def test_neighbours_are_those_of_the_largest_cosine() -> None:
    rows = grouped()
    found, cosines = neighbours(rows, 7)
    near = rows.astype(np.float64) @ rows.T
    np.fill_diagonal(near, -np.inf)
    assert np.array_equal(found, np.argsort(-near, 1)[:, :7])
    assert cosines == pytest.approx(-np.sort(-near, 1)[:, :7], abs=1e-6)


def test_an_arrangement_keeps_neighbours_and_is_kept() -> None:
    rows, told = grouped(), []
    made = arranged(rows, "grouped", lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (1500, 1500)
    assert made.kept > 0.95
    far = np.linalg.norm(made.points[:, None].astype(np.float64) - made.points, axis=2)
    np.fill_diagonal(far, np.inf)
    nearest = neighbours(rows, 10)[0]
    own = [np.isin(nearest[i], np.argsort(far[i])[:100]).mean() for i in range(len(rows))]
    assert made.kept == pytest.approx(np.mean(own), abs=1e-9)
    assert (far.argmin(1) // 20 == np.arange(len(rows)) // 20).mean() > 0.9  # its nearest point is of its own group
    again = recalled("grouped", len(rows))
    assert again is not None
    assert np.array_equal(again.points, made.points)
    assert again.kept == made.kept
    assert recalled("grouped", len(rows) + 1) is None


def test_beside_the_pages_the_same_is_made_and_a_fault_is_said(
    sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = grouped(2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = arranged_apart(rows, "apart")
    again = recalled("apart", len(rows))
    assert again is not None
    assert np.array_equal(made.points, again.points)
    with Index(sample_path) as index:
        atlas = Atlas(index)
        monkeypatch.setattr(apart, "CODE", "raise SystemExit('no room')")
        monkeypatch.setattr("threading.excepthook", lambda said: None)
        placing(atlas).begin()
        placing(atlas)._beside.join()  # type: ignore[union-attr]
        assert map_of(atlas)["arranging"] == "failed"
        assert placing(atlas).fault == "RuntimeError: no room"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_arrangement_in_the_cache_is_none(content: bytes) -> None:
    file = arrangement._cache_file("broken")
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    assert recalled("broken", FEWEST) is None


def test_what_is_drawn_is_near_by_chance_where_points_are_random() -> None:
    random = np.random.default_rng(1)
    rows = of_length_one(random.standard_normal((2000, 40))).astype(np.float32)
    points = random.standard_normal((2000, 2)).astype(np.float32)
    assert share_kept(rows, points) == pytest.approx(100 / 1999, abs=0.01)
    plane = of_length_one(random.standard_normal((500, 2))).astype(np.float32)
    assert share_kept(plane, plane) == 1
