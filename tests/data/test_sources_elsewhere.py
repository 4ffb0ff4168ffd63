"""Images at an address are those of the same folder or tar on the disk; what goes wrong there is no image's fault."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import socket
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sources import contents, fails, fill, member, png, shards, tarred
from vitdex.data.images import header_walks
from vitdex.data.images.elsewhere import SourceElsewhere, folder_and_name
from vitdex.data.images.entries import Source
from vitdex.data.images.header_walks import Window, walk, walks
from vitdex.data.images.sources import list_hash, open_source
from vitdex.data.images.tar import list_tar
from vitdex.data.images.tar_headers import Step
from vitdex.schemas.errors import SourceError, UnreadableImage
from vitdex.schemas.storage.elsewhere import Elsewhere
from web_server import Web, on_the_web

pytest.importorskip("obstore", reason="the extra vitdex[remote] is not installed")

ODD = [
    "a b.png", "per%20c.png", "h#ash?.png", "st*r~.png", "猫/子.png", "q\"uote'.png", "+[x]{y}.png", ".x", "b\\s.png",
]  # fmt: skip


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "host").mkdir()
    with on_the_web(tmp_path / "host") as found:
        yield found


def put(address: str, root: Path) -> str:
    there = Elsewhere(address)
    for path in root.rglob("*"):
        if path.is_file():
            there.put(path.relative_to(root).as_posix(), path)
    return address


def same(there: Source, here: Source) -> bool:
    assert isinstance(there, SourceElsewhere)
    assert (there.name, there.entries, there.skipped) == (here.name, here.entries, here.skipped)
    groups = list(there.together(range(len(there.entries))))
    read = {
        there.entries[i].path: found
        for group in groups
        for i, found in zip(group, there.read_together(group), strict=True)
    }
    assert [i for group in groups for i in group] == list(range(len(there.entries)))
    assert read == contents(here)
    again: Source = pickle.loads(pickle.dumps(there))
    assert (again.entries, again.read(1)) == (here.entries, here.read(1))
    return list_hash(there.entries) == list_hash(here.entries)


def test_a_folder_in_a_bucket_is_the_folder(bucket: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {f"{label}/{name}": png(3) for label in ("train/b", "train/a") for name in ODD})
    fill(root, {"train/a/empty.png": b""})
    address = put(f"{bucket}/some/set", root)
    assert same(open_source(address), open_source(str(root)))
    assert same(open_source(f"{address}/"), open_source(str(root)))
    (root / "made.vitdex").mkdir()
    fill(root, {"made.vitdex/run.json": b"{}", "made.vitdex2/x.png": b"1"})  # of these the first is the index
    put(address, root)
    assert same(open_source(address, f"{address}/made.vitdex/"), open_source(str(root), root / "made.vitdex"))


def test_folders_that_tools_write_as_empty_files_are_none(bucket: str, tmp_path: Path) -> None:
    address = put(f"{bucket}/set", fill(tmp_path / "set", {"a/1.png": png(1)}))
    for key in ("set/", "set/a/"):
        place = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}/{key}"
        urllib.request.urlopen(urllib.request.Request(place, method="PUT", data=b"")).close()
    assert len(Elsewhere(address).sizes("", deep=True)) == 3
    assert [entry.path for entry in open_source(address).entries] == ["a/1.png"]
    assert [entry.path for entry in open_source(f"{address}/a").entries] == ["1.png"]


def test_an_image_that_is_gone_is_skipped_and_a_folder_that_is_gone_is_not(bucket: str, tmp_path: Path) -> None:
    address = put(f"{bucket}/set", fill(tmp_path / "set", {"a.png": png(1), "b.png": png(2)}))
    source, there = open_source(address), Elsewhere(address)
    there.remove("a.png")
    with pytest.raises(UnreadableImage, match="the file cannot be read: it was removed since it was listed"):
        source.read(0)
    assert source.read(1) == png(2)
    there.remove("b.png")
    with pytest.raises(SourceError, match=r"set holds no files any more\. The images there were changed or removed"):
        source.read(1)


def odd_tar(path: Path, form: int) -> Path:
    """Large members and small ones, long names, a tar among them, links, classes, what is no file."""
    inside = tarred(
        path.with_suffix(".inner"), *((member(f"{i}.png"), bytes([i]) * 30_000) for i in range(9)), form=form
    )
    members = []
    for i in range(120):
        size = (300, 5000, 40_000)[i // 40] + i
        name = f"{'long' * 15}/{'long' * 10}/{i}" if i % 7 == 0 else f"cat/{i}"
        members += [
            (member(f"{name}.png"), random.Random(i).randbytes(size)),
            (member(f"{name}.cls"), f"{i % 3}".encode()),
        ]
    members[60:60] = [
        (member("in.tar"), inside.read_bytes()),
        (member("to.png", tarfile.SYMTYPE, "cat/1.png"), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
    ]
    return tarred(path, *members, form=form)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_walks_find_what_reading_from_the_begin_finds(
    form: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_walks, "SHORTEST", 100_000)
    content = odd_tar(tmp_path / "x.tar", form).read_bytes()
    asked: list[int] = []

    def ask(size: int, at: int) -> bytes:
        assert size > 0
        assert at + size <= len(content)
        asked.append(size)
        return content[at : at + size]

    def read(size: int, at: int) -> bytes:
        return content[at : at + size]

    alone = list_tar("x", read, len(content), packed_folder=True)
    assert len(alone.entries) == 122
    assert list_tar("x", Window(ask, len(content)).read, len(content), True) == alone
    assert len(asked) < 120  # small members come together
    assert sum(asked) < len(content) / 2  # and large ones not at all
    nowhere: list[str] = []
    for most in (2, 5, 16):
        known: dict[int, Step] = {}
        for begin, stop in walks(len(content), most):
            known |= walk(Window(ask, len(content)), begin, stop)
        asked.clear()
        assert list_tar("x", Window(ask, len(content)).read, len(content), True, known) == alone
        assert len(asked) <= 2 + 2 * most  # the walks have met nearly all
        nowhere += [step.member.name for step in known.values()]
    assert nowhere  # of the tar in there
    assert all(re.fullmatch(r"\d\.png", name) for name in nowhere)


def test_a_record_for_all_members_is_heeded_behind_walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_walks, "SHORTEST", 10_000)
    for said, name in (({"path": "all.png"}, "all.png"), ({"comment": "git"}, "2.png")):
        with tarfile.open(tmp_path / "x.tar", "w", pax_headers=said) as archive:
            for i in range(3):
                info = member(f"{i}.png")
                info.size = 20_000
                archive.addfile(info, io.BytesIO(bytes(20_000)))
        content = (tmp_path / "x.tar").read_bytes()

        def read(size: int, at: int, content: bytes = content) -> bytes:
            return content[at : at + size]

        window = Window(read, len(content))
        known = {at: step for ends in walks(len(content), 4) for at, step in walk(window, *ends).items()}
        listed = list_tar("x", window.read, len(content), True, known)
        assert listed == list_tar("x", read, len(content), True)
        assert listed.entries[-1].path == name
        assert bool(known) == ("path" in said)  # else all steps of the walks were made


@pytest.mark.parametrize("place", ["bucket", "web"])
def test_a_tar_there_is_the_tar(place: str, tmp_path: Path, web: Web, request: pytest.FixtureRequest) -> None:
    tar = odd_tar(tmp_path / "host" / "my images.tar", tarfile.PAX_FORMAT)
    here = open_source(str(tar))
    if place == "web":
        assert same(open_source(f"{web.address}/my%20images.tar?signed=s3cret"), here)
        return
    address = request.getfixturevalue("bucket")
    for key in ("my images.tar", "deep/er/my images.tar"):
        Elsewhere(address).put(key, tar)
        assert same(open_source(f"{address}/{key}"), here)


def test_shards_there_are_the_shards(bucket: str, tmp_path: Path, web: Web) -> None:
    files = {"cat/2.png": b"two", "cat/1.png": b"one", "cat/1.cls": b"cat"}
    where = shards(web.folder, files, {}, {"dog/1.png": b"other", ".x": b""})
    name = Path(where).name
    put(f"{bucket}/set", web.folder)
    for place in (f"{bucket}/set", web.address):
        assert same(open_source(f"{place}/{name}"), open_source(where))
        assert f"{place}/s-{{008..011}}.tar': there is no file 's-011.tar'" in fails(f"{place}/s-{{008..011}}.tar")
        assert "is no range of shards" in fails(f"{place}/s-{{9..8}}.tar")


def test_a_tar_that_was_cut_since_stops_a_run(tmp_path: Path, web: Web) -> None:
    tar = tarred(web.folder / "x.tar", (member("a.png"), b"1" * 2000), (member("b.png"), b"2" * 2000))
    source = open_source(f"{web.address}/x.tar")
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(SourceError, match="is shorter than when it was listed"):
        source.read(0)
    tar.unlink()
    with pytest.raises(SourceError, match=r"x\.tar is missing or cannot be read\. The images there were changed"):
        source.read(1)


def test_what_is_no_source_is_said_in_a_line(bucket: str, tmp_path: Path, web: Web) -> None:
    address = put(f"{bucket}/saved", fill(tmp_path / "saved", {"dataset_info.json": b"{}", "state.json": b"{}"}))
    assert "is a data set of save_to_disk, which is read from a disk. Download it first" in fails(address)
    assert f"'{bucket}/none' holds no files. Give a folder" in fails(f"{bucket}/none")
    assert "s3://no-such-bucket/x cannot be reached" in fails("s3://no-such-bucket/x/")
    assert "a folder cannot be listed there. Give a tar" in fails(f"{web.address}/images")
    (web.folder / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    assert "x.tar.gz' is compressed (gzip)" in fails(f"{web.address}/x.tar.gz")
    (web.folder / "x.zip").write_bytes(b"PK" + os.urandom(10_000_000))
    assert "x.zip' is a file, but not a tar" in fails(f"{web.address}/x.zip")
    web.ranges = False
    tarred(web.folder / "x.tar", (member("a.png"), b"1"))
    assert "does not answer ranges of a file" in fails(f"{web.address}/x.tar")


def test_a_lost_connection_is_tried_again_and_then_said(web: Web) -> None:
    tarred(web.folder / "x.tar", (member("a.png"), b"1" * 5000))
    source, state = open_source(f"{web.address}/x.tar"), {"broken": 1}

    def status(path: str) -> int:
        state["broken"] -= 1
        return 503 if state["broken"] >= 0 else 200

    web.status = status
    assert source.read(0) == b"1" * 5000
    state["broken"] = 10**6
    with pytest.raises(SourceError, match=r"x\.tar cannot be reached\. Look at the address and the connection"):
        source.read(0)


def test_secrets_are_in_no_line_and_no_name(web: Web) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
    host = web.address.removeprefix("http://")
    tarred(web.folder / "x.tar", (member("a.png"), b"1"))
    tarred(web.folder / "none.tar")
    for place in (host, gone):
        for name in ("none.tar", "missing.tar", "s-{1..2}.tar", "folder/"):
            assert "s3cret" not in fails(f"http://me:s3cret@{place}/{name}?key=s3cret")
    source = open_source(f"http://me:s3cret@{host}/x.tar?key=s3cret")
    assert (source.name, source.entries[0].path) == ("x.tar", "a.png")
    (web.folder / "x.tar").unlink()
    with pytest.raises(SourceError) as raised:
        source.read(0)
    assert "s3cret" not in str(raised.value)


def test_addresses_are_split() -> None:
    assert folder_and_name("s3://bucket") == ("s3://bucket", "")
    assert folder_and_name("s3://bucket/") == ("s3://bucket/", "")
    assert folder_and_name("s3://bucket/a%20/b%20.tar/") == ("s3://bucket/a%20", "b%20.tar")
    assert folder_and_name("https://h/a%20/b%20.tar?s=1/2#f") == ("https://h/a%20?s=1/2#f", "b .tar")
