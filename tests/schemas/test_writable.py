"""What an index that is being made is written to, on a disk and in a bucket: the same verbs, the same answers."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vitdex.schemas.errors import BadIndex
from vitdex.schemas.facts import content_facts
from vitdex.schemas.storage.remote_folder import RemoteFolder
from vitdex.schemas.storage.writable import LocalFolder, Writable


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writable]:
    if request.param == "disk":
        yield LocalFolder(tmp_path / "there")
        return
    pytest.importorskip("obstore")
    address = request.getfixturevalue("bucket")
    yield RemoteFolder(f"{address}/some/where")


def test_what_is_written_is_read(place: Writable) -> None:
    large = np.random.default_rng(0).integers(0, 256, 12_000_000, np.uint8)  # in several pieces where there are any
    for key, content in (("a/b/c", b"one"), ("a/b/c", b"two"), ("a/large", large.data), ("empty", b"")):
        assert place.write(key, content) == content_facts(content)
        assert place.content(key) == bytes(content)
    place.vouch("a/vouched", b"v")
    assert place.names("a") == {"large", "vouched"}
    assert place.names("a/b") == {"c"}
    assert place.names("") == {"empty"}
    assert place.names("none") == set()
    assert place.content("none") is None
    assert place.content("a") is None if isinstance(place, RemoteFolder) else True
    for _ in range(2):
        place.remove("a/large")
    assert place.names("a") == {"vouched"}


def test_one_of_many_creates(place: Writable) -> None:
    created: list[int] = []

    def create(number: int) -> None:
        if place.create("parts/00000.lease", str(number).encode()):
            created.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert place.content("parts/00000.lease") == str(created[0]).encode()
    assert place.names("parts") == {"00000.lease"}
    assert not place.create("parts/00000.lease", b"later")


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT, some shared folders."""

    def no_link(*of: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    folder = LocalFolder(tmp_path)
    assert [folder.create("parts/a", content) for content in (b"one", b"two")] == [True, False]
    assert folder.content("parts/a") == b"one"
    assert folder.names("parts") == {"a"}


def test_a_web_server_cannot_be_written_to() -> None:
    for address in ("https://me:s3cret@host/x?s3cret", "hf://datasets/owner/name"):
        with pytest.raises(BadIndex, match=r"cannot be written to\. Use s3://") as raised:
            RemoteFolder(address)
        assert "s3cret" not in str(raised.value)
