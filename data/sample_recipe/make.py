"""Make the packaged sample's pictures and masks from the Tux Paint stamps.

python -m vitdex.data.sample_recipe.make images --stamps STAMPS --out SAMPLE
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image

from .compose import PICTURE, Stream, compose
from .stamps import CLASSES, Stamp, load_stamps, load_surfaces

KNOWN, UNSEEN = 30, 10  # pictures per class
SIDE = 128
QUALITY = 92
FOLDER = click.Path(file_okay=False, path_type=Path)


def round_robin(rng: np.random.Generator, stamps: list[Stamp], count: int) -> Iterator[Stamp]:
    """``count`` stamps, each as often as the others, in random order."""
    for start in range(0, count, len(stamps)):
        order = rng.permutation(len(stamps))
        yield from (stamps[i] for i in order[: count - start])


def plan(stamps: list[Stamp], stream: Stream, known: int, unseen: int) -> Iterator[tuple[str, int, Stamp]]:
    """Class, number and stamp of every picture: in each class the known stamps first."""
    for index, label in enumerate(CLASSES):
        rng = np.random.default_rng((stream, index))
        mine = [stamp for stamp in stamps if stamp.label == label]
        chosen = [
            *round_robin(rng, [stamp for stamp in mine if not stamp.held_out], known),
            *round_robin(rng, [stamp for stamp in mine if stamp.held_out], unseen),
        ]
        for number, stamp in enumerate(chosen):
            yield label, number, stamp


@click.group()
def main() -> None:
    """Make the packaged sample."""


@main.command()
@click.option("--stamps", "source", type=FOLDER, required=True)
@click.option("--out", type=FOLDER, required=True)
def images(source: Path, out: Path) -> None:
    """Write images/CLASS/NNN.jpg, masks/CLASS/NNN.png and images.csv."""
    stamps, surfaces = load_stamps(source), load_surfaces(source)
    rows = []
    for label, number, stamp in plan(stamps, Stream.INDEX, KNOWN, UNSEEN):
        rng = np.random.default_rng((Stream.INDEX, list(CLASSES).index(label), number))
        picture, mask = compose(rng, stamp, surfaces, PICTURE, SIDE)
        for folder in ("images", "masks"):
            (out / folder / label).mkdir(parents=True, exist_ok=True)
        picture.save(out / "images" / label / f"{number:03}.jpg", quality=QUALITY)
        Image.fromarray(mask).save(out / "masks" / label / f"{number:03}.png", optimize=True)
        rows.append((f"{label}/{number:03}.jpg", label, stamp.name, int(stamp.held_out)))
    with (out / "images.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "class", "stamp", "held_out"))
        writer.writerows(rows)
    click.echo(f"{len(rows)} pictures of {len(CLASSES)} classes in {out}")


if __name__ == "__main__":
    main()
