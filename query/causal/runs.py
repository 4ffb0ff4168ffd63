"""Images through the model without some neurons: what is measured of the answers, image by image.

runs = Runs(live, Substitute(live, "mean"))
before, after = runs(class_id, own, others, [(), neurons], Steps(2 * images, progress))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...schemas.progress import Progress
from ..stored.names import Neuron
from ..stored.stored_index import StoredIndex
from .object_masks import ObjectMasks

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.live_model import LiveModel
    from ..model.replacement import Substitute
    from ..model.rerun import Rerun

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Where = Literal["everywhere", "subject", "background"]
WHERES: tuple[Where, ...] = get_args(Where)
MEASURES = ("logit", "margin", "probability", "accuracy")  # of the class, on its images
OTHERS = ("others_logit", "others_accuracy")  # on images of other classes, of the class that each of them has
DRAWS = 5  # of other images' values, averaged


@dataclass
class Steps:
    """Images done of all that will run, told after every batch."""

    total: int
    progress: Progress
    done: int = 0

    def add(self, images: int) -> None:
        self.done += images
        self.progress(self.done, self.total)


@dataclass(frozen=True)
class Runs:
    """A model whose neurons are replaced: on every token, or where masks show the subject, or the background."""

    live: LiveModel
    substitute: Substitute
    where: Where = "everywhere"
    masks: ObjectMasks | None = None

    @property
    def draws(self) -> int:
        """How often every image runs without a set of neurons."""
        return DRAWS if self.substitute.is_drawn else 1

    def cost(self, images: int, sets: Sequence[Sequence[Neuron]]) -> int:
        """How many images will run."""
        return images * sum(self.draws if neurons else 1 for neurons in sets)

    def __call__(
        self, class_id: int, own: Ints, others: Ints, sets: Sequence[Sequence[Neuron]], steps: Steps
    ) -> list[dict[str, Doubles]]:
        """MEASURES and OTHERS by name [image], without each of these sets of neurons; an empty one: as it is."""
        from ..model.live_model import BATCH

        images = np.concatenate([own, others])
        labels = np.concatenate([np.full(len(own), class_id), _labels(self.live.index, others)])
        values = np.empty((len(sets), len(MEASURES), len(images)))
        for start in range(0, len(images), BATCH):
            here = slice(start, start + BATCH)
            values[..., here] = self._batch(images[here].tolist(), labels[here], sets, steps)
        return [_by_name(of_set, len(own)) for of_set in values]

    def _batch(self, ids: list[int], labels: Ints, sets: Sequence[Sequence[Neuron]], steps: Steps) -> Doubles:
        """MEASURES of images' own classes: [set, measure, image]. What several sets leave as it is runs once."""
        from ..model.rerun import Rerun

        first = [min((self.live.layer(layer).block for layer, _ in neurons), default=-1) for neurons in sets]
        again, weight = Rerun(self.live, self.live.pixels(ids), {*first} - {-1}), self._weight(ids)
        found = []
        for neurons, block in zip(sets, first, strict=True):
            draws = range(self.draws if neurons else 1)
            logits = [self._logits(again, neurons, block, ids, weight, draw) for draw in draws]
            found.append(np.mean([list(measured(one, labels).values()) for one in logits], 0))
            steps.add(len(ids) * len(draws))
        return np.array(found)

    def _logits(
        self, again: Rerun, neurons: Sequence[Neuron], block: int, ids: list[int], weight: Tensor | None, draw: int
    ) -> Doubles:
        """Logits [image, class] without neurons, of which the first are of this block."""
        from ..model.replacement import replaced

        if not neurons:
            answer = again.before
        else:
            with replaced(self.live, neurons, self.substitute, ids, weight, draw):
                answer = again.logits(block)
        logits: Doubles = answer.double().cpu().numpy()
        return logits

    def _weight(self, ids: list[int]) -> Tensor | None:
        """How much of a replacement every token gets: [image, token]; None for all of it everywhere."""
        if self.where == "everywhere":
            return None
        import torch

        assert self.masks is not None
        cover = torch.as_tensor(self.masks.covers(ids), dtype=torch.float32, device=self.live.device)
        weight = torch.zeros(len(ids), self.live.spec.tokens, device=self.live.device)
        weight[:, self.live.spec.prefix :] = cover if self.where == "subject" else 1 - cover
        return weight


def measured(logits: Doubles, classes: int | Ints) -> dict[str, Doubles]:
    """MEASURES of one class, or of each image's own, by name [image], of logits [image, class]."""
    rows, labels = np.arange(len(logits)), np.broadcast_to(classes, len(logits))
    asked, rest = logits[rows, labels], logits.copy()
    rest[rows, labels] = np.nan if logits.shape[1] == 1 else -np.inf  # of a single class nothing is the largest other
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return {
        "logit": asked - logits.mean(1),
        "margin": asked - rest.max(1),
        "probability": shifted[rows, labels] / shifted.sum(1),
        "accuracy": (logits.argmax(1) == labels).astype(np.float64),
    }


def _by_name(values: Doubles, own: int) -> dict[str, Doubles]:
    """Of [measure, image], the first `own` of the class: MEASURES and OTHERS."""
    found = dict(zip(MEASURES, values, strict=True))
    others = {f"others_{name}": found[name][own:] for name in ("logit", "accuracy")}
    return {name: of[:own] for name, of in found.items()} | others


def counted(neurons: Sequence[Neuron]) -> dict[str, int]:
    """How many neurons of each layer."""
    return dict(Counter(neuron.layer for neuron in sorted(neurons)))


def random_sets(index: StoredIndex, layers: Mapping[str, int], sets: int, seed: tuple[int, ...]) -> list[list[Neuron]]:
    """As many neurons of each layer, drawn `sets` times of all that it has.

    Were some neurons no more than such a set themselves, theirs would be the largest of all changes once in sets + 1.
    """
    drawn = []
    for number in range(sets):
        draw = np.random.default_rng((*seed, number))
        units = {name: draw.choice(index.neuron_layer(name, 0).units, count, False) for name, count in layers.items()}
        drawn.append([Neuron(name, int(unit)) for name, some in units.items() for unit in some])
    return drawn


def _labels(index: StoredIndex, images: Ints) -> Ints:
    found = index.sql("SELECT image_id, class_id FROM images WHERE class_id IS NOT NULL").set_index("image_id").class_id
    return found.reindex(images).to_numpy(np.int64)
