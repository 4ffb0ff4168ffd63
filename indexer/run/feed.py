"""Decode images in worker processes, batch by batch; no batch crosses a part, so a resumed run sees the same ones."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...data.images.decode import decode
from ...data.images.elsewhere import SourceElsewhere
from ...data.images.entries import Source
from ...data.images.preprocess import Preprocess
from ...schemas.errors import UnreadableImage
from ...schemas.facts import ImageFacts
from ...schemas.run_spec import Part, Preprocessing
from .read_ahead import Sent, pieces, read_ahead

Pixels = NDArray[np.uint8]
Item = tuple[int, Pixels | None, ImageFacts]  # an image's number, what the model sees of it, what was learnt of it


@dataclass(frozen=True)
class Batch:
    """Consecutive images from `first` on: facts of all, ids and pixels uint8 [image, y, x, channel] of the readable."""

    first: int
    ids: list[int]
    pixels: Tensor
    facts: list[ImageFacts]

    def pin_memory(self) -> Batch:
        """What torch's loader asks for where there is CUDA: the same in memory that the device reaches by itself."""
        return replace(self, pixels=self.pixels.pin_memory())


class Images(Dataset[Item]):
    """Every image of a source by its number, which may come with the image's bytes."""

    def __init__(self, source: Source, config: Preprocessing) -> None:
        self.source, self.config = source, config
        self.preprocess: Preprocess | None = None

    def __getitem__(self, asked: int | Sent) -> Item:
        if self.preprocess is None:  # made where it is used: transforms need not travel to the workers
            self.preprocess = Preprocess(self.config)
        i, found = asked if isinstance(asked, Sent) else (asked, None)
        entry = self.source.entries[i]
        if isinstance(found, str):
            return i, None, ImageFacts(entry.path, entry.label, reason=found)
        try:
            image = decode(self.source.read(i) if found is None else found)
            pixels, crop = self.preprocess(image)
        except UnreadableImage as error:
            return i, None, ImageFacts(entry.path, entry.label, reason=str(error))
        return i, pixels, ImageFacts(entry.path, entry.label, image.width, image.height, crop)


def _collate(items: Sequence[Item]) -> Batch:
    good = [(i, pixels) for i, pixels, _ in items if pixels is not None]
    stacked = np.stack([p for _, p in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    return Batch(items[0][0], [i for i, _ in good], torch.from_numpy(stacked), [facts for _, _, facts in items])


def _joined(parts: Iterator[Batch], lengths: deque[int]) -> Iterator[Batch]:
    """Batches of the given lengths from their pieces."""
    for batch in parts:
        length = lengths.popleft()
        while len(batch.facts) < length:
            batch = _one_of(batch, next(parts))
        yield batch


def _one_of(batch: Batch, after: Batch) -> Batch:
    readable = [some.pixels for some in (batch, after) if some.ids] or [batch.pixels]
    return Batch(batch.first, batch.ids + after.ids, torch.cat(readable), batch.facts + after.facts)


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair
    torch.set_num_threads(1)


def feed(
    source: Source, config: Preprocessing, parts: Iterable[Part], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Batches of the given parts, in order, each of which is asked for when its first images are to be decoded.

    The processes that decode start here and not with the first batch: what this process writes anew after that, they
    keep as it was, hundreds of MB where a model has run before.
    """
    batches = (
        list(range(start, min(start + batch_size, part.stop)))
        for part in parts
        for start in range(part.start, part.stop, batch_size)
    )
    if isinstance(source, SourceElsewhere):
        lengths: deque[int] = deque()
        return _joined(_load(source, config, _sent(source, batches, batch_size, lengths), workers), lengths)
    return _load(source, config, batches, workers)


def _sent(
    source: SourceElsewhere, batches: Iterable[list[int]], batch_size: int, lengths: deque[int]
) -> Iterator[list[Sent]]:
    """Pieces of batches, whose lengths are noted, with the bytes of their images."""

    def noted() -> Iterator[list[int]]:
        for batch in batches:
            lengths.append(len(batch))
            yield from pieces(source, batch)

    return read_ahead(source, noted(), batch_size)


def _load(
    source: Source, config: Preprocessing, batches: Iterable[Sequence[int | Sent]], workers: int
) -> Iterator[Batch]:
    loader: DataLoader[Item] = DataLoader(
        Images(source, config),
        batch_sampler=batches,  # type: ignore[arg-type]  # numbers alone, torch says
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
