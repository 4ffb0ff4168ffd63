"""A folder of odd and broken files through a whole run: every one is accounted for, and read as it should be."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SAMPLE
from numpy.typing import NDArray
from PIL import Image
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request
from vitdex.query.commands.info import info_command
from vitdex.query.index import Index

SIDE = 96  # the model's input: what is decoded is what is stored
rng = np.random.default_rng(5)
SMOOTH = np.kron(rng.integers(0, 256, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
GREY, ALPHA = SMOOTH[..., 0], SMOOTH[..., 1]
DEEP = GREY.astype(np.uint16) * 257
ON_WHITE = np.rint(SMOOTH * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None].astype(float)).astype(np.uint8)

Pixels = NDArray[np.uint8]
Form = tuple[bytes, Pixels, int]  # a file, what it shows, and how far a lossy kind may be from it


def encoded(image: Any, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **how)
    return file.getvalue()


def grey(values: NDArray[Any]) -> Pixels:
    return np.repeat(values[..., None], 3, -1).astype(np.uint8)


def turned(orientation: int, stored: Pixels) -> Form:
    """A PNG whose EXIF asks for a turn, and the turned pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    return encoded(stored, "PNG", exif=exif), turns[orientation](stored), 0


def readable() -> dict[str, Form]:
    plain, ink = encoded(SMOOTH, "PNG"), Image.fromarray(np.dstack([SMOOTH, 255 - GREY]), "CMYK")
    palette = Image.fromarray(GREY, "P")
    palette.putpalette(bytes(v for i in range(256) for v in (i, 255 - i, i // 2)))
    coloured = np.dstack([GREY, 255 - GREY, GREY // 2])
    rgba, frames = np.dstack([SMOOTH, ALPHA]), [Image.new("RGB", (SIDE, SIDE), c) for c in ("red", "blue")]
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), SMOOTH.shape)
    light = (255 - SMOOTH.astype(float)) * GREY[..., None] / 255
    forms = {f"turned {n}.png": turned(n, SMOOTH) for n in range(2, 9)}
    forms |= {f"lossless.{kind.lower()}": (encoded(SMOOTH, kind), SMOOTH, 0) for kind in ("PNG", "BMP", "TIFF", "PPM")}
    names = [
        'it\'s "quoted".png',
        "two  spaces .png",
        "line\nbreak.png",
        "日本語 écrit.png",
        "n" * 240 + ".png",
        "noending",
    ]
    return forms | {name: (plain, SMOOTH, 0) for name in names} | {
        "lossless.webp": (encoded(SMOOTH, "WEBP", lossless=True), SMOOTH, 0),
        "lossy.jpg": (encoded(SMOOTH, "JPEG", quality=100, subsampling=0), SMOOTH, 6),
        "cmyk.jpg": (encoded(ink, "JPEG", quality=100, subsampling=0), light.round().astype(np.uint8), 12),
        "palette.gif": (encoded(palette, "GIF"), coloured, 0),
        "palette.png": (encoded(palette, "PNG"), coloured, 0),
        "16 bit.png": (encoded(DEEP, "PNG"), grey(GREY), 0),
        "16 bit.tif": (encoded(DEEP, "TIFF"), grey(GREY), 0),
        "grey.jpg": (encoded(GREY, "JPEG", quality=100), grey(GREY), 4),
        "bilevel.png": (encoded(Image.fromarray(GREY > 127), "PNG"), grey(np.where(GREY > 127, 255, 0)), 0),
        "alpha.png": (encoded(rgba, "PNG"), ON_WHITE, 1),
        "alpha.webp": (encoded(rgba, "WEBP", lossless=True, exact=True), ON_WHITE, 1),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), red, 0),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), red, 0),
        "a png named so.jpg": (plain, SMOOTH, 0),
    }  # fmt: skip


def broken() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be read, and what their reason must say."""
    whole = {kind: encoded(SMOOTH, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")}
    cut = {f"cut.{kind.lower()}": (blob[: len(blob) // 2], "broken") for kind, blob in whole.items()}
    bomb = bytearray(whole["PNG"])
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    return cut | {
        "empty.png": (b"", "empty"),
        "zeros.jpg": (bytes(5000), "only zeros"),
        "page.jpg": (b"<html>gone</html>", "not an image"),
        "notes.txt": (b"some words", "not an image"),
        "bomb.png": (bytes(bomb), "decompression bomb"),
    }


def test_every_odd_file_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, good, bad = tmp_path / "odd", readable(), broken()
    folder.mkdir()
    for name, (blob, *_) in (good | bad).items():
        (folder / name).write_bytes(blob)
    for name in (".hidden.png", "._mac.png"):
        (folder / name).write_bytes(b"x")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "elsewhere.png").write_bytes(encoded(SMOOTH, "PNG"))
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    os.mkfifo(folder / "pipe.png")
    good["link.png"] = (b"", SMOOTH, 0)
    found = [*folder.iterdir()]
    assert len(found) >= 40
    request = Request(tmp_path / "a", f"local-dir:{SAMPLE / 'model'}", str(folder), device="cpu", maps="none")
    warnings: list[str] = []
    listener = Quiet()
    monkeypatch.setattr(listener, "planned", lambda run, done: warnings.extend(run.warnings))
    with Index(build(request, listener)) as index:
        assert [
            line for line in warnings if line.startswith("2 of what was found is left out: the first is 'dangling.")
        ]
        shown = CliRunner().invoke(info_command, [str(request.out)]).output
        assert "skipped   dangling.png: a dangling link" in shown
        told, failures = index.manifest["images"], index.sql("FROM failures")
        skipped = dict(told["skipped"])
        assert told["found"] == len(found) == told["indexed"] + told["failed"] + len(skipped)
        assert set(skipped) == {".hidden.png", "._mac.png", "dangling.png", "pipe.png"}
        reasons: dict[str, str] = dict(failures.itertuples(index=False))
        assert set(reasons) == set(bad)
        assert [name for name, (_, reason) in bad.items() if reason not in reasons[name]] == []
        images = index.sql("SELECT path, image_id FROM images").set_index("path").image_id
        assert {*good, *bad} == set(images.index)
        for name, (_, want, tolerance) in good.items():
            stored = np.asarray(index.arrays["inputs"][int(images[name])]).astype(int)
            assert np.abs(stored - want).max() <= tolerance, name
