"""Listing: nothing found disappears, order and names hold, and what is read is what lies there."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vitdex.data.images.decode import decode
from vitdex.data.images.entries import KINDS, Entry, Skipped, Source
from vitdex.data.images.sources import list_hash, open_source
from vitdex.schemas.errors import SourceError, UnreadableImage


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, blob in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return root


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for member, blob in members:
            member.size = len(blob)
            archive.addfile(member, io.BytesIO(blob))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def paths(source: Source) -> list[str]:
    return [entry.path for entry in source.entries]


def contents(source: Source) -> dict[str, bytes]:
    return {entry.path: source.read(i) for i, entry in enumerate(source.entries)}


def fails(where: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(str(where))
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


# Everything odd at once

WHOLE = png()
CUT = WHOLE[:45]
FILES: list[tuple[str | bytes, bytes, str]] = [  # name, content, what becomes of it
    ("plain.png", WHOLE, "indexed"),
    ("no ending", WHOLE, "indexed"),
    ("wrong ending.jpg", WHOLE, "indexed"),
    ("UPPER.PNG", WHOLE, "indexed"),
    ("two  spaces .png", WHOLE, "indexed"),
    (" leading.png", WHOLE, "indexed"),
    ("it's.png", WHOLE, "indexed"),
    ('"double".png', WHOLE, "indexed"),
    ("semi;colon,comma.png", WHOLE, "indexed"),
    ("$HOME `x` *.png", WHOLE, "indexed"),
    ("%s %(x)d {0}.png", WHOLE, "indexed"),
    ("back\\slash.png", WHOLE, "indexed"),
    ("line\nbreak.png", WHOLE, "indexed"),
    ("carriage\rreturn.png", WHOLE, "indexed"),
    ("tab\there.png", WHOLE, "indexed"),
    ("\x01control.png", WHOLE, "indexed"),
    ("-rf.png", WHOLE, "indexed"),
    ("~.png", WHOLE, "indexed"),
    ("猫/子猫.png", WHOLE, "indexed"),
    ("кошка/Ё.png", WHOLE, "indexed"),
    ("عربي.png", WHOLE, "indexed"),
    ("e\u0301 decomposed.png", WHOLE, "indexed"),
    ("\u00e9 composed.png", WHOLE, "indexed"),
    ("\U0001f408.png", WHOLE, "indexed"),
    ("x" * 251 + ".png", WHOLE, "indexed"),
    ("ж" * 125 + "x.png", WHOLE, "indexed"),
    (b"latin \xe9.png", WHOLE, "indexed"),
    (b"\xff\xfe/\x80.png", WHOLE, "indexed"),
    ("a/b/c/deep.png", WHOLE, "indexed"),
    ("double.tar.gz", WHOLE, "indexed"),
    ("__MACOSX/plain.png", WHOLE, "indexed"),
    ("empty.png", b"", "failed"),
    ("zeros.png", bytes(4096), "failed"),
    ("cut.png", CUT, "failed"),
    ("text.txt", b"hello", "failed"),
    ("page.jpg", b"<html></html>", "failed"),
    ("Thumbs.db", b"\xd0\xcf\x11\xe0", "failed"),
    ("archive.zip", b"PK\3\4", "failed"),
    ("labels.csv", b"name,label\n", "failed"),
    ("doc.pdf", b"%PDF-1.4", "failed"),
    ("vector.svg", b"<svg/>", "failed"),
    (".DS_Store", b"\0\0\0\1Bud1", "skipped"),
    ("a/.hidden.png", WHOLE, "skipped"),
    (".git/objects/1.png", WHOLE, "skipped"),
    (".git/objects/2.png", WHOLE, "skipped"),
    ("a/.cache/deep/3.png", WHOLE, "skipped"),
]


def odd_things(root: Path) -> int:
    """The files above and what is no file; returns how much there is to find."""
    for name, blob, _ in FILES:
        path = os.path.join(os.fsencode(root), os.fsencode(name))  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(blob)
    outside = fill(root.parent / "outside", {"o.png": png(1), "sub/p.png": png(2)})
    (root / "link.png").symlink_to(root / "plain.png")  # indexed
    (root / "link to a link.png").symlink_to("link.png")  # indexed
    (root / "hard.png").hardlink_to(root / "plain.png")  # indexed
    (root / "linked folder").symlink_to(outside)  # 2 indexed
    (root / "dangling.png").symlink_to("nothing")  # skipped, as all that follow
    (root / "itself.png").symlink_to("itself.png")
    (root / "a/up").symlink_to("..")
    (root / "outside to outside").symlink_to(outside)  # 2 indexed, and a way back
    (outside / "back").symlink_to(root)  # skipped once through either link
    os.mkfifo(root / "fifo.png")
    os.mkfifo(root / ".hidden fifo")
    (root / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as address:
        here = Path.cwd()
        os.chdir(root)  # the name of a socket is short
        address.bind("socket.png")
        os.chdir(here)
    return len(FILES) + 3 + 2 + 3 + 2 + 2 + 4


def test_indexed_failed_and_skipped_make_up_all_that_is_found(tmp_path: Path) -> None:
    found = odd_things(tmp_path / "odd")
    source = open_source(str(tmp_path / "odd"))
    became: dict[str, str] = {s.path: "skipped" for s in source.skipped}
    for i, entry in enumerate(source.entries):
        try:
            decode(source.read(i))
            became[entry.path] = "indexed"
        except UnreadableImage:
            became[entry.path] = "failed"
    want = {os.fsencode(name).decode("utf-8", "backslashreplace"): what for name, _, what in FILES}
    assert {name: became[name] for name in want} == want
    assert list(became.values()).count("indexed") == 31 + 3 + 4
    assert len(became) == len(source.entries) + len(source.skipped) == found
    reasons = {s.path: s.reason for s in source.skipped}
    assert {name: reasons[name] for name in reasons if name not in want} == {
        "dangling.png": "a dangling link: No such file or directory",
        "itself.png": "a dangling link: Too many levels of symbolic links",
        "a/up": "a link back to a folder that it lies in",
        "linked folder/back": "a link back to a folder that it lies in",
        "outside to outside/back": "a link back to a folder that it lies in",
        "fifo.png": "neither a file nor a folder",
        ".hidden fifo": "neither a file nor a folder",
        "device.png": "neither a file nor a folder",
        "socket.png": "neither a file nor a folder",
    }
    assert {reasons[name] for name, what in want.items() if what == "skipped"} == {"hidden"}
    assert [s.path for s in source.skipped] == sorted(reasons)
    assert paths(source) == sorted(paths(source))


# Folders


def test_class_folders_and_flat_folders(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", {"dog/b.png": b"123", "cat/x/a.png": b"1", "cat.png": b"", "Zoo/z": b"12"})
    source = open_source(str(root))
    assert source.name == "pets"
    assert source.entries == (
        Entry("Zoo/z", "Zoo", 2),
        Entry("cat.png", None, 0),
        Entry("cat/x/a.png", "cat", 1),
        Entry("dog/b.png", "dog", 3),
    )
    assert source.skipped == ()
    assert contents(source) == {"Zoo/z": b"12", "cat.png": b"", "cat/x/a.png": b"1", "dog/b.png": b"123"}


@pytest.mark.parametrize("where", ["pets", "./pets/", "pets/.", "pets/cat/..", "../here/pets"])
def test_name_holds_no_folder_above(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "here/pets", {"cat/a.png": b"1"})
    monkeypatch.chdir(tmp_path / "here")
    source = open_source(where)
    assert (source.name, paths(source)) == ("pets", ["cat/a.png"])
    monkeypatch.chdir("/")
    assert source.read(0) == b"1"  # also from elsewhere


def test_a_hidden_folder_may_be_pointed_at(tmp_path: Path) -> None:
    assert paths(open_source(str(fill(tmp_path / ".cache/images", {"a.png": b"1"})))) == ["a.png"]


def test_order_is_by_code_point(tmp_path: Path) -> None:
    names = ["B", "a", "Z10", "Z9", "é", "z", "\uffee", "\U00010000", "a b", "a-b", "a/b", "a0/b"]
    fill(tmp_path / "f", {f"{name}.png": b"" for name in names})
    assert paths(open_source(str(tmp_path / "f"))) == sorted(f"{name}.png" for name in names)


def test_two_names_that_are_recorded_alike(tmp_path: Path) -> None:
    (tmp_path / "\\xff.png").write_bytes(b"text")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"byte")
    source = open_source(str(tmp_path))
    assert contents(source) == {"\\xff.png": b"text"}
    assert source.skipped == (Skipped("\\xff.png", "its name is not UTF-8 and would be recorded like another file's"),)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the tests may run as root, who can list everything."""
    fill(tmp_path, {"open/a.png": b"1", "shut/b.png": b"1", "shut/c.png": b"1"})
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if "shut" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = open_source(str(tmp_path))
    assert paths(source) == ["open/a.png"]
    assert source.skipped == (Skipped("shut", "the folder cannot be listed: Permission denied"),)
    assert fails(tmp_path / "shut").endswith(
        "holds no files except '' (the folder cannot be listed: Permission denied). " + KINDS
    )


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, look = fill(tmp_path, {"a.png": b"1"}), Path.is_file

    def denied(path: Path) -> bool:
        if path.parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", denied)
    assert fails(folder) == f"the folder '{folder}' cannot be read: Permission denied. Check its permissions"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (fill(tmp_path, {"a.png": b"1"}) / "a.png").chmod(0)
    with pytest.raises(UnreadableImage, match=r"^the file cannot be read: Permission denied$"):
        open_source(str(tmp_path)).read(0)


def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    source = open_source(str(fill(tmp_path, {"a.png": b"1"})))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableImage, match=r"^the file cannot be read: No such file or directory$"):
        source.read(0)


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
BYTES_NAME = st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & {0, 47} and b not in (b".", b".."))


@settings(max_examples=60, deadline=None)
@given(files=st.dictionaries(st.tuples(NAME, st.one_of(NAME.map(os.fsencode), BYTES_NAME)), st.binary(max_size=9)))
def test_any_names_come_back(files: dict[tuple[str, bytes], bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("names")
    wanted = {}
    fill(root, {"anchor": b"!"})
    for (folder, name), blob in files.items():
        (root / f"d{folder}").mkdir(exist_ok=True)
        (root / f"d{folder}" / os.fsdecode(name)).write_bytes(blob)
        if not name.startswith(b"."):
            wanted[f"d{folder}/" + name.decode("utf-8", "backslashreplace")] = blob
    source = open_source(str(root))
    assert paths(source) == sorted({"anchor", *wanted})
    assert len(source.entries) + len(source.skipped) == len(files) + 1
    labels = {entry.path: entry.label for entry in source.entries}
    assert labels == {"anchor": None} | {path: path.split("/")[0] for path in wanted}
    collided = {s.path for s in source.skipped if s.reason != "hidden"}
    assert {k: v for k, v in contents(source).items() if k not in collided} == {"anchor": b"!"} | {
        k: v for k, v in wanted.items() if k not in collided
    }


# What cannot be listed


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("gone", "'{}/gone' does not exist. Check the path"),
        ("file.png/under", "'{}/file.png/under' cannot be read: Not a directory. Check the path and its permissions"),
        ("nul\0l", "'{}/nul\\x00l' cannot be read: embedded null byte. Check the path and its permissions"),
        ("empty", "'{}/empty' holds no files. Give a folder"),
        ("hidden", "'{}/hidden' holds no files except '.h' (hidden). Give a folder"),
        ("file.png", "'{}/file.png' is a file, but not a tar. Give a folder of images, an uncompressed tar, or hf:"),
        ("nothing", "'{}/nothing' is a file, but not a tar. Give a folder"),
        ("fifo", "'{}/fifo' is neither a folder nor a file. Give a folder"),
        ("splits", "'{}/splits' holds several splits of a data set. Point at the folder of one of them"),
        ("x.tar.gz", "'{}/x.tar.gz' is compressed (gzip): no single file can be read. Decompress it first"),
        ("x.tar.bz2", "'{}/x.tar.bz2' is compressed (bzip2): no single file can be read. Decompress it first"),
        ("x.tar.xz", "'{}/x.tar.xz' is compressed (xz): no single file can be read. Decompress it first"),
        ("x.tar.zst", "'{}/x.tar.zst' is compressed (zstd): no single file can be read. Decompress it first"),
    ],
)
def test_errors_of_the_path(where: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)
    fill(tmp_path, {"file.png": png(), "nothing": b"", "hidden/.h": b"", "splits/dataset_dict.json": b"{}"})
    os.mkfifo(tmp_path / "fifo")
    for kind in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"x.tar.{kind}", f"w:{kind}") as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "file.png", "a.png")
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50))
    assert fails(f"{tmp_path}/{where}").startswith(line.format(tmp_path))


# Tars


def test_a_tar_is_like_the_folder_that_it_holds(tmp_path: Path) -> None:
    root = fill(tmp_path / "f", {"dog/b.png": b"123", "cat/x/a.png": bytes(700), "top.png": b"", ".h/x": b"1"})
    (root / ("long" * 60)).write_bytes(b"long")
    (root / os.fsdecode(b"\xe9.png")).write_bytes(b"e")
    folder = open_source(str(root))
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for top in ("", "."):
            if form == tarfile.USTAR_FORMAT:
                (root / ("long" * 60)).unlink(missing_ok=True)
                folder = open_source(str(root))
            with tarfile.open(tmp_path / "f.tar", "w", format=form) as archive:
                archive.add(root, top)
            source = open_source(str(tmp_path / "f.tar"))
            assert source.name == "f.tar"
            assert (source.entries, source.skipped) == (folder.entries, folder.skipped)
            assert contents(source) == contents(folder)


def test_a_packed_folder_is_no_class(tmp_path: Path) -> None:
    """`tar cf x.tar FOLDER` and `tar cf x.tar -C FOLDER .` are both what FOLDER is."""
    files = {
        "flat": {"a.png": b"A", "b.png": b"B"},
        "one": {"dog/a.png": b"A"},
        "val": {"dog/a.png": b"A", "c.txt": b""},
    }
    for name, content in files.items():
        folder = open_source(str(fill(tmp_path / name, {**content, "._x": b""})))
        for words in (
            ["-C", str(tmp_path), name],
            ["-C", str(tmp_path / name), "."],
            ["-C", str(tmp_path), f"./{name}"],
        ):
            subprocess.run(["tar", "cf", tmp_path / "x.tar", *words], check=True)
            packed = open_source(str(tmp_path / "x.tar"))
            assert (packed.entries, contents(packed)) == (folder.entries, contents(folder)), words
    packed = open_source(str(tarred(tmp_path / "y.tar", (member("dog/a.png"), b"A"), (member("cat/b.png"), b"B"))))
    assert [entry.label for entry in packed.entries] == ["cat", "dog"]


def test_a_webdataset_shard_names_its_classes(tmp_path: Path) -> None:
    """KEY.cls is the class of the image beside it, and no image; what belongs to none, or comes twice, stays a file."""
    content = {
        "000001.jpg": b"x", "000001.cls": b"7", "000002.png": b"x", "000002.cls": b" tench, Tinca tinca\n",
        "000003.jpg": b"x", "000004.cls": b"5", "b/1.jpg": b"x", "b/1.cls": "žába".encode(), "b/2.jpg": b"x",
        "a.b.jpg": b"x", "a.b.cls": b"1", "a.c.jpg": b"x", "a.c.cls": b"2", "d.jpg": b"x", "d.cls": b"",
    }  # fmt: skip
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, blob in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    listed = {entry.path: entry.label for entry in open_source(str(tmp_path / "shard.tar")).entries}
    assert listed == {
        "000001.jpg": "7", "000002.png": "tench, Tinca tinca", "000003.jpg": None, "000004.cls": None,
        "a.b.cls": None, "a.b.jpg": None, "a.c.cls": None, "a.c.jpg": None, "b/1.jpg": "žába", "b/2.jpg": "b",
        "d.cls": None, "d.jpg": None,
    }  # fmt: skip


def shards(folder: Path, *contents: dict[str, bytes], first: int = 8) -> str:
    for number, content in enumerate(contents, first):
        tarred(folder / f"s-{number:03}.tar", *((member(name), blob) for name, blob in content.items()))
    return str(folder / f"s-{{{first:03}..{first + len(contents) - 1:03}}}.tar")


def test_shards_are_one_set_of_images(tmp_path: Path) -> None:
    where = shards(tmp_path, {"2.png": b"two", "1.png": b"one", "1.cls": b"cat"}, {}, {"1.png": b"other", ".x": b""})
    source = open_source(where)
    assert source.name == "s-{008..010}.tar"
    assert [(e.path, e.label) for e in source.entries] == [
        ("s-008/1.png", "cat"), ("s-008/2.png", None), ("s-010/1.png", None),
    ]  # fmt: skip
    assert source.skipped == (Skipped("s-010/.x", "hidden"),)
    for again in (source, pickle.loads(pickle.dumps(source)), source.relabelled(["a", "b", "c"])):
        assert [again.read(i) for i in (2, 0, 1, 2)] == [b"other", b"one", b"two", b"other"]


def test_a_shard_of_one_class_has_that_class(tmp_path: Path) -> None:
    """Alone its folder would be the one that was packed."""
    where = shards(tmp_path, {"train/cat/1.png": b"1", "train/cat/2.png": b"2"}, {"train/dog/1.png": b"3"})
    assert [(e.path, e.label) for e in open_source(where).entries] == [
        ("s-008/train/cat/1.png", "cat"), ("s-008/train/cat/2.png", "cat"), ("s-009/train/dog/1.png", "dog"),
    ]  # fmt: skip


def test_many_shards_are_not_open_at_once(tmp_path: Path) -> None:
    source = open_source(shards(tmp_path, *({"a.png": bytes([i])} for i in range(40))))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [source.read(i) for i in range(40)] == [bytes([i]) for i in range(40)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_ranges_that_are_none(tmp_path: Path) -> None:
    shards(tmp_path, {"a.png": b"1"})
    (tmp_path / "s-011.tar").write_bytes(b"no tar")
    place = str(tmp_path)
    assert "there is no file 's-009.tar'. Give the range" in fails(f"{place}/s-{{008..010}}.tar")
    assert "'s-{9..8}.tar' is no range of shards. One range" in fails(f"{place}/s-{{9..8}}.tar").replace(
        f"{place}/", ""
    )
    assert "is no range" in fails(f"{place}/s-{{0..100000}}.tar")
    assert "is no range" in fails(f"{place}/{{0..1}}-{{0..1}}.tar")
    assert "s-011.tar' is a file, but not a tar" in fails(f"{place}/s-{{011..011}}.tar")
    tarred(tmp_path / "s-{1..2}.tar", (member("a.png"), b"1"))  # a file's own name goes first
    assert paths(open_source(f"{place}/s-{{1..2}}.tar")) == ["a.png"]


def test_unsafe_names_in_a_tar(tmp_path: Path) -> None:
    names = ["../up.png", "/abs/a.png", "./here.png", "a/../../b.png", "a//c.png", ".."]
    where = tarred(tmp_path / "x.tar", *((member(name), name.encode()) for name in names))
    source = open_source(str(where))
    assert contents(source) == {
        "_": b"..", "a/b.png": b"a/../../b.png", "a/c.png": b"a//c.png", "abs/a.png": b"/abs/a.png",
        "here.png": b"./here.png", "up.png": b"../up.png",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [where]


LINKS: dict[str, tuple[bytes, str, bytes | None]] = {
    "d/hard.png": (tarfile.LNKTYPE, "d/a.png", b"A"),
    "d/hard2.png": (tarfile.LNKTYPE, "./d/a.png", b"A"),
    "d/near.png": (tarfile.SYMTYPE, "a.png", b"A"),
    "e/far.png": (tarfile.SYMTYPE, "../d/a.png", b"A"),
    "e/chain.png": (tarfile.SYMTYPE, "far.png", b"A"),
    "hidden target.png": (tarfile.SYMTYPE, ".h/h.png", b"H"),
    "dangling.png": (tarfile.SYMTYPE, "nowhere.png", None),
    "outside.png": (tarfile.SYMTYPE, "../../etc/passwd", None),
    "absolute.png": (tarfile.SYMTYPE, "/etc/passwd", None),
    "circle.png": (tarfile.SYMTYPE, "elcric.png", None),
    "elcric.png": (tarfile.SYMTYPE, "circle.png", None),
    "folder.png": (tarfile.SYMTYPE, "d", None),
    "hard nowhere.png": (tarfile.LNKTYPE, "nowhere.png", None),
}


def test_links_in_a_tar(tmp_path: Path) -> None:
    links = [(member(name, kind, to), b"") for name, (kind, to, _) in LINKS.items()]
    files = [(member("d", tarfile.DIRTYPE), b""), (member("d/a.png"), b"A"), (member(".h/h.png"), b"H")]
    source = open_source(str(tarred(tmp_path / "x.tar", *files, *links)))
    assert paths(source) == sorted([*LINKS, "d/a.png"])
    for i, entry in enumerate(source.entries):
        want = LINKS.get(entry.path, (b"", "", b"A"))[2]
        assert entry.size == len(want or b"")
        if want is None:
            with pytest.raises(UnreadableImage, match=r"^a link to no file of the tar$"):
                source.read(i)
        else:
            assert source.read(i) == want


def test_a_relative_tar_is_read_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarred(tmp_path / "x.tar", (member("a.png"), b"A"))
    monkeypatch.chdir(tmp_path)
    source = open_source("x.tar")
    monkeypatch.chdir("/")
    assert source.read(0) == b"A"


def test_what_a_tar_holds_beside_files(tmp_path: Path) -> None:
    where = tarred(
        tmp_path / "x.tar",
        (member("a.png"), b"old"),
        (member("fifo", tarfile.FIFOTYPE), b""),
        (member("device", tarfile.CHRTYPE), b""),
        (member("./._a.png"), b"mac"),
        (member("b\\xff"), b"text"),
        (member("b\udcff"), b"byte"),
        (member("./a.png"), b"new"),
        (member("fifo"), b"file"),
    )
    source = open_source(str(where))
    assert contents(source) == {"a.png": b"new", "b\\xff": b"text", "fifo": b"file"}
    assert source.skipped == (
        Skipped("._a.png", "hidden"),
        Skipped("a.png", "a later member of the tar has the same name"),
        Skipped("b\\xff", "its name is not UTF-8 and would be recorded like another file's"),
        Skipped("device", "neither a file nor a folder"),
        Skipped("fifo", "neither a file nor a folder"),
    )


def test_sparse_members_are_not_read_wrongly(tmp_path: Path) -> None:
    info = member("s.png", tarfile.REGTYPE)
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s.png",
                        "GNU.sparse.size": "1000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "500,3"}  # fmt: skip
    source = open_source(str(tarred(tmp_path / "x.tar", (info, b"abc"))))
    assert source.entries == (Entry("s.png", None, 1000),)
    with pytest.raises(UnreadableImage, match=r"^a sparse member of a tar, which is not supported$"):
        source.read(0)


def test_damaged_tars_are_refused(tmp_path: Path) -> None:
    """tarfile lists what comes before a broken header and says nothing of the rest."""
    whole = tarred(tmp_path / "x.tar", *((member(f"{i}.png"), bytes([i]) * 600) for i in range(4))).read_bytes()
    second = 512 + 1024
    (tmp_path / "header.tar").write_bytes(whole[:second] + b"garbage" + whole[second + 7 :])
    (tmp_path / "cut.tar").write_bytes(whole[: second + 700])
    (tmp_path / "cut header.tar").write_bytes(whole[: second + 100])
    assert fails(tmp_path / "header.tar") == (
        f"the tar '{tmp_path}/header.tar' cannot be listed: broken header at byte 1536. Copy or make it again"
    )
    assert "cut.tar' cannot be listed: unexpected end of data." in fails(tmp_path / "cut.tar")
    assert "cut header.tar' cannot be listed: " in fails(tmp_path / "cut header.tar")


def test_a_tar_that_shrinks_after_it_was_listed(tmp_path: Path) -> None:
    where = tarred(tmp_path / "x.tar", (member("a.png"), bytes(2000)))
    source = open_source(str(where))
    os.truncate(where, 1000)
    with pytest.raises(UnreadableImage, match=r"^the tar is shorter than when it was listed$"):
        source.read(0)
    gone = open_source(str(tarred(tmp_path / "y.tar", (member("a.png"), b"1"))))
    (tmp_path / "y.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"^the tar cannot be read: No such file or directory$"):
        gone.read(0)


# Workers


def read_many(source: Source, step: int, wrong: Any) -> None:
    """Count entries that do not hold their own number only."""
    wrong.put(sum(set(source.read(i)) != {i} for _ in range(50) for i in range(60)[::step]))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_sources_pickle_without_open_files(kind: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "f", {f"{i}.png": bytes([i]) * 100 for i in range(9)})
    where = tarred(tmp_path / "f.tar", *((member(f"{i}.png"), bytes([i]) * 100) for i in range(9)))
    source = open_source(str(root if kind == "folder" else where))
    first = source.read(0)
    again: Source = pickle.loads(pickle.dumps(source))
    assert (again.entries, again.skipped, again.name, again.read(0)) == (
        source.entries, source.skipped, source.name, first,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_forked_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    members = [(member(f"{i:02}"), bytes([i]) * (5000 + i)) for i in range(60)]
    source = open_source(str(tarred(tmp_path / "f.tar", *members)))
    source.read(0)  # the file is open when the processes part
    context = multiprocessing.get_context("fork")
    wrong: Any = context.Queue()
    workers = [context.Process(target=read_many, args=(source, step, wrong)) for step in (1, -1)]
    for worker in workers:
        worker.start()
    assert [wrong.get(timeout=30) for _ in workers] == [0, 0]
    for worker in workers:
        worker.join()


# Hashes


def test_list_hash_is_pinned() -> None:
    """Indexes hold it: it must not change between versions."""
    assert list_hash([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    entries = [Entry("cat/\u00e9.png", "cat", 3), Entry('q"\n', None, 0)]
    assert list_hash(entries) == "3adb8665a3c7afcd0d6c0f3d57cb861d9379bfa497ed818d7e7b57f3a0d1a705"


def test_list_hash_tells_everything_apart() -> None:
    lists = [
        [],
        [Entry("a", None, 1)],
        [Entry("a", "None", 1)],
        [Entry("a", "", 1)],
        [Entry("a", None, 11)],
        [Entry("a1", None, 1)],
        [Entry("a", None, 1), Entry("b", None, 2)],
        [Entry("b", None, 2), Entry("a", None, 1)],
        [Entry('a", null, 1]\n["b', None, 2)],
    ]
    assert len({list_hash(entries) for entries in lists}) == len(lists)


# Hugging Face


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Save rows of (image, class) as a data set."""
    datasets = pytest.importorskip("datasets")

    def save(rows: list[tuple[Any, int | None]], **features: Any) -> Path:
        features = features or {"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
        columns = dict(zip(features, zip(*rows, strict=True), strict=True))
        data = datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()}, datasets.Features(features))
        data.save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def test_a_data_set_that_was_saved_to_disk(saved: Callable[..., Path], tmp_path: Path) -> None:
    rows: list[tuple[Any, int | None]] = [
        ({"bytes": png(1), "path": "deep/name.png"}, 1),
        ({"bytes": png(2), "path": None}, 0),
        (None, None),
        ({"bytes": b"junk", "path": "a.png"}, -1),
    ]
    source = open_source(str(saved(rows)))
    assert source.name == "saved"
    assert source.skipped == ()
    assert source.entries == (
        Entry("000000-name.png", "dog", len(png(1))),
        Entry("000001", "cat", len(png(2))),
        Entry("000002", None, 0),
        Entry("000003-a.png", None, 4),
    )
    assert [source.read(i) for i in (0, 1, 3)] == [png(1), png(2), b"junk"]
    with pytest.raises(UnreadableImage, match=r"^the row holds no image$"):
        source.read(2)
    again: Source = pickle.loads(pickle.dumps(source))
    assert (again.entries, again.read(0)) == (source.entries, png(1))


def test_rows_keep_their_order(saved: Callable[..., Path]) -> None:
    source = open_source(str(saved([({"bytes": png(i), "path": f"{-i}.png"}, i % 2) for i in range(12)])))
    assert paths(source) == sorted(paths(source))
    assert [np.asarray(decode(source.read(i)))[0, 0, 0] for i in range(12)] == list(range(12))
    assert [entry.label for entry in source.entries] == ["cat", "dog"] * 6


def test_a_data_set_without_images(saved: Callable[..., Path]) -> None:
    datasets = pytest.importorskip("datasets")
    where = saved([("x", 1)], text=datasets.Value("string"), number=datasets.Value("int64"))
    assert fails(where) == f"'{where}' has no column of images, only text, number. Cast one to Image"


def test_a_broken_data_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    fill(tmp_path / "d", {"state.json": b"{", "dataset_info.json": b"{}"})
    assert fails(tmp_path / "d").startswith(f"the data set '{tmp_path}/d' cannot be loaded: ")


def test_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is asked of `datasets`, not the network; rows of the hub may only point to files."""
    datasets = pytest.importorskip("datasets")
    fill(tmp_path, {"elsewhere/z.png": png(9)})
    features = datasets.Features({"image": datasets.Image()})
    pointers = [{"bytes": None, "path": str(tmp_path / "elsewhere/z.png")}, {"bytes": None, "path": "/gone/y.png"}]
    data = datasets.Dataset.from_dict({"image": pointers}, features)
    asked = []

    def load(*args: object, **how: object) -> Any:
        asked.append((args, how))
        return data

    monkeypatch.setattr(datasets, "load_dataset", load)
    for where in ("hf:beans:train", "hf:org/set@small:test[:10%]", "hf:/somewhere/local:train"):
        source = open_source(where)
        assert source.entries == (Entry("000000-z.png", None, len(png(9))), Entry("000001-y.png", None, 0))
        assert source.read(0) == png(9)
        with pytest.raises(UnreadableImage, match=r"^the file cannot be read: No such file or directory$"):
            source.read(1)
    assert asked == [
        (("beans", None), {"split": "train"}),
        (("org/set", "small"), {"split": "test[:10%]"}),
        (("/somewhere/local", None), {"split": "train"}),
    ]


@pytest.mark.parametrize("place", ["here", "gone"])
def test_names_of_data_sets(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name of the hub keeps its owner; of a path only the last component is recorded."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    data = datasets.Dataset.from_dict({"image": [None]}, datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    assert open_source("hf:owner/set@small:train").name == "hf:owner/set@small:train"
    for where in (f"{tmp_path}/{place}", f"./{place}"):
        assert open_source(f"hf:{where}@small:train").name == f"hf:{place}@small:train"


@pytest.mark.parametrize("where", ["hf:beans", "hf:", "hf::train", "hf:beans:", "hf:@x:train"])
def test_no_split_is_named(where: str) -> None:
    assert fails(where) == f"'{where}' names no split. Write hf:NAME:SPLIT or hf:NAME@CONFIG:SPLIT"


def test_what_the_hub_says_is_cut_to_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Unknown split.\nAnd much more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert fails("hf:a:b") == "'hf:a:b' cannot be loaded: Unknown split. Check name, split and network"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    fill(tmp_path, {"state.json": b"{}", "dataset_info.json": b"{}"})
    for where in ("hf:beans:train", str(tmp_path)):
        assert fails(where) == 'Hugging Face data sets need an extra. pip install "vitdex[hf]"'
