"""What is recorded of a file and of an image: small records that lie in the manifest and in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

BLOCK_BYTES = 1 << 20  # what stays in a core's cache is read and hashed quickest


class FileFacts(NamedTuple):
    """A file as it was made. In JSON a list of both."""

    size: int  # bytes
    checksum: str  # xxh3-128, in hex


Files = dict[str, FileFacts]  # by path inside the index
Crop = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the upright image


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was learnt of an image: its size and what the model saw of it, or the reason why it could not be read."""

    path: str
    label: str | None  # its class folder
    width: int | None = None
    height: int | None = None
    crop: Crop | None = None
    reason: str | None = None

    @property
    def readable(self) -> bool:
        return self.reason is None

    def to_json(self) -> dict[str, object]:
        """Path and label, then either what was learnt or the reason."""
        named = {"path": self.path, "label": self.label}
        if not self.readable:
            return {**named, "reason": self.reason}
        return {**named, "width": self.width, "height": self.height, "crop": self.crop}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageFacts:
        crop = value.get("crop")
        return cls(**{**value, "crop": None if crop is None else tuple(crop)})


def content_facts(content: bytes | memoryview) -> FileFacts:
    """The facts of a file with this content."""
    return FileFacts(len(content), xxhash.xxh3_128_hexdigest(content))


def file_facts(path: Path, advance: Callable[[int], object] = lambda count: None) -> FileFacts:
    """The facts of a file on disk; `advance` is told the bytes read."""
    digest, size = xxhash.xxh3_128(), 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            advance(count)
    return FileFacts(size, digest.hexdigest())
