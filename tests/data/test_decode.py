"""Decoding against arithmetic on known pixels: files are built by hand or by a lossless encoder."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile
from vitdex.data.images import decode as module
from vitdex.data.images.decode import decode
from vitdex.schemas.errors import UnreadableImage

Array = NDArray[Any]

rng = np.random.default_rng(7)
COLOURS = rng.integers(0, 256, (5, 7, 3), np.uint8)
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP_8 = np.rint(RAMP / 257).astype(np.uint8)
VALUE, ALPHA = (a.astype(np.uint8) for a in np.meshgrid(np.arange(256), np.arange(256)))
ON_WHITE = np.rint((VALUE * (ALPHA / 255)) + 255 - ALPHA.astype(float)).astype(np.uint8)


def values(blob: bytes) -> NDArray[np.int16]:
    image = decode(blob)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def grey(a: Array) -> Array:
    return np.repeat(a[..., None], 3, axis=-1)


def encoded(image: Image.Image | Array, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **how)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size: tuple[int, int], depth: int, colour: int, rows: list[bytes], *extra: bytes, interlaced: int = 0) -> bytes:
    """A PNG of unfiltered rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + data + chunk(b"IEND", b"")


def key(*colour: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(colour)}H", *colour))


def tiff(pixels: Array, photometric: int, bits: tuple[int, ...] = (), **tags: int) -> bytes:
    """A little-endian TIFF of one uncompressed strip."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = bits or (8 * pixels.itemsize,) * samples
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    after = 8 + len(data)
    shorts = struct.pack(f"<{len(bits)}H", *bits)
    numbers = {"orientation": 274, "extra": 338, "sample_format": 339}
    height, width = pixels.shape[:2]
    fields = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 277: samples, 278: height, 279: len(data)}
    fields |= {numbers[name]: value for name, value in tags.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items()]
    place = int.from_bytes(shorts, "little") if len(bits) <= 2 else after
    entries.append(struct.pack("<HHII", 258, 3, len(bits), place))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", after + len(shorts)) + data + shorts + directory


# Colour


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_colours_are_unchanged(kind: str) -> None:
    how = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(kind, {})
    assert (values(encoded(COLOURS, kind, **how)) == COLOURS).all()


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_what_pillow_gives(mode: str, how: dict[str, int]) -> None:
    blob = encoded(Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).convert(mode), "JPEG", **how)
    assert (values(blob) == np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))).all()


def test_interlaced_png() -> None:
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [row.tobytes() for x, y, dx, dy in passes for row in COLOURS[y::dy, x::dx] if row.size]
    assert (values(png((7, 5), 8, 2, rows, interlaced=1)) == COLOURS).all()


def test_cmyk_jpeg_is_adobes_inverted_one() -> None:
    flat = np.broadcast_to(np.array([200, 100, 50, 30], np.uint8), (16, 16, 4))
    ink, black = flat[..., :3].astype(float), flat[..., 3:].astype(float)
    want = (255 - ink) * (255 - black) / 255  # light passes the ink and the black
    blob = encoded(Image.fromarray(np.ascontiguousarray(flat), "CMYK"), "JPEG", quality=100)
    assert np.abs(values(blob) - want).max() <= 3


def test_ycck_jpeg() -> None:
    red, green, blue, black = 180.0, 90.0, 40.0, 30
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    stored = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    # The encoder stores 255 - C, 255 - M, 255 - Y; the marker then says that these are Y, Cb, Cr.
    flat = np.full((16, 16, 4), [*(255 - round(v) for v in stored), black], np.uint8)
    blob = encoded(Image.fromarray(flat, "CMYK"), "JPEG", quality=100)
    at = blob.index(b"Adobe") + 11
    blob = blob[:at] + b"\2" + blob[at + 1 :]
    # YCbCr give R, G, B; C, M, Y are 255 less those, and inverted as in every file of Adobe's, so R, G, B are ink.
    want = (255 - np.array([red, green, blue])) * (255 - black) / 255
    assert np.abs(values(blob) - want).max() <= 4


def test_lab_tiff() -> None:
    """CIE's own formulas, from L* a* b* by D50 and Bradford's matrix to sRGB."""
    lab = np.array([[[100, 0, 0], [0, 0, 0], [50, 0, 0], [60, 30, 20], [70, -30, 25]]])
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    matrix = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    light = np.clip(xyz @ np.array(matrix).T, 0, 1)
    want = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    stored = np.stack([np.rint(lab[..., 0] * 2.55), lab[..., 1], lab[..., 2]], -1).astype(np.int16).astype(np.uint8)
    assert np.abs(values(tiff(stored, 8)) - want).max() <= 3


def test_upper_bytes_of_16_bit_colours() -> None:
    deep = rng.integers(0, 65536, (5, 7, 3), np.uint16)
    rows = [row.astype(">u2").tobytes() for row in deep]
    assert (values(png((7, 5), 16, 2, rows)) == deep >> 8).all()
    assert (values(tiff(deep, 2)) == deep >> 8).all()


def test_profiles_are_left_alone() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert (values(encoded(COLOURS, "PNG", icc_profile=profile)) == COLOURS).all()


# Grey


GREYS_16 = {
    "png": encoded(RAMP, "PNG"),
    "pgm": encoded(RAMP, "PPM"),
    "plain pgm": b"P2 256 256 65535 " + " ".join(map(str, RAMP.ravel())).encode(),
    "tiff": tiff(RAMP, 1),
    "big-endian tiff": encoded(Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes()), "TIFF"),
    "deflated tiff": encoded(RAMP, "TIFF", compression="tiff_adobe_deflate"),
    "32-bit tiff": tiff(RAMP.astype(np.int32), 1, sample_format=2),
    "jpeg 2000": encoded(RAMP, "JPEG2000", irreversible=False),
    "float tiff": tiff((RAMP / 65535).astype(np.float32), 1, sample_format=3),
    "pfm": b"Pf 256 256 -1.0\n" + (RAMP[::-1] / 65535).astype("<f4").tobytes(),
}


@pytest.mark.parametrize("blob", GREYS_16.values(), ids=GREYS_16)
def test_deep_greys_are_scaled_not_clipped(blob: bytes) -> None:
    assert (values(blob) == grey(RAMP_8)).all()


def test_12_bit_grey_tiff() -> None:
    pairs = np.arange(4096, dtype=np.uint32).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    blob = tiff(packed.reshape(64, 96), 1, (12,))
    blob = blob.replace(struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 64))
    assert (values(blob) == grey(np.rint(np.arange(4096).reshape(64, 64) / 4095 * 255))).all()


@pytest.mark.parametrize(
    ("stored", "sample_format"),
    [(RAMP_8, 1), (RAMP, 1), ((RAMP / 65535).astype(np.float32), 3)],
    ids=["8", "16", "float"],
)
def test_tiff_where_white_is_zero(stored: Array, sample_format: int) -> None:
    assert (values(tiff(stored, 0, sample_format=sample_format)) == grey(255 - RAMP_8.astype(int))).all()


@pytest.mark.parametrize(
    ("pixels", "sample_format", "reason"),
    [
        (np.array([[0, 70000]], np.int32), 2, "grey values from 0 to 70000, of which only 0 to 65535 are defined"),
        (np.array([[-1, 5]], np.int16), 2, "grey values from -1 to 5, of which only 0 to 65535 are defined"),
        (np.array([[0, 255]], np.float32), 3, "grey values from 0 to 255, of which only 0 to 1 are defined"),
        (np.array([[0, np.nan]], np.float32), 3, "grey values from nan to nan, of which only 0 to 1 are defined"),
        (np.array([[0, np.inf]], np.float32), 3, "grey values from 0 to inf, of which only 0 to 1 are defined"),
    ],
)
def test_greys_without_a_meaning(pixels: Array, sample_format: int, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=f"^{reason}$"):
        decode(tiff(pixels, 1, sample_format=sample_format))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_bilevel(kind: str) -> None:
    bits = rng.integers(0, 2, (9, 11)).astype(bool)
    assert (values(encoded(Image.fromarray(bits), kind)) == grey(np.where(bits, 255, 0))).all()


def test_few_bits_of_grey() -> None:
    assert (values(png((4, 1), 2, 0, [b"\x1b"])) == grey(np.array([[0, 85, 170, 255]]))).all()


# Transparency


ALPHAS = {
    "rgba png": encoded(np.dstack([VALUE] * 3 + [ALPHA]), "PNG"),
    "la png": encoded(Image.fromarray(np.dstack([VALUE, ALPHA]), "LA"), "PNG"),
    "rgba tiff": tiff(np.dstack([VALUE] * 3 + [ALPHA]), 2, extra=2),
    "la tiff": tiff(np.dstack([VALUE, ALPHA]), 1, extra=2),
    "rgba webp": encoded(np.dstack([VALUE] * 3 + [ALPHA]), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("blob", ALPHAS.values(), ids=ALPHAS)
def test_alpha_is_composited_on_white(blob: bytes) -> None:
    assert (values(blob) == grey(ON_WHITE)).all()


NO_GREY_PREMULTIPLIED = pytest.mark.skipif(int(version("pillow").split(".")[0]) < 13, reason="unknown to Pillow < 13")


@pytest.mark.parametrize("channels", [pytest.param(1, marks=NO_GREY_PREMULTIPLIED), 3])
def test_premultiplied_alpha(channels: int) -> None:
    times = np.minimum(VALUE, ALPHA)
    blob = tiff(np.dstack([times] * channels + [ALPHA]), 1 if channels == 1 else 2, extra=1)
    assert np.abs(values(blob) - grey(times.astype(int) + 255 - ALPHA)).max() <= 1


def test_a_fourth_channel_that_is_not_alpha() -> None:
    padded = np.dstack([COLOURS, rng.integers(0, 256, (5, 7), np.uint8)])
    assert (values(tiff(padded, 2, extra=0)) == COLOURS).all()


PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
COLOUR_KEYS = {
    "palette": (png((3, 1), 8, 3, [b"\0\1\2"], PALETTE), [(10, 20, 30), (40, 50, 60), (70, 80, 90)]),
    "one transparent palette entry": (
        png((3, 1), 8, 3, [b"\0\1\2"], PALETTE, chunk(b"tRNS", b"\xff\0")),
        [(10, 20, 30), (255, 255, 255), (70, 80, 90)],
    ),
    "palette with degrees": (
        png((3, 1), 8, 3, [b"\0\1\2"], PALETTE, chunk(b"tRNS", b"\x33\x66")),
        [(206, 208, 210), (169, 173, 177), (70, 80, 90)],
    ),
    "rgb key": (png((2, 1), 8, 2, [b"\1\2\3\1\2\4"], key(1, 2, 3)), [(255, 255, 255), (1, 2, 4)]),
    "16-bit rgb key": (
        png((2, 1), 16, 2, [struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 256, 512, 768)], key(0x1234, 0x5678, 0x9ABC)),
        [(255, 255, 255), (1, 2, 3)],
    ),
    "grey key": (png((2, 1), 8, 0, [b"\5\6"], key(5)), [(255, 255, 255), (6, 6, 6)]),
    "16-bit grey key": (
        png((2, 1), 16, 0, [struct.pack(">2H", 2570, 2571)], key(2571)),
        [(10, 10, 10), (255, 255, 255)],
    ),
    "4-bit grey key": (png((2, 1), 4, 0, [b"\x34"], key(3)), [(255, 255, 255), (68, 68, 68)]),
    "2-bit grey key": (png((2, 1), 2, 0, [b"\x60"], key(1)), [(255, 255, 255), (170, 170, 170)]),
    "1-bit key": (png((2, 1), 1, 0, [b"\x40"], key(0)), [(255, 255, 255), (255, 255, 255)]),
}  # fmt: skip


@pytest.mark.parametrize(("blob", "want"), COLOUR_KEYS.values(), ids=COLOUR_KEYS)
def test_palettes_and_transparent_colours(blob: bytes, want: list[tuple[int, int, int]]) -> None:
    assert values(blob)[0].tolist() == [list(colour) for colour in want]


def test_palette_tiff_with_alpha() -> None:
    indices = Image.fromarray(np.dstack([VALUE, ALPHA]), "PA")
    indices.putpalette(bytes(v for i in range(256) for v in (i, i, i)))
    assert (values(encoded(indices, "TIFF")) == grey(ON_WHITE)).all()


def gif(left: int, top: int, transparent: bool) -> bytes:
    """A screen of 3 x 3 and a frame of one pixel, of colour 1."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 3, 3, 0x80, 0, 0) + bytes([200, 0, 0, 0, 200, 0])
    control = b"!\xf9\4" + bytes([int(transparent), 0, 0, 0]) + b"\0"
    data = b"\2\2\x4c\1\0"  # codes of 3 bits: clear, 1, end
    return screen + control + b"," + struct.pack("<HHHHB", left, top, 1, 1, 0) + data + b";"


@pytest.mark.parametrize("transparent", [False, True])
def test_gif_frame_smaller_than_its_screen(transparent: bool) -> None:
    want = np.full((3, 3, 3), 255)
    want[2, 1] = 0, 200, 0
    assert (values(gif(1, 2, transparent)) == want).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    blob = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(values(blob) - [255, 0, 0]).max() <= (2 if kind in ("MPO", "WEBP") else 0)


# Upright


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "TIFF":
        blob, stored = tiff(COLOURS, 2, orientation=orientation), COLOURS
    else:
        how = {"lossless": True} if kind == "WEBP" else {}
        blob = encoded(COLOURS, kind, exif=exif, **how)
        stored = np.asarray(Image.open(io.BytesIO(encoded(COLOURS, kind, **how))).convert("RGB"))
    assert (values(blob) == TURNS[orientation](stored)).all()


def test_orientation_of_deep_greys_and_palettes() -> None:
    exif = Image.Exif()
    exif[274] = 6
    small = RAMP[:3]
    assert (values(encoded(small, "PNG", exif=exif)) == grey(TURNS[6](RAMP_8[:3]))).all()
    palette = Image.fromarray(RAMP_8[:3], "P")
    palette.putpalette(bytes(v for i in range(256) for v in (i, i, i)))
    assert (values(encoded(palette, "PNG", exif=exif, transparency=0))[:, 0, 0][1:] != 255).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage!", b"Exif\0\0MM"])
def test_broken_exif_costs_the_rotation_only(exif: bytes) -> None:
    blob = encoded(COLOURS, "PNG", exif=exif)
    assert (values(blob) == COLOURS).all()


# Broken files


def huge_png() -> bytes:
    return png((20_000, 20_000), 8, 2, [b""])


HEAD = "its header is damaged, cut off or of an unknown variant"
READ = r"JPEG, PNG, GIF, WEBP, BMP, TIFF, PPM, JPEG2000, AVIF"
BROKEN = {
    "empty": (b"", "the file is empty"),
    "zeros": (bytes(10_000), "the file holds only zeros"),
    "text": (b"<html>not found</html>", rf"not an image of a kind that is read \({READ}\)"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", rf"not an image .* \({READ}\)"),
    "bomb": (huge_png(), "more than 178,956,970 pixels, as in a decompression bomb"),
    "no width": (png((0, 5), 8, 2, [b""]), f"broken PNG: {HEAD}"),
    "jpeg, half": (encoded(RAMP_8, "JPEG")[:900], r"broken JPEG: image file is truncated \(\d+ bytes not processed\)"),
    "jpeg, mark": (b"\xff\xd8\xff\xe0", "broken JPEG: .*"),
    "png, half": (encoded(COLOURS, "PNG")[:60], "broken PNG: image file is truncated"),
    "png, bad sum": (encoded(COLOURS, "PNG").replace(b"IHDR\0\0", b"IHDR\0\1", 1), "broken PNG: .*"),
    "gif, mark": (b"GIF89a\1\0", f"broken GIF: {HEAD}"),
    "float16 tiff": (tiff(np.ones((2, 2), np.float16), 1, sample_format=3), f"broken TIFF: {HEAD}"),
}  # fmt: skip


@pytest.mark.parametrize(("blob", "reason"), BROKEN.values(), ids=BROKEN)
def test_reasons(blob: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=f"^{reason}$"):
        decode(blob)


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 34)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="as in a decompression bomb"):
        decode(encoded(COLOURS, "PNG"))


def test_large_images_below_the_limit_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # so that 35 are where Pillow warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (values(encoded(COLOURS, "PNG")) == COLOURS).all()


def samples() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[274] = 6
    small = Image.fromarray(rng.integers(0, 256, (12, 10, 4), np.uint8), "RGBA")
    for kind in ("PNG", "WEBP", "TIFF", "JPEG2000", "AVIF"):
        yield encoded(small, kind, exif=exif) if kind != "JPEG2000" else encoded(small, kind)
    for kind in ("JPEG", "GIF", "BMP", "PPM", "MPO"):
        yield encoded(small.convert("RGB"), kind, **({"exif": exif} if kind == "JPEG" else {}))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield encoded(small.convert("RGB"), "TIFF", compression=compression)
    yield encoded(small.convert("CMYK"), "JPEG", progressive=True)
    yield encoded(small.quantize(9), "PNG")
    yield encoded(RAMP[:4], "PNG")
    yield tiff((RAMP[:4] / 65535).astype(np.float32), 1, sample_format=3)
    yield tiff(COLOURS, 8)
    yield b"P3 2 1 255 1 2 3 4 5 6"
    yield gif(1, 1, True)


SAMPLES = list(samples())


def outcome(blob: bytes) -> str:
    """'decoded', or the reason why not; any other error is the test's failure."""
    with pytest.MonkeyPatch.context() as patch:
        # A flipped bit in a size may ask for a gigabyte, which is allowed but slow.
        patch.setattr(module, "MAX_PIXELS", 1_000_000)
        try:
            assert decode(blob).mode == "RGB"
        except UnreadableImage as error:
            return str(error)
    return "decoded"


def readable(reason: str) -> bool:
    return 5 < len(reason) < 300 and "\n" not in reason


def test_samples_are_whole() -> None:
    assert [outcome(blob) for blob in SAMPLES] == ["decoded"] * 21


def test_damage_never_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(3)
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for blob in SAMPLES * 80:
            broken = bytearray(blob[: dice.randrange(len(blob))] if dice.random() < 0.3 else blob)
            for _ in range(dice.randrange(1, 6) if broken else 0):
                broken[dice.randrange(min(len(broken), 400))] = dice.randrange(256)
            outcomes.append(outcome(bytes(broken)))
    assert capsys.readouterr() == ("", "")
    assert all(map(readable, outcomes))
    assert 0.1 < outcomes.count("decoded") / len(outcomes) < 0.9


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SAMPLES), st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 5000))
def test_damage_never_escapes_by_property(blob: bytes, at: int, there: bytes, end: int) -> None:
    assert readable(outcome((blob[:at] + there + blob[at + len(there) :])[:end]))


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("two\n  lines"), "two lines"), (KeyError(), "KeyError"), (MemoryError("x" * 999), "x" * 200)],
)
def test_errors_become_one_line(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadableImage, match=f"^broken PNG: {reason}$"):
        decode(encoded(COLOURS, "PNG"))


def test_pillow_does_not_log_to_stderr() -> None:
    """In a process of its own: pytest catches what is logged."""
    blob = tiff(np.zeros((2, 2, 8), np.uint8), 2)  # Pillow logs an error about the eight channels
    attempt = f"try: decode({blob!r})\nexcept Exception as error: print(error)"
    code = f"from vitdex.data.images.decode import decode\n{attempt}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert (done.stdout, done.stderr) == (f"broken TIFF: {HEAD}\n", "")


def test_nothing_of_pillow_is_changed() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    for blob in SAMPLES:
        decode(blob)
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
