"""An index from Python: `build_index` makes one, `repair_index` mends it, `index_with_head` gives it another head.

No torch is loaded until one is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Unpack

from ..data.packaged import IMAGES, MODEL_NAME
from ..schemas.addressed import is_address
from ..schemas.errors import BadRequest
from ..schemas.progress import Progress, silent
from ..schemas.run_spec import Linear, Maps, Precision
from .make_index import make_index

if TYPE_CHECKING:
    from .other_head import HeadPlan
    from .plan import Announced, Plan, Request, Settings
    from .tables.class_order import Accuracy


Out = TypeVar("Out", bound=str | Path)


def build_index(
    out: Out,
    *,
    model: str | None = None,
    images: str | Path | None = None,
    sample: bool = False,
    weights: str | Path | None = None,
    head: str | Path | None = None,
    class_names: str | Path | None = None,
    labels: str | Path | None = None,
    maps: Maps = "uint8",
    layers: tuple[Linear, ...] = ("fc1",),
    device: str | None = None,
    precision: Precision = "float32",
    img_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    limit: int | None = None,
    inputs: bool = True,
    join: bool = False,
    finish: bool = True,
    ray: str | None = None,
    ray_workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Out:
    """Read images once with a ViT and leave an index, as the command `vitdex index` does.

    Stopped at any point, the same call goes on after the last finished part.

    Args:
        out: the index's folder, which is made, or an address in a bucket: s3://, gs://, az://.
        model: timm's name, or 'local-dir:FOLDER' in timm's hub format.
        images: a folder, a folder of class folders, a tar of either, 'NAME-{00..99}.tar', any of them at an address
            ('s3://BUCKET/FOLDER'), or 'hf:NAME:SPLIT'.
        sample: the packaged model and images instead: no network, no data set.
        weights: a safetensors file instead of timm's hub.
        head: class embeddings instead of the model's head: safetensors with weight [class, d], maybe bias [class].
        class_names: a text file, one name a line, in the head's order; or one of timm's lists, such as 'imagenet-1k'.
        labels: a file with the images' classes, in place of their folders: a table of file and class (CSV, TSV or
            'FILE CLASS'), or one class a line in the order of the files' names.
        maps: what is kept of every neuron on every patch: 'uint8' codes, 'float16' values, only the maps of each
            neuron's top 'exemplars', or 'none'.
        layers: some of 'fc1' (the key neurons), 'attn' (what attention hands to attn.proj, as units) and 'fc2' (the
            coordinates of the stream that the MLPs write).
        device: 'cpu', 'cuda', 'cuda:1', 'mps'; None: the best there is.
        precision: of the forward pass: 'float32', 'bfloat16' or 'float16'.
        img_size: height and width of the input in pixels, where they are not the model's own.
        batch_size: images at once.
        workers: processes that decode; None: half the cores, at most eight, beside a GPU three quarters, at most 32;
            0: this process, for scripts that may not start others.
        limit: only the first so many images.
        inputs: whether the index also keeps the pixels that the model saw.
        join: help other workers that fill `out` by the same call, on any machine, until it is finished.
        finish: with join: False ends when no part is free, and leaves the tables to others.
        ray: let workers of the Ray cluster at this address ('auto', 'local', 'ray://HEAD:10001') make the index.
        ray_workers: how many; None: one a GPU, or one a node where there are none.
        overwrite: replace a finished index, or an unfinished one of another run.
        progress: told (images done, all images) after every batch.

    Returns:
        `out`, to be opened with vitdex.query.Index.

    Raises:
        BadRequest: a setting that there is not, or neither model and images nor sample.
        SourceError: the images cannot be listed, or none of them can be read.
        ModelError: model, weights, head or names cannot be used, or there is no such device.
        BadIndex: something else stands at `out`, or the disk is too small.

    Example:
        >>> build_index("sample.vitdex", sample=True)
        'sample.vitdex'
        >>> build_index("imagenet.vitdex", model="vit_base_patch16_224", images="imagenet/val", maps="exemplars")
        'imagenet.vitdex'
    """
    request = _request(
        out,
        model,
        images,
        sample,
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
        inputs=inputs,
        overwrite=overwrite,
    )
    make_index(request, _ImagesOnly(progress), join, finish, ray, ray_workers)
    return out


def repair_index(
    out: str | Path,
    *,
    model: str | None = None,
    images: str | Path | None = None,
    sample: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[Settings],
) -> list[str]:
    """Make the damaged and missing files of a finished index again, and no others.

    Args:
        out: the index's folder.
        model, images, sample, settings: those that the index was made with; see build_index.
        progress: told (images done, images to read) after every batch; of most repairs no image is read.

    Returns:
        Paths inside the index of the files that were made again.

    Raises:
        BadIndex: no index, one of other settings (which are named), or a part comes out otherwise than it was.
        BadRequest, SourceError, ModelError: as build_index.

    Example:
        >>> repair_index("sample.vitdex", sample=True)
        []
    """
    request = _request(out, model, images, sample, **settings)
    from .repair import repair

    return repair(request, _ImagesOnly(progress))


def index_with_head(
    index: str | Path,
    head: str | Path,
    out: str | Path,
    *,
    class_names: str | Path | None = None,
    labels: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make an index with another head from a finished one, as the command `vitdex head` does: no model, no images.

    Class scores, contributions, logits, predictions, accuracy and the tables of classes are made anew; all other
    arrays are shared with the index by hard links, or copied where none can be made. Logits come from features that
    the index keeps in float16; how far that may move them is warned of, and stands in the manifest's notes.

    Args:
        index: a finished index.
        head: class embeddings, as for build_index: safetensors with weight [class, d], maybe bias [class].
        out: the new index's folder, which is made.
        class_names, labels: as for build_index; without labels images keep theirs.
        overwrite: replace a finished index, or an unfinished one of another run.
        progress: told (layers done, all layers) of the tables.

    Returns:
        The new index's folder, to be opened with vitdex.query.Index.

    Raises:
        BadIndex: no finished index, one without value vectors or an older one that lacks what a head needs, `out` is
            the index itself, something else stands there, or the disk is too small.
        ModelError: head or names cannot be used, such as a head of another width.
        SourceError: labels cannot be used.

    Example:
        >>> index_with_head("imagenet.vitdex", "probe.safetensors", "probe.vitdex")
        PosixPath('probe.vitdex')
    """
    from .other_head import HeadRequest, put_head

    request = HeadRequest(Path(index), Path(head), Path(out), class_names, labels, overwrite)
    return put_head(request, _LayersOnly(progress))


def _request(
    out: str | Path, model: str | None, images: str | Path | None, sample: bool, **settings: Unpack[Settings]
) -> Request:
    if sample and (model or images or settings.get("weights")):
        raise BadRequest("sample=True brings its own model and images", "Leave out model, images and weights.")
    if sample:
        model, images = MODEL_NAME, IMAGES
    if not (model and images):
        raise BadRequest("an index needs a model and images", "Give model and images, or sample=True.")
    from .plan import Request

    place = out if isinstance(out, str) and is_address(out) else Path(out)
    return Request(place, model, str(images), **settings)


class _ImagesOnly:
    """Of all that a run tells (build.Listener), the images that are done."""

    def __init__(self, progress: Progress | None) -> None:
        self._tell = progress or silent
        self._done = self._total = 0

    def planned(self, run: Announced, done: int) -> None:
        for warning in run.warnings:
            warnings.warn(warning, stacklevel=5)
        self._done, self._total = done, run.spec.images

    def advance(self, images: int, written: int) -> None:
        self._done += images
        self._tell(self._done, self._total)

    def finishing(self) -> None: ...

    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None:
        for note in notes:
            warnings.warn(note, stacklevel=5)
        if accuracy is not None and accuracy.warning:
            warnings.warn(accuracy.warning, stacklevel=5)

    def told(self, line: str) -> None: ...

    def checking(self, total: int) -> Callable[[int], object]:
        return lambda count: None

    def repairing(self, plan: Plan, damaged: list[str], images: int) -> None:
        self._total = images


class _LayersOnly:
    """Of all that the making of an index with another head tells (other_head.HeadListener), the layers' progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._tell = progress or silent

    def settled(self, plan: HeadPlan) -> None:
        for warning in plan.warnings:
            warnings.warn(warning, stacklevel=4)

    def layers(self, done: int, total: int) -> None:
        self._tell(done, total)

    def finished(self, shared: str, notes: list[str], accuracy: Accuracy | None) -> None:
        for note in notes:
            warnings.warn(note, stacklevel=4)
        if accuracy is not None and accuracy.warning:
            warnings.warn(accuracy.warning, stacklevel=4)
