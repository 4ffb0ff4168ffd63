"""Whether views show what an answer stands on: insertion and deletion curves, beside random orders.

    found = insertion_deletion(index, "coin", k=3)
    found.areas     # a row a measure and view
    found.curves    # a row a measure, view and step

Definitions: docs/concepts/views.md#insertion-and-deletion (after RISE, Petsiuk et al. 2018, arXiv 1806.07421).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.numbers_shown import first_of, number_of
from ...schemas.progress import Progress, silent
from ..drawing.terms import definitions
from ..lookups.averages import standard_error
from ..lookups.class_images import drawn_images, labelled_images
from ..lookups.key_neurons import Ranking, chosen_ranking, key_neurons, named, needs_head
from ..model.map_source import MapSource
from ..stored.maps import needs_inputs
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex
from .views import VIEWS, View, compute

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Ordering = View | Literal["centre"]  # what puts the patches of an image in order
ORDERINGS: tuple[Ordering, ...] = (*VIEWS, "centre")
Baseline = Literal["blur", "grey"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
Measure = Literal["insertion", "deletion"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class InsertionDeletion:
    """What `insertion_deletion` found: `areas`, a row a measure and view; `curves`, a row a measure, view and step."""

    areas: pd.DataFrame
    curves: pd.DataFrame


def insertion_deletion(
    index: StoredIndex,
    class_: str | int | None = None,
    k: int = 3,
    by: Ranking | None = None,
    layer: str | None = None,
    views: Sequence[Ordering] | None = None,
    images: int = 20,
    steps: int = 16,
    baseline: Baseline = "blur",
    random: int = 19,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> InsertionDeletion:
    """A class's probability as patches are put into, or taken out of, its images in the order of every view.

    Args:
        class_: by name or WordNet id, an int is its row in the head; None for every class that has images.
        k: how many key neurons; what orders the patches is the sum of the view over them.
        by: what ranks them, as for key_neurons.
        layer: only neurons of this layer.
        views: of VIEWS, and 'centre' (the patches next to the middle first, whatever the image); None for all that are
            defined for the neurons.
        images: of each class, drawn where there are more.
        steps: points of a curve after the first, at most one a patch.
        baseline: what stands where no patch is shown: 'blur' (the image under a Gaussian as wide as a patch) or 'grey'
            (the pixel that the model's normalisation makes zero).
        random: how many random orders of each image to compare with.
        seed: draws images and orders.
        weights, device: as for open_model.
        progress: told passes of the model done, and all of them.

    Returns:
        areas: measure ('insertion': larger is better; 'deletion': smaller is better), view, n (images), area (under the
        class's probability against the share of patches, mean over the images), se (its standard error), random (mean
        over the random orders), random_low and random_high (the smallest and largest of their mean areas), passes: the
        area is better than that of every random order; flat: share of the images on which the view is the same on all
        patches, so that its order is random.
        curves: measure, view, step, share (of the patches put in or taken out), probability, se, random, random_low,
        random_high, n.

    Raises:
        QueryError: no head, inputs, or images of the class; an unknown view, ranking or baseline, or a view that is not
            defined for one of the neurons.
        ModelError: other weights than those of the index.

    Example:
        >>> insertion_deletion(index, "coin", k=3).areas.query("measure == 'insertion'").set_index("view").area
    """
    at_least(1, k=k, images=images)
    at_least(2, steps=steps)
    at_least(0, random=random)
    if baseline not in BASELINES:
        raise QueryError(f"no baseline '{baseline}'", f"One of {', '.join(BASELINES)}.")
    needs_head(index)
    needs_inputs(index.spec)
    neurons = {c: named(key_neurons(index, c, k, by, layer)) for c in _classes(index, class_)}
    chosen = _orderings(index, views, [neuron for some in neurons.values() for neuron in some])
    drawn = [(int(i), c) for c in neurons for i in drawn_images(index, c, images, seed)[0]]
    counts = _counts(index.spec.patches, steps)
    run = _Run(MapSource(index, weights, device), chosen, counts, baseline, random, seed)
    passes = len(drawn) * run.passes
    rows = [run(image, c, neurons[c], _adding(progress or silent, place * run.passes, passes))
            for place, (image, c) in enumerate(drawn)]  # fmt: skip
    curves, flat = np.array([curve for curve, _ in rows]), np.array([is_flat for _, is_flat in rows])
    shares = counts / index.spec.patches
    return InsertionDeletion(_areas(chosen, curves, shares, flat), _curves(chosen, curves, shares))


def _classes(index: StoredIndex, class_: str | int | None) -> list[int]:
    if class_ is not None:
        return [index.class_id(class_)]
    return [int(c) for c in np.unique(labelled_images(index).class_id)]


def _orderings(index: StoredIndex, views: Sequence[Ordering] | None, neurons: list[Neuron]) -> tuple[Ordering, ...]:
    """The views that are asked for; of all of them, those that are defined."""
    if views is None:
        hidden = all(index.neuron_layer(*neuron).kind == "hidden" for neuron in neurons)
        return tuple(view for view in ORDERINGS if view != "post" or hidden)
    for view in views:
        if view not in ORDERINGS:
            raise QueryError(f"no view '{view}'", f"One of {', '.join(ORDERINGS)}.")
    if not views:
        raise QueryError("no view to judge", f"One of {', '.join(ORDERINGS)}.")
    return tuple(dict.fromkeys(views))


def _counts(patches: int, steps: int) -> Ints:
    """How many patches are shown at every step, none and all among them."""
    counts: Ints = np.round(np.linspace(0, patches, min(steps, patches) + 1)).astype(np.int64)
    return counts


def _adding(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    """Tells `progress` of so many more, after `done`."""

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return tell


@dataclass(frozen=True)
class _Run:
    """One image after another, its patches shown in the order of every view, in the reverse, and in random orders.

    To delete patches in some order is to insert them in the reverse order, read from its end: one kind of pass serves
    both, and one set of random orders, whose reverses are random orders as well.
    """

    read: MapSource
    views: tuple[Ordering, ...]
    counts: Ints
    baseline: Baseline
    random: int
    seed: int

    @property
    def orders(self) -> int:
        return 2 * len(self.views) + self.random

    @property
    def passes(self) -> int:
        """Of the model for an image: none and all of its patches are the same in every order."""
        return 2 + self.orders * (len(self.counts) - 2)

    def __call__(
        self, image_id: int, class_id: int, neurons: list[Neuron], tell: Callable[[int], None]
    ) -> tuple[Doubles, NDArray[np.bool_]]:
        """The class's probability [order, step], views, reversed views, random orders; on which views all is alike."""
        from ..model.partial_images import PartialImages

        draw = np.random.default_rng((self.seed, image_id))
        ties = draw.permutation(self.read.index.spec.patches)
        maps = np.array([self._map(view, image_id, class_id, neurons) for view in self.views])
        views = np.array([np.lexsort((ties, -one)) for one in maps])
        drawn = [draw.permutation(len(ties)) for _ in range(self.random)]
        places = np.argsort(np.concatenate([views, views[:, ::-1], *(one[None] for one in drawn)]), axis=1)
        inner = places[:, None] < self.counts[1:-1, None]  # [order, step, patch]
        ends = places[:1] < self.counts[[0, -1], None]
        partial = PartialImages(self.read.live, image_id, class_id, self.baseline)
        found = partial.probabilities(np.concatenate([ends, inner.reshape(-1, len(ties))]), tell)
        curves = np.empty((self.orders, len(self.counts)))
        curves[:, [0, -1]], curves[:, 1:-1] = found[:2], found[2:].reshape(self.orders, -1)
        return curves, maps.min(1) == maps.max(1)

    def _map(self, view: Ordering, image_id: int, class_id: int, neurons: list[Neuron]) -> Doubles:
        """What orders the patches: the sum of a view over the neurons, [patch]."""
        from ..model.partial_images import by_patch

        grid = self.read.index.spec.grid
        if view == "centre":
            y, x = (np.arange(length) - (length - 1) / 2 for length in grid)
            return -np.add.outer((y / grid[0]) ** 2, (x / grid[1]) ** 2).reshape(-1)
        name = self.read.index.class_name(class_id)
        return by_patch(compute(self.read, view, neurons, [image_id], class_id, name).values[0].sum(0), grid)


def _areas(views: tuple[Ordering, ...], curves: Doubles, shares: Doubles, flat: NDArray[np.bool_]) -> pd.DataFrame:
    """Curves [image, order, step] as areas by the trapezoidal rule: a row a measure and view."""
    areas = ((curves[..., 1:] + curves[..., :-1]) / 2 * np.diff(shares)).sum(2)
    of_random = areas[:, 2 * len(views) :].mean(0)  # [drawing]
    rows = []
    for place, (measure, view) in enumerate(_rows(views)):
        own = areas[:, place]
        row: dict[str, object] = {
            "measure": measure,
            "view": view,
            "n": len(own),
            "area": own.mean(),
            "se": standard_error(own),
        }
        beyond = own.mean() < of_random if measure == "deletion" else own.mean() > of_random
        row |= _beside(of_random) | {"passes": bool(len(beyond)) and bool(beyond.all())}
        rows.append(row | {"flat": flat[:, place % len(views)].mean()})
    return pd.DataFrame(rows)


def _curves(views: tuple[Ordering, ...], curves: Doubles, shares: Doubles) -> pd.DataFrame:
    """Curves [image, order, step] as rows, those of deletion from the whole image on."""
    rows = []
    for place, (measure, view) in enumerate(_rows(views)):
        steps = slice(None, None, -1 if measure == "deletion" else 1)
        gone = 1 - shares if measure == "deletion" else shares
        own, of_random = curves[:, place, steps], curves[:, 2 * len(views) :, steps].mean(0)
        for step, share in enumerate(gone[steps].tolist()):
            row: dict[str, object] = {"measure": measure, "view": view, "step": step, "share": share}
            row |= {"probability": own[:, step].mean(), "se": standard_error(own[:, step])}
            rows.append(row | _beside(of_random[:, step]) | {"n": len(own)})
    return pd.DataFrame(rows)


def _rows(views: tuple[Ordering, ...]) -> list[tuple[Measure, Ordering]]:
    """What the orders of views are, in their places."""
    return [(measure, view) for measure in MEASURES for view in views]


def _beside(of_random: Doubles) -> dict[str, float]:
    """The mean of the random orders, and their ends; NaN without any."""
    if not len(of_random):
        return dict.fromkeys(("random", "random_low", "random_high"), np.nan)
    return {"random": of_random.mean(), "random_low": of_random.min(), "random_high": of_random.max()}


def insertion_deletion_caption(
    index: StoredIndex,
    class_: str | int | None,
    k: int,
    by: Ranking | None,
    baseline: Baseline,
    random: int,
    found: InsertionDeletion,
) -> str:
    """What the tables and the figure show."""
    whose = "every class" if class_ is None else index.class_name(index.class_id(class_))
    ranking = chosen_ranking(index, by, class_)
    first, whole = (found.curves.query("measure == @measure and step == 0").probability.iloc[0] for measure in MEASURES)
    steps, n = int(found.curves.step.max()), int(found.areas.n.iloc[0])
    beside = f"Beside {number_of(random, 'random order')} of each image. " if random else ""
    lines = (
        f"Probability of {whose} as patches are put into its images, or taken out, in the order of views of its "
        f"{first_of(k, 'neuron')} by {ranking}{', summed' if k > 1 else ''}: n = {number_of(n, 'image')}, "
        f"{number_of(steps, 'step')}.",
        f"{beside}Nothing but the baseline ({baseline}): {first:.3f}; the whole image: {whole:.3f}.",
        definitions(("insertion", "deletion", "baseline", "random orders", "centre")),
    )
    return "\n".join(lines)
