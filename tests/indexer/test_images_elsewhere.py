"""An index of images at an address is the index of the same images on the disk; a lost address stops the run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLE
from test_resume import content, request
from vitdex.data.images.elsewhere import SourceElsewhere
from vitdex.data.images.entries import Entry
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request, make_plan
from vitdex.indexer.run import read_ahead
from vitdex.schemas.errors import BadIndex, SourceError
from vitdex.schemas.storage.elsewhere import Elsewhere
from web_server import Web, on_the_web

pytest.importorskip("obstore", reason="the extra vitdex[remote] is not installed")
pytestmark = pytest.mark.usefixtures("state_with_every_part")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of the sample, one of them broken, as a folder and as a tar."""
    root = tmp_path_factory.mktemp("files")
    for path in sorted((SAMPLE / "images").rglob("*.jpg"))[::10]:
        place = root / "images" / path.relative_to(SAMPLE / "images")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    place.write_bytes(b"")
    subprocess.run(["tar", "-C", str(root), "-cf", str(root / "images.tar"), "images"], check=True)
    return root


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the folder on the disk."""
    return build(of(files / "images", tmp_path_factory.mktemp("whole") / "a"), Quiet())


@pytest.fixture
def web(files: Path) -> Iterator[Web]:
    with on_the_web(files) as found:
        yield found


def of(images: str | Path, out: Path, **choices: Any) -> Request:
    return replace(request(out, limit=None, **choices), images=str(images))


class At(Quiet):
    """Does something once so many images are done."""

    def __init__(self, images: int, do: Callable[[], object]) -> None:
        self.left, self.do = images, do

    def advance(self, images: int, written: int) -> None:
        self.left -= images
        if self.left <= 0:
            self.do()


def same(made: Path, whole: Path) -> bool:
    """Whether two indexes are equal, but for what their source is called."""
    runs = [json.loads((out / "parts/run.json").read_bytes()) for out in (made, whole)]
    assert runs[0].pop("source") in ("images", "images.tar")
    assert runs[1].pop("source") == "images"
    return runs[0] == runs[1] and content(made) == content(whole)


@pytest.mark.parametrize(("kind", "workers"), [("images", 0), ("images.tar", 2)])
def test_the_index_is_the_same(
    kind: str, workers: int, bucket: str, files: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 15_000)  # of 16 images they are put together again
    here, there = files / kind, Elsewhere(f"{bucket}/set")
    for path in here.rglob("*.jpg") if here.is_dir() else [here]:
        there.put(path.relative_to(files).as_posix(), path)
    made = build(of(f"{bucket}/set/{kind}", tmp_path / "a", workers=workers), Quiet())
    assert same(made, whole)
    if kind == "images":
        assert (made / "parts/run.json").read_bytes() == (whole / "parts/run.json").read_bytes()


def test_a_lost_address_stops_the_run_which_goes_on_later(web: Web, whole: Path, tmp_path: Path) -> None:
    def lose() -> None:
        web.status = lambda path: 503

    asked = of(f"{web.address}/images.tar?key=s3cret", tmp_path / "a", workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_ahead, "AT_ONCE", 0)  # one batch ahead: of three the last is lost
        with pytest.raises(SourceError, match=r"images\.tar cannot be reached\. Look at the address") as raised:
            build(asked, At(16, lose))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "a/parts/00000.json").exists()
    assert not (tmp_path / "a/manifest.json").exists()
    web.status = lambda path: 200
    made = build(asked, Quiet())
    assert same(made, whole)
    assert not any(b"s3cret" in path.read_bytes() for path in made.rglob("*") if path.is_file())


def test_other_images_at_the_address_are_noticed(bucket: str, files: Path, tmp_path: Path) -> None:
    there = Elsewhere(f"{bucket}/images")
    for path in (files / "images").rglob("*.jpg"):
        there.put(path.relative_to(files / "images").as_posix(), path)
    asked = of(f"{bucket}/images", tmp_path / "a")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(asked, At(32, stop))
    there.remove(path.relative_to(files / "images").as_posix())
    with pytest.raises(BadIndex, match="images"):
        build(asked, Quiet())


class Large(SourceElsewhere):
    """Images of 5 MB, as far as is said of them."""

    asked = 0

    def _read(self, ids: list[int]) -> dict[int, bytes | str]:
        Large.asked += sum(self.entries[i].size for i in ids)
        return dict.fromkeys(ids, b"")


def test_what_is_ahead_is_bounded() -> None:
    source = Large("large", tuple(Entry(f"{i}", None, 5_000_000) for i in range(200)), (), "s3://large")
    wanted = (list(range(start, start + 50)) for start in range(0, 200, 50))
    came: list[int] = []
    for piece in read_ahead.read_ahead(source, (p for batch in wanted for p in read_ahead.pieces(source, batch)), 50):
        assert len(piece) * 5_000_000 <= read_ahead.PIECE_BYTES
        assert Large.asked - len(came) * 5_000_000 <= read_ahead.AHEAD_BYTES + read_ahead.PIECE_BYTES
        came += [sent.i for sent in piece]
    assert came == list(range(200))


def test_memory_is_told_with_what_is_ahead(web: Web, files: Path, tmp_path: Path) -> None:
    far, near = (
        make_plan(of(images, tmp_path / "a")) for images in (f"{web.address}/images.tar", files / "images.tar")
    )
    assert far.memory_bytes - near.memory_bytes > read_ahead.AHEAD_BYTES / 2  # less what this process took meanwhile
