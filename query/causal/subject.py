"""Is the answer in the subject? What a class's neurons cause on the object and on the background, beside random ones.

subject_effects(index)                                  # from stored effects alone
subject_effects(index, masks=open_masks(index))         # and exactly: neurons replaced on the object alone, or outside
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.effects import Replace
from ...schemas.errors import QueryError
from ...schemas.numbers_shown import first_of, number_of
from ...schemas.progress import Progress, silent, tracked
from ..drawing.terms import definitions
from ..lookups.averages import mean, standard_error
from ..lookups.class_images import drawn_images
from ..lookups.key_neurons import Ranking, chosen_ranking, named, needs_effects
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex
from .object_masks import ObjectMasks
from .runs import Runs, Steps, Where, counted, random_sets

Doubles = NDArray[np.float64]
REPLACED: dict[Replace, str] = {"mean": "their means", "zero": "zero"}
EXACT_SETS = 3  # of random neurons, replaced exactly
PLACES: tuple[Where, ...] = ("subject", "background")
COLUMNS = ("effect_subject", "effect_background", "effect_prefix", "subject_share")


def subject_effects(
    index: StoredIndex,
    k: int = 10,
    by: Ranking | None = "effect",
    random: int = 19,
    seed: int = 0,
    masks: ObjectMasks | None = None,
    images: int = 20,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How much of what each class's first k neurons cause lies on the object, beside the object's area and chance.

    Neurons of a last block whose patches no head reads cause nothing on patches and are passed over.

    Args:
        k: how many neurons of each class.
        by: what ranks them, as for key_neurons.
        random: sets of as many other neurons of the same layers to compare with.
        seed: draws them.
        masks: of the objects; with them the neurons are also replaced exactly, on the object alone and outside alone.
            Only the effects' own masks count for the estimates.
        images: of each class, for the exact falls.
        weights, device: as for open_model; for the exact falls.
        progress: told classes done, and all of them.

    Returns:
        One row a class that has images with masks: class_id, class, images, neurons; mask_share (the object's mean
        share of the patches); share (mean over the neurons of the part of |effect| on the object, of that on all
        patches, summed over the images); random, random_low, random_high (the same of the random sets: mean, smallest,
        largest); subject, background, prefix (sums of the neurons' mean effects on these tokens, in logits); passes:
        whether share is larger than mask_share and than that of every random set. With masks also fall_subject and
        fall_background (of the class's logit, when all k are replaced there alone), each with its standard error over
        the images (se_subject, se_background) and the mean fall without random sets (random_subject,
        random_background).

    Raises:
        QueryError: no effects, effects without masks, an unknown ranking.

    Example:
        >>> subject_effects(index).query("passes")["class"].tolist()
    """
    at_least(1, k=k, random=random, images=images)
    effects = needs_effects(index)
    effects.must_have(effects.spec.layers[0], "effect_subject")
    by = chosen_ranking(index, by)
    shares = index.sql(
        "SELECT class_id, class, count(*) AS images, avg(mask_share) AS mask_share FROM effect_images "
        "JOIN classes USING (class_id) WHERE mask_share IS NOT NULL AND NOT isnan(mask_share) "
        "GROUP BY ALL ORDER BY class_id"
    )
    exactly = None if masks is None else _Exactly.of(index, masks, images, seed, weights, device)
    rows = []
    for class_id in tracked(shares.class_id.tolist(), progress):
        every = _neurons(index, class_id, by)
        first = np.argsort(-every.value.to_numpy(np.float64), kind="stable")[:k]
        row = {"neurons": len(first), **_beside_random(every, first, random, (seed, class_id))}
        row |= {place: float(every[f"effect_{place}"].iloc[first].sum()) for place in (*PLACES, "prefix")}
        if exactly is not None:
            row |= exactly(class_id, named(every.iloc[first]))
        rows.append(row)
    table = pd.concat([shares, pd.DataFrame(rows)], axis=1)
    table["passes"] = table.share > table[["mask_share", "random_high"]].max(axis=1)
    table.attrs["by"] = by
    return table


def _neurons(index: StoredIndex, class_id: int, by: Ranking) -> pd.DataFrame:
    """All neurons that cause something on patches, with their rank's `value`, in order of blocks and units."""
    last = max(layer.block for layer in index.spec.layers) if index.spec.readout == "token" else -1
    table = index.look_up(
        f"SELECT layer, unit, {by} AS value, {', '.join(COLUMNS)} FROM key_neurons "
        f"WHERE class_id = ? AND subject_share IS NOT NULL AND NOT isnan(subject_share) AND {by} IS NOT NULL "
        "AND block <> ? ORDER BY block, layer, unit",
        [class_id, last],
    )
    if table.empty:
        raise QueryError(f"no neuron of class '{index.class_name(class_id)}' is ranked by {by}", "Choose another --by.")
    return table


def _beside_random(every: pd.DataFrame, first: NDArray[np.int64], random: int, seed: tuple[int, int]) -> dict[str, Any]:
    """The share of some neurons on the object, and of sets of as many others of the same layers."""
    shares, layers = every.subject_share.to_numpy(np.float64), every.layer.to_numpy()
    draw, sums = np.random.default_rng(seed), np.zeros(random)
    for layer, count in zip(*np.unique(layers[first], return_counts=True), strict=True):
        others = np.setdiff1d(np.flatnonzero(layers == layer), first)
        if len(others) < count:
            raise QueryError(f"{layer} has no {count:,} other neurons to compare with", "Ask for fewer neurons: -k.")
        for number in range(random):
            sums[number] += shares[draw.choice(others, count, replace=False)].mean() * count
    drawn, share = sums / len(first), float(shares[first].mean())
    return {"share": share, "random": drawn.mean(), "random_low": drawn.min(), "random_high": drawn.max()}


@dataclass(frozen=True)
class _Exactly:
    """How far a class's logit falls when neurons are replaced on the object alone, and outside alone."""

    runs: dict[Where, Runs]
    masked: NDArray[np.int64]  # the images that have a mask
    images: int
    seed: int

    @classmethod
    def of(
        cls, index: StoredIndex, masks: ObjectMasks, images: int, seed: int, weights: str | Path | None,
        device: str | None,
    ) -> _Exactly:  # fmt: skip
        from ..model.live_model import open_model
        from ..model.replacement import Substitute

        live = open_model(index, weights, device)
        substitute = Substitute(live, needs_effects(index).spec.replace, seed=seed)
        runs = {where: Runs(live, substitute, where, masks) for where in PLACES}
        return cls(runs, masks.images.image_id.to_numpy(np.int64), images, seed)

    def __call__(self, class_id: int, neurons: list[Neuron]) -> dict[str, float]:
        row: dict[str, float] = {}
        for where, runs in self.runs.items():
            index, seed = runs.live.index, (self.seed, class_id)
            own, _ = drawn_images(index, class_id, self.images, self.seed, self.masked)
            sets = [[], neurons, *random_sets(index, counted(neurons), EXACT_SETS, seed)]
            before, *without = runs(class_id, own, own[:0], sets, Steps(runs.cost(len(own), sets), silent))
            fall, *of_random = [before["logit"] - measures["logit"] for measures in without]
            row |= {f"fall_{where}": mean(fall), f"se_{where}": standard_error(fall)}
            row[f"random_{where}"] = mean(np.array([mean(one) for one in of_random]))
        return row


def subject_caption(index: StoredIndex, table: pd.DataFrame, k: int, random: int) -> str:
    """What the table and its figure show."""
    by, effects = table.attrs["by"], index.effects
    assert effects is not None
    last = max(layer.block for layer in index.spec.layers)
    passed = f" Neurons of block {last} are passed over: the head reads token 0, not their patches."
    replaced = REPLACED[effects.spec.replace]
    lines = (
        f"Of what each class's {first_of(k, 'neuron')} by {by} cause on patches, how much lies on the object? "
        f"{table.images.sum():,} images with a mask, {len(table):,} classes, of which {table.passes.sum():,} pass.",
        f"Effects by attribution patching, neurons replaced by {replaced}; beside {number_of(random, 'set')} of as "
        f"many random neurons of the same layers.{passed if index.spec.readout == 'token' else ''}",
        definitions(dict.fromkeys((by, "effect", "share on the object", "random neurons"))),
    )
    return "\n".join(lines)
