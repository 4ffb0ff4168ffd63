"""What the answer loses without some neurons: exact ablation, beside as many random neurons of the same layers.

    ablate(index, "coin", k=10, by="score")                       # without a class's first ten
    ablate(index, "coin", ["blocks.5.mlp.fc1:16"], replace="times:2")

Definitions: docs/concepts/effects.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...schemas.errors import QueryError
from ...schemas.numbers_shown import first_of
from ...schemas.progress import Progress, silent
from ..drawing.terms import definitions
from ..lookups.averages import mean, standard_error
from ..lookups.class_images import drawn_images
from ..lookups.key_neurons import Ranking, chosen_ranking, key_neurons, named, needs_head
from ..stored.names import Neuron, NeuronLike, at_least
from ..stored.stored_index import StoredIndex
from .object_masks import ObjectMasks
from .runs import (
    MEASURES,
    OTHERS,
    WHERES,
    Doubles,
    Ints,
    Runs,
    Steps,
    Where,
    counted,
    random_sets,
)

NAMED = 3  # neurons in a caption


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
        random: how many sets of random neurons to compare with, each of as many neurons of the same layers, drawn of
            all that these have.
        seed: draws them.
        weights, device: see open_model.
        progress: told images done, and all images.

    Returns:
        One row a measure: logit (of the class, minus the mean of all classes' logits), margin (its logit minus the
        largest of another class), probability, accuracy (share of the class's images that the model answers rightly);
        others_logit and others_accuracy: the same on images of other classes, of the class that each of them has.
        Columns measure, n (images), before, after, change (after - before), se (its standard error over the images),
        random (mean change of the random sets), random_low and random_high (the smallest and largest of them), passes:
        the change is larger in size than that of every random set.

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
    runs = Runs(live, Substitute(live, kind, factor, seed), where, masks)
    sets = [[], chosen, *random_sets(index, counted(chosen), random, (seed, class_id))]
    steps = Steps(runs.cost(len(own) + len(others), sets), progress or silent)
    before, after, *of_random = runs(class_id, own, others, sets, steps)
    return _table(before, after, of_random)


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


def _table(
    before: dict[str, Doubles], after: dict[str, Doubles], of_random: Sequence[dict[str, Doubles]]
) -> pd.DataFrame:
    rows = []
    for name in (*MEASURES, *OTHERS):
        change, n = after[name] - before[name], len(after[name])
        drawn = np.array([mean(some[name] - before[name]) for some in of_random])
        low, high = (drawn.min(), drawn.max()) if len(drawn) else (np.nan, np.nan)
        row = {"measure": name, "n": n, "before": mean(before[name]), "after": mean(after[name])}
        row |= {"change": mean(change), "se": standard_error(change)}
        row |= {"random": mean(drawn), "random_low": low, "random_high": high}
        rows.append(row | {"passes": bool(len(drawn)) and abs(mean(change)) > np.abs(drawn).max()})
    return pd.DataFrame(rows)


def chosen_neurons(
    index: StoredIndex, class_id: int, neurons: Sequence[NeuronLike] | None, k: int, by: Ranking | None
) -> str:
    """Which neurons `ablate` replaces, in words."""
    if neurons is None:
        return f"its {first_of(k, 'neuron')} by {chosen_ranking(index, by, class_id)}"
    names = [str(Neuron.of(neuron)) for neuron in neurons]
    return ", ".join(names) if len(names) <= NAMED else f"{len(names):,} neurons"


def ablation_caption(class_name: str, what: str, replace: str, where: Where, table: pd.DataFrame, random: int) -> str:
    """What the table and its figure show."""
    own, others = int(table.n.iloc[0]), int(table.n.iloc[-1])
    place = "" if where == "everywhere" else f", on the {where} alone"
    beside = (
        f"Beside {random:,} set{'s' * (random > 1)} of as many random neurons of the same layers; passes: more than "
        f"all of them, by chance once in {random + 1:,}."
        if random
        else ""
    )
    lines = (
        f"What the answer on {class_name} loses without {what} (replaced by {replace}{place}): "
        f"n = {own:,} of its images, {others:,} of other classes.",
        beside,
        definitions(("ablation", "replacement", "logit of a class", "others_logit", "random neurons")),
    )
    return "\n".join(filter(None, lines))
