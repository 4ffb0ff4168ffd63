"""`vitdex index`. Heavy imports stand inside the function: the group's help imports this module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


class Bar:
    """A progress bar with images/s, time left and bytes written; silent where the output is not a terminal."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.written = 0
        self.spec: Any = None

    def planned(self, plan: Any, done: int) -> None:
        from tqdm import tqdm

        from ..schemas.sizes import bytes_text as size

        self.spec = spec = plan.spec
        click.echo(
            f"{spec.model} on {spec.device}, {spec.precision}: {spec.neurons:,} neurons in {len(spec.layers)} layers"
        )
        click.echo(f"{spec.images:,} images from {spec.source}; class names: {spec.class_names}")
        for note in plan.notes:
            click.echo(f"Note: {note}")
        click.echo(f"index {size(plan.index_bytes)} (maps: {spec.maps}), memory about {size(plan.memory_bytes)}")
        if done:
            click.echo(f"going on after image {done:,}")
        self.bar = tqdm(total=spec.images, initial=done, unit="img", disable=not sys.stderr.isatty())

    def advance(self, images: int, written: int) -> None:
        from ..schemas.sizes import bytes_text as size

        self.written += written
        self.bar.set_postfix_str(size(self.written), refresh=False)
        self.bar.update(images)

    def finishing(self) -> None:
        self.bar.close()
        click.echo("all images read; making the tables")

    def checking(self, total: int) -> Callable[[int], object]:
        from tqdm import tqdm

        bar = tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=not sys.stderr.isatty())
        update: Callable[[int], object] = bar.update
        return update

    def repairing(self, plan: Any, damaged: list[str], images: int) -> None:
        from tqdm import tqdm

        click.echo(f"{len(damaged):,} files to make again; {images:,} images to read")
        self.bar = tqdm(total=images, unit="img", disable=not sys.stderr.isatty())


@click.command("index")
@click.argument("out", type=FILE)
@click.option("--sample", is_flag=True, help="The packaged images and model: no network, no data set.")
@click.option("--model", help="timm's name, or local-dir:FOLDER in timm's hub format.")
@click.option("--images", help="A folder, a folder of class folders, a tar of either, or hf:NAME:SPLIT.")
@click.option("--weights", type=FILE, help="A safetensors file instead of timm's hub.")
@click.option(
    "--head", type=FILE, help="Class embeddings (safetensors: weight [class, d]) instead of the model's head."
)
@click.option("--class-names", type=FILE, help="One name a line, in the head's order.")
@click.option(
    "--maps", type=click.Choice(["uint8", "float16", "exemplars", "none"]), default="uint8", show_default=True
)
@click.option("--layer", "layers", type=click.Choice(["fc1", "fc2"]), multiple=True, default=["fc1"], show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, mps. The best there is by default.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option(
    "--img-size", nargs=2, type=click.IntRange(1), metavar="H W", help="Input size other than the model's own."
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(0), help="Processes that decode images.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option("--no-inputs", is_flag=True, help="Leave the images' pixels out, to publish an index.")
@click.option("--repair", is_flag=True, help="Make the damaged files of a finished index again, and no others.")
@click.option("--overwrite", is_flag=True, help="Replace what stands at OUT.")
def index_command(
    out: Path, sample: bool, model: str | None, images: str | None, no_inputs: bool, repair: bool, **choices: Any
) -> None:
    """Read images once with a ViT and leave an index at OUT.

    Stopped at any point, the same command goes on after the last finished part.
    """
    if sample and (model or images or choices["weights"]):
        raise click.UsageError("--sample brings its own model and images.")
    if not sample and not (model and images):
        raise click.UsageError("Give --model and --images, or --sample.")
    from .build import build
    from .plan import Request, default_workers, sample_request

    if choices["workers"] is None:
        choices["workers"] = default_workers()
    if sample:
        request = sample_request(out, inputs=not no_inputs, **choices)
    else:
        assert model is not None
        assert images is not None
        request = Request(out, model, images, inputs=not no_inputs, **choices)
    bar = Bar()
    if repair:
        from .repair import repair as mend

        for path in mend(request, bar):
            click.echo(f"made again: {path}")
        click.echo(f"{out} is whole.")
        return
    build(request, bar)
    click.echo(f"\n{out} is ready. Next:\n")
    for line in next_commands(out, bool(bar.spec.classes)):
        click.echo(f"  {line}")


def next_commands(out: Path, head: bool) -> list[str]:
    """What to try first; a model without a head has no key neurons, but selective ones."""
    if not head:
        return [
            f"vitdex info {out}",
            f'vitdex sql {out} "FROM class_activations JOIN classes USING (class_id) ORDER BY auroc DESC LIMIT 10"',
        ]
    return [
        f"vitdex info {out}",
        f'vitdex sql {out} "FROM key_neurons ORDER BY contribution DESC LIMIT 10"',
        f'vitdex sql {out} "SELECT block, count(*) FROM key_neurons WHERE rank_in_class = 1 GROUP BY block"',
    ]
