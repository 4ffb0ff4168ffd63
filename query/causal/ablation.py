"""What the answer loses without some neurons: exact ablation, beside as many random neurons of the same layers.

    ablate(index, "coin", k=10, by="score")                       # without a class's first ten
    ablate(index, "coin", ["blocks.5.mlp.fc1:16"], replace="times:2")

Definitions: docs/concepts/effects.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ..drawing.terms import definitions
from ..lookups.class_images import drawn_images
from ..lookups.key_neurons import Ranking, chosen_ranking, key_neurons, named, needs_head
from ..stored.names import Neuron, NeuronLike, at_least
from ..stored.stored_index import StoredIndex

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.live_model import LiveModel
    from ..model.replacement import Substitute

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Where = Literal["everywhere", "subject", "background"]
WHERES: tuple[Where, ...] = get_args(Where)
MEASURES = ("logit", "margin", "probability", "accuracy")
OTHER = "accuracy of others"
NAMED = 3  # neurons in a caption
DRAWS = 5  # of other images' values, averaged


class ObjectMasks(Protocol):
    """What `open_masks` gives: the images that have a mask, and the object's share of their patches."""

    @property
    def images(self) -> pd.DataFrame:
        """A row an image, with its image_id."""

    def covers(self, image_ids: Sequence[int]) -> Doubles:
        """Of images that have a mask: [image, patch]."""


def ablate(
    index: StoredIndex,
    class_: str | int,
    neurons: Sequence[NeuronLike] | None = None,
    k: int = 10,
    by: Ranking | None = None,
    replace: str = "mean",
    where: Where = "everywhere",
    masks: ObjectMasks | None = None,
    images: int = 50,
    random: int = 19,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What the answer loses when neurons are replaced, by exact forward passes.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        neurons: which; None for the class's first `k` by `by`.
        replace: what stands in place of the activation after the nonlinearity: 'mean' (over all images, of the patches
            for patches, of each prefix token for itself), 'zero', 'resample' (another image's values, mean of 5 draws),
            or 'times:F' (F times what it is).
        where: on all tokens, or only on the patches that show the object, or those that do not, by the mask's cover.
        masks: of the objects, for the last two; only images that have one are taken.
        images: of the class, and as many of other classes, drawn where there are more.
        random: how many sets of random neurons to compare with, each of as many neurons of the same layers.
        seed: draws them.
        weights, device: see open_model.
        progress: told images done, and all images.

    Returns:
        One row a measure: logit (of the class, minus the mean of all classes' logits), margin (its logit minus the
        largest of another class), probability, accuracy (share of the class's images that the model answers rightly),
        and accuracy of others (the same of the images of other classes). Columns measure, n (images), before, after,
        change (after - before), se (its standard error over the images), random (mean change of the random sets),
        random_low and random_high (the smallest and largest of them), passes: the change is larger in size than that of
        every random set.

    Raises:
        QueryError: no head, inputs, or images of the class; unknown neurons, replacement or place; no masks for it.
        ModelError: other weights than those of the index.

    Example:
        >>> ablate(index, "coin", k=10).set_index("measure").change
    """
    at_least(1, k=k, images=images)
    at_least(0, random=random)
    needs_head(index)
    class_id = index.class_id(class_)
    chosen = _chosen(index, class_id, neurons, k, by)
    if where not in WHERES:
        raise QueryError(f"no place '{where}'", f"One of {', '.join(WHERES)}.")
    if where != "everywhere" and masks is None:
        raise QueryError(f"where the {where} is, masks say", "Give --masks DIR.")
    from ..model.live_model import open_model
    from ..model.replacement import Substitute, parsed

    kind, factor = parsed(replace)
    own, others = drawn_images(index, class_id, images, seed, None if where == "everywhere" else _with_mask(masks))
    live = open_model(index, weights, device)
    runs = _Runs(
        live, Substitute(live, kind, factor, seed), class_id, own, others, where, masks, progress or silent, random
    )
    before, after = runs(()), runs(chosen)
    sets = _random_sets(index, chosen, random, seed)
    changes = np.array([_means(runs(some)) - _means(before) for some in sets]).reshape(-1, len(MEASURES) + 1)
    return _table(before, after, changes)


def _chosen(
    index: StoredIndex, class_id: int, neurons: Sequence[NeuronLike] | None, k: int, by: Ranking | None
) -> list[Neuron]:
    """The neurons that are asked for. Raises QueryError for those that write nothing of their own."""
    if neurons is None:
        return named(key_neurons(index, class_id, k, by))
    chosen = list(dict.fromkeys(Neuron.of(neuron) for neuron in neurons))
    if not chosen:
        raise QueryError("no neurons to replace", "Give --neuron LAYER:UNIT, or -k.")
    for neuron in chosen:
        if not index.neuron_layer(*neuron).has_value_vectors:
            raise QueryError(f"{neuron} is a coordinate of the stream", "Replace neurons: --neuron blocks.4.mlp.fc1:7.")
    return chosen


def _with_mask(masks: ObjectMasks | None) -> Ints:
    return np.empty(0, np.int64) if masks is None else masks.images.image_id.to_numpy(np.int64)


def _random_sets(index: StoredIndex, neurons: Sequence[Neuron], sets: int, seed: int) -> list[list[Neuron]]:
    """As many other neurons of the same layers, drawn `sets` times. Raises QueryError where a layer has too few."""
    drawn: list[list[Neuron]] = []
    for number in range(sets):
        draw, some = np.random.default_rng((seed, number)), list[Neuron]()
        for layer in dict.fromkeys(neuron.layer for neuron in neurons):
            asked = [neuron.unit for neuron in neurons if neuron.layer == layer]
            rest = np.setdiff1d(np.arange(index.neuron_layer(layer, asked[0]).units), asked)
            if len(rest) < len(asked):
                raise QueryError(f"{layer} has no {len(asked):,} other neurons to compare with", "Give --random 0.")
            some += [Neuron(layer, int(unit)) for unit in draw.choice(rest, len(asked), replace=False)]
        drawn.append(some)
    return drawn


class _Runs:
    """The images of a class, and others, through the model with some neurons replaced: measures [image] by name."""

    def __init__(
        self,
        live: LiveModel,
        substitute: Substitute,
        class_id: int,
        own: Ints,
        others: Ints,
        where: Where,
        masks: ObjectMasks | None,
        progress: Progress,
        random: int,
    ) -> None:
        self.live, self.substitute, self.class_id = live, substitute, class_id
        self.own, self.others, self.where, self.masks = own, others, where, masks
        self.labels = _labels(live.index, others)
        self.draws = DRAWS if substitute.is_drawn else 1
        self.progress, self.done = progress, 0
        self.steps = (len(own) + len(others)) * (1 + (1 + random) * self.draws)

    def __call__(self, neurons: Sequence[Neuron]) -> dict[str, Doubles]:
        draws = self.draws if neurons else 1
        found = [self._measures(neurons, draw) for draw in range(draws)]
        return {name: np.mean([one[name] for one in found], 0) for name in found[0]}

    def _measures(self, neurons: Sequence[Neuron], draw: int) -> dict[str, Doubles]:
        own = self._logits(neurons, self.own, draw)
        measures = measured(own, self.class_id)
        answers = self._logits(neurons, self.others, draw).argmax(1)
        return measures | {OTHER: (answers == self.labels).astype(np.float64)}

    def _logits(self, neurons: Sequence[Neuron], images: Ints, draw: int) -> Doubles:
        """Logits [image, class] of images with some neurons replaced."""
        import torch

        from ..model.live_model import BATCH
        from ..model.replacement import replaced

        rows = [np.empty((0, self.live.spec.classes))]
        for start in range(0, len(images), BATCH):
            ids = images[start : start + BATCH].tolist()
            with torch.inference_mode(), replaced(self.live, neurons, self.substitute, ids, self._weight(ids), draw):
                answer = self.live(self.live.pixels(ids), [])[0]
            rows.append(answer.double().cpu().numpy())
            self.done += len(ids)
            self.progress(self.done, self.steps)
        return np.concatenate(rows)

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


def measured(logits: Doubles, class_id: int) -> dict[str, Doubles]:
    """MEASURES of a class for every image, of logits [image, class]."""
    others = np.delete(logits, class_id, 1)
    largest = others.max(1) if others.shape[1] else np.full(len(logits), np.nan)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return {
        "logit": logits[:, class_id] - logits.mean(1),
        "margin": logits[:, class_id] - largest,
        "probability": shifted[:, class_id] / shifted.sum(1),
        "accuracy": (logits.argmax(1) == class_id).astype(np.float64),
    }


def _labels(index: StoredIndex, images: Ints) -> Ints:
    found = index.sql("SELECT image_id, class_id FROM images WHERE class_id IS NOT NULL").set_index("image_id").class_id
    return found.reindex(images).to_numpy(np.int64)


def _means(measures: dict[str, Doubles]) -> Doubles:
    return np.array([values.mean() if len(values) else np.nan for values in measures.values()])


def _table(before: dict[str, Doubles], after: dict[str, Doubles], random: Doubles) -> pd.DataFrame:
    rows = []
    for place, name in enumerate(before):
        change, of_random = after[name] - before[name], random[:, place]
        n = len(change)
        mean = _mean(change)
        row: dict[str, object] = {"measure": name, "n": n}
        row |= {"before": _mean(before[name]), "after": _mean(after[name]), "change": mean}
        row["se"] = float(change.std(ddof=1) / n**0.5) if n > 1 else np.nan
        ends = (of_random.min(), of_random.max()) if len(of_random) else (np.nan, np.nan)
        row |= {"random": _mean(of_random), "random_low": ends[0], "random_high": ends[1]}
        row["passes"] = bool(len(of_random)) and abs(mean) > np.abs(of_random).max()
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(values: Doubles) -> float:
    return float(values.mean()) if len(values) else float("nan")


def chosen_neurons(
    index: StoredIndex, class_id: int, neurons: Sequence[NeuronLike] | None, k: int, by: Ranking | None
) -> str:
    """Which neurons `ablate` replaces, in words."""
    if neurons is None:
        return f"its first {k:,} neurons by {chosen_ranking(index, by, class_id)}"
    names = [str(Neuron.of(neuron)) for neuron in neurons]
    return ", ".join(names) if len(names) <= NAMED else f"{len(names):,} neurons"


def ablation_caption(class_name: str, what: str, replace: str, where: Where, table: pd.DataFrame, random: int) -> str:
    """What the table and its figure show."""
    own, others = int(table.n.iloc[0]), int(table.n.iloc[-1])
    place = "" if where == "everywhere" else f", on the {where} alone"
    beside = f"Beside {random:,} sets of as many random neurons of the same layers." if random else ""
    lines = (
        f"What the answer on {class_name} loses without {what} (replaced by {replace}{place}): "
        f"n = {own:,} of its images, {others:,} of other classes.",
        beside,
        definitions(("ablation", "replacement", "logit of a class", "random neurons")),
    )
    return "\n".join(filter(None, lines))
