"""The Tux Paint stamps behind the packaged sample: which, in which class, known or held out."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

CLASSES: dict[str, tuple[str, ...]] = {
    "bird": ("animals/birds/*.png",),
    "building": ("town/houses/cartoon/*.png",),
    "coin": ("symbols/money/*/coins/*.png", "symbols/money/japanese/*.png"),
    "flower": ("plants/flowers/**/*.png",),
    "fruit": ("food/fruit/**/*.png",),
    "hand": ("symbols/alphabets/asl/*.png",),
    "insect": ("animals/insects/**/*.png", "seasonal/easter/butterfly.png"),
    "letter": ("symbols/alphabets/english/filled/**/*.png",),
    "mammal": ("animals/mammals/*.png", "animals/mammals/*/*.png", "animals/marsupials/*.png"),
    "sign": ("town/roadsigns/*.png", "vehicles/locomotive/cartoon/trainSign.png"),
    "tool": (
        "household/tools/*.png", "household/arttools/scissors*.png", "household/dishes/utensils/nut*.png",
    ),
    "vehicle": (
        "vehicles/garbagetruck.png", "vehicles/auto/*.png", "vehicles/construction/**/*.png",
        "vehicles/emergency/**/*.png", "vehicles/farming/**/*.png", "vehicles/locomotive/**/*.png",
        "vehicles/masstransit/**/*.png", "vehicles/race/*.png", "military/vehicles/*.png",
    ),
}  # fmt: skip
SURFACES = ("seasonal/halloween/grave-[abghj].png", "space/planets/[2-8]_*.png", "plants/trees/[!r]*.png")

# Misfits of their topic (not an insect, not a photograph of an animal, ...), damaged pictures,
# and near-copies that would let a held-out stamp be a known one in disguise.
MISFITS = {
    "building": {"cave_entrance", "circus", "hunter", "medieval_tent", "tent", "tepee"},
    "fruit": {"apple_core"},
    "hand": {"asl_j", "asl_z", "asl_p", "asl_q", "asl_zzz_0", "asl_zzz_2", "asl_zzz_6"},
    "insect": {
        "Brown_slug", "Woodlouse", "snail", "snail2", "wings",
        "spider_computer", "spider_fly", "spider_football",
    },
    "mammal": {"dolphin", "orca", "whale", "hedgehog", "echidna", "tamarin_emperor", "edward_bear"},
    "sign": {
        "railroad_crossing", "stoplight_01_red", "stoplight_02_yellow", "stoplight_03_green", "toilets",
        "traffic_cone",
    },
    "tool": {"cementmixer", "measuring_tape", "toolbox"},
    "vehicle": {"7spoke256", "f22_raptor", "sedan_police", "trainSign"},
}  # fmt: skip

HELD_OUT_SEED = "vitdex"
HELD_OUT_SHARE = 0.2
HELD_OUT_LEAST = 4
LARGEST = 192


@dataclass(frozen=True)
class Stamp:
    """One cut-out picture, cropped to its object; ``levels`` halve in size from one to the next."""

    name: str
    label: str
    held_out: bool
    levels: tuple[Image.Image, ...]


def held_out_stems(label: str, stems: set[str]) -> set[str]:
    """The stems kept from training: a fixed share of each class, drawn by hash, so anyone draws the same."""
    ranked = sorted(stems, key=lambda stem: sha256(f"{HELD_OUT_SEED}/{label}/{stem}".encode()).hexdigest())
    return set(ranked[: max(HELD_OUT_LEAST, round(HELD_OUT_SHARE * len(ranked)))])


def _matches(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in root.glob(pattern)}
    return sorted(path for path in found if not path.stem.endswith("_mirror"))


def _filled(image: Image.Image) -> Image.Image:
    """A line drawing made solid: all that its (slightly broken) outline encloses becomes white and opaque."""
    reach = max(image.size) // 20 // 2 * 2 + 1
    padded = Image.new("L", (image.width + 4 * reach, image.height + 4 * reach))
    padded.paste(image.getchannel("A").point(lambda alpha: 255 * (alpha > 100)), (2 * reach, 2 * reach))
    outside = padded.filter(ImageFilter.MaxFilter(reach))
    ImageDraw.floodfill(outside, (0, 0), 128)
    inside = outside.point(lambda value: 255 * (value != 128)).filter(ImageFilter.MinFilter(reach))
    inside = inside.crop((2 * reach, 2 * reach, 2 * reach + image.width, 2 * reach + image.height))
    solid = Image.new("RGBA", image.size, "white")
    solid.alpha_composite(image)
    solid.putalpha(ImageChops.lighter(inside, image.getchannel("A")))
    return solid


def _levels(image: Image.Image) -> tuple[Image.Image, ...]:
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    levels = [image]
    while max(levels[-1].size) > 32:
        half = (max(1, levels[-1].width // 2), max(1, levels[-1].height // 2))
        levels.append(levels[-1].resize(half, Image.Resampling.BOX))
    return tuple(levels)


def _stamp(root: Path, path: Path, label: str, held_out: bool) -> Stamp:
    image = Image.open(path).convert("RGBA")
    if label == "hand":
        image = _filled(image)
    opaque = image.getchannel("A").point(lambda alpha: 255 * (alpha > 25))
    return Stamp(path.relative_to(root).as_posix(), label, held_out, _levels(image.crop(opaque.getbbox())))


def load_stamps(root: Path) -> list[Stamp]:
    """All stamps of all classes, in a fixed order."""
    stamps = []
    for label, patterns in CLASSES.items():
        paths = [path for path in _matches(root, patterns) if path.stem not in MISFITS.get(label, ())]
        # Upper and lower case of a letter, or one coin of two countries, are held out together.
        held_out = held_out_stems(label, {path.stem.lower() for path in paths})
        stamps += [_stamp(root, path, label, path.stem.lower() in held_out) for path in paths]
    return stamps


def load_surfaces(root: Path) -> list[Image.Image]:
    """Opaque middles of stamps that belong to no class, for photographed backgrounds."""
    surfaces = []
    for path in _matches(root, SURFACES):
        image = Image.open(path).convert("RGBA")
        width, height = image.size
        middle = image.crop((int(width * 0.2), int(height * 0.2), int(width * 0.8), int(height * 0.8)))
        opacity = np.asarray(middle.getchannel("A"), np.float32).mean() / 255
        if opacity > 0.9:
            middle.thumbnail((256, 256))
            surfaces.append(middle.convert("RGB"))
    return surfaces
