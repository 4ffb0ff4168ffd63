"""Which ranking finds the neurons that matter: a class's top k by every ranking removed together, exactly.

    table = compare_rankings(index, ks=(1, 10))           # a row a class, ranking and k
    ranking_means(table)                                  # a row a ranking and k
    ranking_pairs(table, "contribution", "logit")         # every other ranking against one: paired over the classes

Definitions: docs/concepts/effects.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ..lookups.averages import mean
from ..lookups.class_images import drawn_images, labelled_images
from ..lookups.key_neurons import RANKINGS, Ranking, chosen_ranking, key_neurons, named, needs_head
from ..stored.names import Neuron, at_least
from ..stored.stored_index import StoredIndex
from .runs import MEASURES, OTHERS, Doubles, Ints, Runs, Steps, counted, random_sets

if TYPE_CHECKING:
    from numpy.typing import NDArray

Loss = Literal["logit", "margin", "probability", "accuracy", "others_logit", "others_accuracy", "specific"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
RANDOM = "random"  # in place of a ranking: random neurons of the same layers
SIGNIFICANT = 0.05

Set = tuple[Neuron, ...]  # sorted, so that the same neurons are the same set
Case = tuple[Ranking, int]  # a ranking and a k


def compare_rankings(
    index: StoredIndex,
    ks: Sequence[int] = (1, 3, 10, 30),
    classes: Sequence[str | int] | None = None,
    rankings: Sequence[Ranking] | None = None,
    replace: str = "mean",
    images: int = 20,
    random: int = 5,
    limit: int = 50,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What each class's answer loses without its top k neurons by every ranking, by exact forward passes.

    Args:
        ks: how many of a class's first neurons are removed together.
        classes: by name or WordNet id, an int is a row of the head; None for all that have images.
        rankings: which; None for all that the index has.
        replace: what stands in place of the neurons: see ablate.
        images: of each class, and as many of other classes, drawn where there are more.
        random: sets of random neurons beside every set, each of as many neurons of the same layers.
        limit: the most classes, drawn where there are more; those that are named all count.
        seed: draws images, random neurons and classes.
        weights, device: see open_model.
        progress: told images done, and all images; first before any of them runs.

    Returns:
        One row a class, ranking and k: class_id, class, ranking, k, neurons (how many it names), n, n_others (images);
        mean changes (without them - with them) of logit, margin, probability, accuracy, others_logit, others_accuracy
        (see ablate) and specific (logit - others_logit); the same of the random sets, mean over sets, as random_logit
        and so on; accuracy_before, others_accuracy_before.

    Raises:
        QueryError: no head or inputs, unknown classes, rankings or replacement, a ranking that this index lacks.
        ModelError: other weights than those of the index.

    Example:
        >>> compare_rankings(index, ks=(3,), classes=["coin"])[["ranking", "logit", "random_logit"]]
    """
    at_least(1, images=images, limit=limit, **{"k": min(ks, default=0)})
    at_least(0, random=random)
    needs_head(index)
    class_ids, ks = _classes(index, classes, limit, seed), sorted({*ks})
    tops = _tops(index, class_ids, rankings, ks[-1])
    from ..model.live_model import open_model
    from ..model.replacement import Substitute, parsed

    kind, factor = parsed(replace)
    drawn = {class_id: drawn_images(index, class_id, images, seed) for class_id in class_ids}
    plans = [_plan(index, class_id, tops[class_id], ks, random, seed) for class_id in class_ids]
    live = open_model(index, weights, device)
    runs = Runs(live, Substitute(live, kind, factor, seed))
    total = sum(runs.cost(sum(map(len, drawn[plan.class_id])), plan.distinct) for plan in plans)
    steps = Steps(total, progress or silent)
    steps.add(0)
    return pd.DataFrame([row for plan in plans for row in _rows(index, runs, plan, *drawn[plan.class_id], steps)])


@dataclass(frozen=True)
class _Plan:
    """The sets of neurons of a class: of every ranking and k, and random ones of the same layers."""

    class_id: int
    sets: dict[Case, Set]
    random: dict[Case, list[Set]]

    @property
    def distinct(self) -> list[Set]:
        """Every set once, the empty one first: rankings agree in part, and so do the layers of what they name."""
        return list(dict.fromkeys([(), *self.sets.values(), *(one for some in self.random.values() for one in some)]))


def _classes(index: StoredIndex, classes: Sequence[str | int] | None, limit: int, seed: int) -> list[int]:
    if classes is not None:
        if not classes:
            raise QueryError("no classes to compare rankings on", "Name some, or none for all.")
        return list(dict.fromkeys(index.class_id(class_) for class_ in classes))
    all_of_them = np.unique(labelled_images(index).class_id)
    if len(all_of_them) > limit:
        all_of_them = np.sort(np.random.default_rng(seed).choice(all_of_them, limit, replace=False))
    return [int(class_id) for class_id in all_of_them]


def _tops(
    index: StoredIndex, class_ids: Sequence[int], rankings: Sequence[Ranking] | None, k: int
) -> dict[int, dict[Ranking, list[Neuron]]]:
    """Each class's first k neurons by every ranking; without rankings asked for, those that all the classes have."""
    tops: dict[int, dict[Ranking, list[Neuron]]] = {class_id: {} for class_id in class_ids}
    for by in RANKINGS if rankings is None else dict.fromkeys(rankings):
        try:
            chosen_ranking(index, by)
            found = {class_id: named(key_neurons(index, class_id, k, by)) for class_id in class_ids}
        except QueryError:  # the index has none by it
            if rankings is not None:
                raise
            continue
        for class_id, neurons in found.items():
            tops[class_id][by] = neurons
    return tops


def _plan(
    index: StoredIndex, class_id: int, tops: dict[Ranking, list[Neuron]], ks: Sequence[int], random: int, seed: int
) -> _Plan:
    sets = {(by, k): tuple(sorted(neurons[:k])) for by, neurons in tops.items() for k in ks}
    drawn = {
        case: [tuple(sorted(one)) for one in random_sets(index, counted(neurons), random, (seed, class_id))]
        for case, neurons in sets.items()
    }
    return _Plan(class_id, sets, drawn)


def _rows(
    index: StoredIndex, runs: Runs, plan: _Plan, own: Ints, others: Ints, steps: Steps
) -> Iterator[dict[str, object]]:
    """A row a ranking and k of one class."""
    measures = dict(zip(plan.distinct, runs(plan.class_id, own, others, plan.distinct, steps), strict=True))
    before = measures[()]

    def changes(neurons: Set) -> dict[str, float]:
        of = {name: mean(measures[neurons][name] - before[name]) for name in (*MEASURES, *OTHERS)}
        return of | {"specific": of["logit"] - of["others_logit"]}

    for (by, k), neurons in plan.sets.items():
        random = [changes(one) for one in plan.random[by, k]]
        row: dict[str, object] = {"class_id": plan.class_id, "class": index.class_name(plan.class_id)}
        row |= {"ranking": by, "k": k, "neurons": len(neurons), "n": len(own), "n_others": len(others)}
        row |= changes(neurons)
        row |= {f"{RANDOM}_{name}": mean(np.array([one[name] for one in random])) for name in LOSSES}
        yield row | {f"{name}_before": mean(before[name]) for name in ("accuracy", "others_accuracy")}


def ranking_means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the classes of what compare_rankings gives.

    Args:
        table: of compare_rankings.

    Returns:
        One row a ranking and k: ranking, k, classes; of logit, margin, probability, accuracy, others_logit,
        others_accuracy and specific the mean change over the classes, its standard error (logit_se and so on), and the
        mean of the random sets (random_logit and so on).

    Raises:
        KeyError: it is another table.

    Example:
        >>> ranking_means(compare_rankings(index, ks=(1,)))[["ranking", "logit", "logit_se"]]
    """
    groups = table.groupby(["ranking", "k"], sort=False)
    means = groups[[*LOSSES, *(f"{RANDOM}_{name}" for name in LOSSES)]].mean()
    errors = groups[[*LOSSES]].sem().add_suffix("_se")
    columns = [column for name in LOSSES for column in (name, f"{name}_se", f"{RANDOM}_{name}")]
    return groups.size().rename("classes").to_frame().join(means).join(errors)[["classes", *columns]].reset_index()


def ranking_pairs(table: pd.DataFrame, against: str = "contribution", measure: Loss = "logit") -> pd.DataFrame:
    """Every ranking against one of them, class by class: paired tests on what compare_rankings gives.

    Args:
        table: of compare_rankings.
        against: the ranking that the others are compared with; 'random': each with random neurons of its own layers.
        measure: which change is compared: logit, margin, probability, accuracy, others_logit, others_accuracy or
            specific.

    Returns:
        One row a ranking and k: ranking, against, k, classes, difference (mean over the classes of the ranking's change
        minus the other's; below 0 more is lost), low and high (its 95% interval by Student's t), tested (classes in
        which the two differ), p (Wilcoxon signed-rank test, two-sided), p_holm (corrected by Holm for all rows of this
        table), differs (p_holm < 0.05).

    Raises:
        QueryError: a ranking or measure that is not in the table.

    Example:
        >>> ranking_pairs(compare_rankings(index, ks=(10,)), "score")[["ranking", "difference", "p_holm"]]
    """
    compared = [*dict.fromkeys(table.ranking)]
    if against not in (*compared, RANDOM):
        raise QueryError(f"no ranking '{against}' to compare with", f"One of {', '.join([*compared, RANDOM])}.")
    if measure not in LOSSES:
        raise QueryError(f"no measure '{measure}'", f"One of {', '.join(LOSSES)}.")
    values = table.pivot(index="class_id", columns=["ranking", "k"], values=measure)
    by_chance = table.pivot(index="class_id", columns=["ranking", "k"], values=f"{RANDOM}_{measure}")
    rows = []
    for by, k in itertools.product(compared, sorted({*table.k})):
        if by != against:
            other = by_chance[by, k] if against == RANDOM else values[against, k]
            difference = (values[by, k] - other).to_numpy(np.float64)
            rows.append({"ranking": by, "against": against, "k": k, **_paired(difference)})
    pairs = pd.DataFrame(rows, columns=[*PAIRS])
    pairs["p_holm"] = _holm(pairs.p.to_numpy(np.float64))
    return pairs.assign(differs=pairs.p_holm < SIGNIFICANT)


PAIRS = ("ranking", "against", "k", "classes", "difference", "low", "high", "tested", "p")


def _paired(differences: Doubles) -> dict[str, float]:
    """The mean difference, its interval and a signed-rank test, in which classes without any difference say nothing."""
    from scipy.stats import t, wilcoxon  # takes a second to import

    n, told = len(differences), differences[differences != 0]
    mean, error = float(differences.mean()), differences.std(ddof=1) / n**0.5 if n > 1 else np.nan
    reach = float(t.ppf(0.975, n - 1) * error) if n > 1 else np.nan
    p = float(wilcoxon(told).pvalue) if len(told) else np.nan
    return {"classes": n, "difference": mean, "low": mean - reach, "high": mean + reach, "tested": len(told), "p": p}


def _holm(p: Doubles) -> Doubles:
    """Holm's step-down: the smallest p times the number of tests, the next times one less, never falling, at most 1."""
    tested = np.flatnonzero(~np.isnan(p))
    order: NDArray[np.int64] = tested[np.argsort(p[tested])]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * (len(order) - np.arange(len(order)))), 1)
    return corrected
