"""`vitdex index` and `vitdex head`. Heavy imports stand inside the functions: the group's help imports this module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from ..data.packaged import IMAGES, MODEL_NAME
from ..schemas.addressed import is_address
from ..schemas.numbers_shown import number_of
from ..schemas.run_spec import READOUTS, Linear, Maps, Precision, RunSpec
from ..schemas.shown_text import escaped
from ..schemas.sizes import bytes_text
from .make_index import make_index

if TYPE_CHECKING:
    from tqdm import tqdm

    from .other_head import HeadPlan
    from .plan import Announced, Plan, Request
    from .tables.class_order import Accuracy


class PlaceType(click.Path):
    """A folder to be made, or an address, which stays as it is written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and is_address(value) else super().convert(value, param, ctx)


FILE = click.Path(path_type=Path)
CLASS_NAMES = click.option(
    "--class-names", metavar="FILE", help="One name a line, in the head's order; or one of timm's lists: imagenet-1k."
)
LABELS = click.option(
    "--labels", type=FILE, help="The images' classes: a table of file and class, or one class a line."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what stands at OUT.")


def _tell(line: str, err: bool = False) -> None:
    click.echo(escaped(line), err=err)


def _tell_end(notes: list[str], accuracy: Accuracy | None) -> None:
    """What has shown at the end, and how often the model is right."""
    for note in notes:
        _tell(f"Note: {note}")
    if accuracy is None:
        return
    top5 = "" if accuracy.top5 is None else f", top-5 {accuracy.top5:.1%}"
    _tell(
        f"the model's answers on {number_of(accuracy.images, 'image')} with a class: top-1 {accuracy.top1:.1%}{top5}; "
        f"by chance {accuracy.chance:.1%}"
    )
    if accuracy.warning:
        _tell(f"Warning: {accuracy.warning}", err=True)


def _best_ranking(spec: RunSpec) -> str | None:
    """The best ranking that key neurons have without classes of images; None without a head."""
    if not spec.classes:
        return None
    return "folded" if spec.readout in READOUTS else "score"


def _with_classes(ranking: str | None, accuracy: Accuracy | None) -> str | None:
    """The same once the model's answers are compared with classes: contributions are of a class's own images."""
    return "contribution" if ranking == "folded" and accuracy is not None else ranking


class Bar:
    """A progress bar with images/s, time left and bytes written; silent where the output is not a terminal."""

    _bar: tqdm[NoReturn]
    ranking: str | None = None  # of key neurons, as it is known

    def __init__(self) -> None:
        self.written = 0

    def planned(self, run: Announced, done: int) -> None:
        spec = run.spec
        self.ranking = _best_ranking(spec)
        size = f"{number_of(spec.neurons, 'neuron')} in {number_of(len(spec.layers), 'layer')}"
        _tell(f"{spec.model} on {spec.device}, {spec.precision}: {size}")
        _tell(f"{number_of(spec.images, 'image')} from {spec.source}")
        _tell(f"{run.labelled}; class names: {spec.class_names}")
        for note in run.notes:
            _tell(f"Note: {note}")
        size, memory = bytes_text(run.index_bytes), bytes_text(run.memory_bytes)
        of_device = f", of the GPU's about {bytes_text(run.device_bytes)}" if run.device_bytes else ""
        _tell(f"index {size} (maps: {spec.maps}), memory about {memory}{of_device}")
        for warning in run.warnings:
            _tell(f"Warning: {warning}", err=True)
        if done:
            _tell(f"going on after image {done:,}")
        self._bar = _new_bar(spec.images, "img", done)

    def advance(self, images: int, written: int) -> None:
        self.written += written
        self._bar.set_postfix_str(bytes_text(self.written), refresh=False)
        self._bar.update(images)

    def finishing(self) -> None:
        self._bar.close()
        _tell("every image is done; making the tables")

    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None:
        self.ranking = _with_classes(self.ranking, accuracy)
        _tell_end(notes, accuracy)

    def told(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(escaped(line))

    def checking(self, total: int) -> Callable[[int], object]:
        return _new_bar(total, "B", name="checking").update

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None:
        _tell(f"{number_of(len(damaged), 'file')} to make again; {number_of(images, 'image')} to read")
        self._bar = _new_bar(images, "img")


def _new_bar(total: int, unit: str, done: int = 0, name: str | None = None) -> tqdm[NoReturn]:
    from tqdm import tqdm

    scale = unit == "B"
    return tqdm(total=total, initial=done, unit=unit, unit_scale=scale, desc=name, disable=not sys.stderr.isatty())


@click.command("index")
@click.argument("out", type=PlaceType(path_type=Path))
@click.option("--sample", is_flag=True, help="The packaged images and model: no network, no data set.")
@click.option("--model", help="timm's name, local-dir:FOLDER with its config.json, or hf-hub:ORG/NAME.")
@click.option(
    "--images",
    help="A folder, a folder of class folders, a tar of either, NAME-{00..99}.tar, any of them at an address "
    "(s3://...), or hf:NAME:SPLIT.",
)
@click.option("--weights", type=FILE, help="A safetensors file instead of timm's hub.")
@click.option(
    "--head", type=FILE, help="Class embeddings (safetensors: weight [class, d]) instead of the model's head."
)
@CLASS_NAMES
@LABELS
@click.option("--maps", type=click.Choice(get_args(Maps)), default="uint8", show_default=True)
@click.option(
    "--layer",
    "layers",
    type=click.Choice(get_args(Linear)),
    multiple=True,
    default=["fc1"],
    show_default=True,
    help="fc1: neurons; attn: what attention hands to attn.proj; fc2: what MLPs write. May be repeated.",
)
@click.option("--device", help="cpu, cuda, cuda:1, mps. The best there is by default.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default="float32", show_default=True)
@click.option(
    "--img-size", nargs=2, type=click.IntRange(1), metavar="H W", help="Input size other than the model's own."
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(0), help="Processes that decode images.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option("--no-inputs", is_flag=True, help="Leave the images' pixels out, to publish an index.")
@click.option("--join", is_flag=True, help="Help other workers that fill OUT by the same command, on any machine.")
@click.option("--no-finish", is_flag=True, help="With --join: end when no part is free; others make the tables.")
@click.option("--ray", metavar="ADDRESS", help="Workers of a Ray cluster at ADDRESS, or 'auto', 'local'.")
@click.option("--ray-workers", type=click.IntRange(1), help="How many; one a GPU, or a node, by default.")
@click.option("--repair", is_flag=True, help="Make the damaged files of a finished index again, and no others.")
@OVERWRITE
def index_command(
    out: Path | str,
    sample: bool,
    model: str | None,
    images: str | None,
    weights: Path | None,
    head: Path | None,
    class_names: str | None,
    labels: Path | None,
    maps: Maps,
    layers: tuple[Linear, ...],
    device: str | None,
    precision: Precision,
    img_size: tuple[int, int] | None,
    batch_size: int,
    workers: int | None,
    limit: int | None,
    no_inputs: bool,
    join: bool,
    no_finish: bool,
    ray: str | None,
    ray_workers: int | None,
    repair: bool,
    overwrite: bool,
) -> None:
    """Read images once with a ViT and leave an index at OUT: a folder, or a bucket's s3://, gs:// or az://.

    Stopped at any point, the same command goes on after the last finished part.
    """
    if sample and (model or images or weights):
        raise click.UsageError("--sample brings its own model and images.")
    if sample:
        model, images = MODEL_NAME, str(IMAGES)
    if not (model and images):
        raise click.UsageError("Give --model and --images, or --sample.")
    if repair and (join or ray is not None):
        raise click.UsageError("Give --repair without --join and --ray.")
    from .plan import Request

    request = Request(
        out,
        model,
        images,
        weights=weights,
        head=head,
        class_names=class_names,
        labels=labels,
        maps=maps,
        layers=layers,
        device=device,
        precision=precision,
        img_size=img_size,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        inputs=not no_inputs,
        overwrite=overwrite,
    )
    try:
        if repair:
            _repair(request)
        else:
            bar = Bar()
            if make_index(request, bar, join, not no_finish, ray, ray_workers):
                _tell_next(out, bar.ranking)
    except KeyboardInterrupt:
        raise click.Abort("The same command goes on where it was.") from None


def _tell_next(out: Path | str, ranking: str | None) -> None:
    _tell("")
    _tell(f"{out} is ready. Next:")
    _tell("")
    for line in next_commands(out, ranking):
        _tell(f"  {line}")


def _repair(request: Request) -> None:
    from .repair import repair

    for path in repair(request, Bar()):
        _tell(f"made again: {path}")
    _tell(f"{request.out} is whole.")


def next_commands(out: Path | str, ranking: str | None) -> list[str]:
    """What to try first; a model without a head has no key neurons, but selective ones."""
    if ranking is None:
        return [
            f"vitdex info {out}",
            f'vitdex sql {out} "FROM class_activations JOIN classes USING (class_id) ORDER BY auroc DESC LIMIT 10"',
        ]
    return [
        f"vitdex info {out}",
        f'vitdex sql {out} "FROM key_neurons ORDER BY {ranking} DESC LIMIT 10"',
        f'vitdex sql {out} "SELECT block, count(*) FROM key_neurons WHERE rank_in_class = 1 GROUP BY block"',
    ]


class LayersBar:
    """A bar of the layers whose tables are made; silent where the output is not a terminal."""

    ranking: str | None = None

    def settled(self, plan: HeadPlan) -> None:
        spec = plan.spec
        self.ranking = _best_ranking(spec)
        _tell(f"{spec.head}: {spec.classes:,} rows over {spec.features:,} features of {spec.model}")
        _tell(f"{plan.labelled}; class names: {spec.class_names}")
        for note in plan.notes:
            _tell(f"Note: {note}")
        for warning in plan.warnings:
            _tell(f"Warning: {warning}", err=True)
        self._bar = _new_bar(len(spec.layers), "layer", name="tables")

    def layers(self, done: int, total: int) -> None:
        self._bar.update(done - self._bar.n)

    def finished(self, shared: str, notes: list[str], accuracy: Accuracy | None) -> None:
        self._bar.close()
        self.ranking = _with_classes(self.ranking, accuracy)
        _tell(shared)
        _tell_end(notes, accuracy)


@click.command("head")
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.argument("head", metavar="HEAD", type=FILE)
@click.argument("out", type=FILE)
@CLASS_NAMES
@LABELS
@OVERWRITE
def head_command(
    index_path: Path, head: Path, out: Path, class_names: str | None, labels: Path | None, overwrite: bool
) -> None:
    """Make an index at OUT with another head: a safetensors file with weight [class, d], maybe bias [class].

    Class scores, contributions, logits, accuracy and the tables of classes are made anew from what INDEX keeps, without
    the model and without images; all other arrays are shared with INDEX by hard links.
    """
    from .other_head import HeadRequest, put_head

    request, bar = HeadRequest(index_path, head, out, class_names, labels, overwrite), LayersBar()
    try:
        put_head(request, bar)
    except KeyboardInterrupt:
        raise click.Abort("Repeat the command.") from None
    _tell_next(out, bar.ranking)
