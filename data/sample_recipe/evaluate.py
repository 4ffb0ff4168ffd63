"""Count the exported model's hits on composites it never saw, in Markdown for the model card.

python -m vitdex.data.sample_recipe.evaluate --stamps STAMPS --sample SAMPLE
"""

import csv
from collections.abc import Callable, Iterator
from io import BytesIO
from math import sqrt
from pathlib import Path

import click
import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from .compose import PICTURE, Stream, compose
from .make import FOLDER, QUALITY, SIDE, plan
from .stamps import CLASSES, load_stamps, load_surfaces

LABELS = list(CLASSES)
EACH = 200  # fresh composites per class, of known and of held-out stamps each


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    reach = z * sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return middle - reach, middle + reach


def fresh(source: Path) -> Iterator[tuple[Image.Image, str, str, bool]]:
    """Composites of the evaluation stream, through JPEG as the packaged pictures went."""
    surfaces = load_surfaces(source)
    for label, number, stamp in plan(load_stamps(source), Stream.EVALUATION, EACH, EACH):
        rng = np.random.default_rng((Stream.EVALUATION, LABELS.index(label), number))
        file = BytesIO()
        compose(rng, stamp, surfaces, PICTURE, SIDE)[0].save(file, "JPEG", quality=QUALITY)
        yield Image.open(file), label, stamp.name, stamp.held_out


def packaged(sample: Path) -> Iterator[tuple[Image.Image, str, str, bool]]:
    """The pictures of the sample itself."""
    with (sample / "images.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            image = Image.open(sample / "images" / row["path"])
            yield image, row["class"], row["stamp"], row["held_out"] == "1"


@torch.inference_mode()
def scored(
    model: torch.nn.Module, transform: Callable[[Image.Image], Tensor], pictures: list[Image.Image]
) -> list[str]:
    """The label that the model gives to each picture."""
    inputs = torch.stack([transform(picture) for picture in pictures])
    return [LABELS[i] for part in torch.split(inputs, 240) for i in model(part).argmax(1).tolist()]


def report(title: str, labels: list[str], stamps: list[str], found: list[str]) -> None:
    """One table line, and how many stamps are mostly recognised."""
    right = np.array(labels) == np.array(found)
    low, high = wilson(int(right.sum()), len(right))
    shares = [right[np.array(stamps) == name].mean() for name in sorted(set(stamps))]
    mostly = sum(share > 0.5 for share in shares)
    click.echo(
        f"| {title} | {right.sum()}/{len(right)} | {right.mean():.1%} | {low:.1%} to {high:.1%} "
        f"| {mostly}/{len(shares)} |"
    )


@click.command()
@click.option("--stamps", "source", type=FOLDER, required=True)
@click.option("--sample", type=FOLDER, required=True)
def main(source: Path, sample: Path) -> None:
    """Print the tables of accuracy."""
    model = timm.create_model(f"local-dir:{(sample / 'model').resolve()}", pretrained=True).float().eval()
    config = resolve_model_data_config(model)
    transform = create_transform(**config)
    click.echo("| pictures | right | accuracy | Wilson 95% | stamps mostly right |\n|---|---|---|---|---|")
    for title, items in (("fresh", list(fresh(source))), ("packaged", list(packaged(sample)))):
        found = scored(model, transform, [item[0] for item in items])
        for held_out, kind in ((False, "known stamps"), (True, "never-seen stamps")):
            pairs = zip(items, found, strict=True)
            rows = [(label, stamp, said) for (_, label, stamp, unseen), said in pairs if unseen is held_out]
            columns = [list(column) for column in zip(*rows, strict=True)]
            report(f"{title}, {kind}", *columns)
            if title == "fresh":
                for label in LABELS:
                    mine = [row for row in rows if row[0] == label]
                    report(f"- {label}", *[list(column) for column in zip(*mine, strict=True)])


if __name__ == "__main__":
    main()
